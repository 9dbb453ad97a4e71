package udp

import (
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

func (s *memSocket) ReadFrom(b []byte) (n int, addr net.Addr, err error) {
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
		d := s.next(1)[0]
		n, addr = copy(b, d.Payload), d.Addr
		s.spare = append(s.spare, d.Payload)
		return nil
	})
	return n, addr, s.opError(opRead, nil, err)
}

func (s *memSocket) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := addrPortOf(addr)
	if !ok {
		return 0, s.opError(opWrite, nil, &net.AddrError{Err: "missing address, or none of UDP", Addr: addrString(addr)})
	}
	return s.WriteToUDPAddrPort(b, to)
}

func (s *memSocket) WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error) {
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
