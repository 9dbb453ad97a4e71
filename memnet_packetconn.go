package udp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// Here a memSocket is a net.PacketConn, like *net.UDPConn.

// opError wraps err as the package net does. It lets nil pass.
func (s *memSocket) opError(op string, addr net.Addr, err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: op, Net: s.network, Source: s.LocalAddr(), Addr: addr, Err: err}
}

func (s *memSocket) setError(err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: opSet, Net: s.network, Addr: s.LocalAddr(), Err: err}
}

func (s *memSocket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.localAddr()) }

func (s *memSocket) Close() error { return s.opError(opClose, nil, s.close()) }

// RemoteAddr returns nil, without a type, where s is not connected.
func (s *memSocket) RemoteAddr() net.Addr {
	if peer := s.remoteAddr(); peer.IsValid() {
		return net.UDPAddrFromAddrPort(peer)
	}
	return nil
}

func (s *memSocket) Read(b []byte) (n int, err error) {
	n, _, err = s.ReadFromUDPAddrPort(b)
	return n, err
}

func (s *memSocket) ReadFrom(b []byte) (n int, addr net.Addr, err error) {
	n, from, err := s.ReadFromUDP(b)
	if err == nil {
		addr = from
	}
	return n, addr, err
}

func (s *memSocket) ReadFromUDP(b []byte) (n int, addr *net.UDPAddr, err error) {
	n, from, err := s.ReadFromUDPAddrPort(b)
	if err == nil {
		addr = net.UDPAddrFromAddrPort(from)
	}
	return n, addr, err
}

func (s *memSocket) ReadFromUDPAddrPort(b []byte) (n int, addr netip.AddrPort, err error) {
	err = s.do(func() error {
		if err := s.await(true); err != nil {
			return err
		}
		d := s.take(1)[0]
		n, addr = copy(b, d.Payload), d.Addr
		return nil
	})
	return n, addr, s.opError(opRead, nil, err)
}

// ReadMsgUDP has no control data for oob.
func (s *memSocket) ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	n, addr, err = s.ReadFromUDP(b)
	return n, 0, 0, addr, err
}

func (s *memSocket) ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error) {
	n, addr, err = s.ReadFromUDPAddrPort(b)
	return n, 0, 0, addr, err
}

func (s *memSocket) Write(b []byte) (int, error) {
	peer := s.remoteAddr()
	if !peer.IsValid() {
		return 0, s.opError(opWrite, nil, syscall.EDESTADDRREQ)
	}
	return s.writeTo(b, peer)
}

func (s *memSocket) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := addrPortOf(addr)
	if !ok {
		return 0, s.opError(opWrite, nil, &net.AddrError{Err: "missing address, or none of UDP", Addr: addrString(addr)})
	}
	return s.WriteToUDPAddrPort(b, to)
}

func (s *memSocket) WriteToUDP(b []byte, addr *net.UDPAddr) (int, error) { return s.WriteTo(b, addr) }

func (s *memSocket) WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error) {
	if s.remoteAddr().IsValid() {
		return 0, s.opError(opWrite, net.UDPAddrFromAddrPort(addr), net.ErrWriteToConnected)
	}
	return s.writeTo(b, addr)
}

// WriteMsgUDP takes no control data. Like that of *net.UDPConn, it takes an
// address if, and only if, s is not connected.
func (s *memSocket) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	var to netip.AddrPort
	if addr != nil {
		to = addr.AddrPort()
	}
	return s.WriteMsgUDPAddrPort(b, oob, to)
}

func (s *memSocket) WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error) {
	switch {
	case len(oob) > 0:
		return 0, 0, s.opError(opWrite, nil, errors.ErrUnsupported)
	case addr.IsValid():
		n, err = s.WriteToUDPAddrPort(b, addr)
	default:
		n, err = s.Write(b)
	}
	return n, 0, err
}

func (s *memSocket) writeTo(b []byte, addr netip.AddrPort) (int, error) {
	addr = unmap(addr)
	err := s.checkWrite(addr)
	if err == nil {
		err = s.write(Datagram{Payload: b, Addr: addr})
	}
	if err != nil {
		return 0, s.opError(opWrite, net.UDPAddrFromAddrPort(addr), err)
	}
	return len(b), nil
}

func (s *memSocket) checkWrite(addr netip.AddrPort) error {
	deadline, err := memGet(s, &s.writeDeadline)
	switch a := addr.Addr(); {
	case err != nil:
		return err
	case !deadline.IsZero() && time.Until(deadline) <= 0:
		return os.ErrDeadlineExceeded
	case !a.Is4() && !a.Is6() || a.Is4() && !s.ip4 || a.Is6() && !s.ip6:
		return &net.AddrError{Err: "not of the socket's family", Addr: a.String()}
	case addr.Port() == 0:
		return syscall.EINVAL
	}
	return nil
}

func (s *memSocket) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

func (s *memSocket) SetReadDeadline(t time.Time) error {
	return s.setError(s.setReadDeadline(t))
}

func (s *memSocket) SetWriteDeadline(t time.Time) error {
	return s.setError(memSet(s, &s.writeDeadline, t))
}

func (s *memSocket) SetReadBuffer(bytes int) error {
	return s.setError(memSet(s, &s.limit, max(bytes, 1)))
}

// SetWriteBuffer changes nothing: what is sent has left.
func (s *memSocket) SetWriteBuffer(int) error {
	return s.setError(s.do(func() error { return nil }))
}
