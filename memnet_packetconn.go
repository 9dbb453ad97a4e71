package udp

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// Here a memSocket is a net.PacketConn, like *net.UDPConn.

func (s *memSocket) opError(op string, addr netip.AddrPort, err error) error {
	return opError(op, s.localAddr(), addr, err)
}

func (s *memSocket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.localAddr()) }

func (s *memSocket) Close() error { return s.opError(opClose, netip.AddrPort{}, s.close()) }

func (s *memSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	n, addr, err := s.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(addr), nil
}

func (s *memSocket) ReadFromUDPAddrPort(b []byte) (n int, addr netip.AddrPort, err error) {
	err = s.do(func() error {
		if err := s.await(); err != nil {
			return err
		}
		d := s.next(1)[0]
		n, addr = copy(b, d.Payload), d.Addr
		s.spare = append(s.spare, d.Payload)
		return nil
	})
	return n, addr, s.opError(opRead, netip.AddrPort{}, err)
}

func (s *memSocket) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, _ := addrPortOf(addr)
	return s.WriteToUDPAddrPort(b, to)
}

func (s *memSocket) WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error) {
	addr = unmap(addr)
	err := s.checkWrite(addr)
	if err == nil {
		err = s.write(Datagram{Payload: b, Addr: addr})
	}
	if err != nil {
		return 0, s.opError(opWrite, addr, err)
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
	case !a.IsValid():
		return &net.AddrError{Err: "missing address"}
	case a.Is4() && !s.ip4 || a.Is6() && !s.ip6:
		return &net.AddrError{Err: "address of another family than the socket's", Addr: a.String()}
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
	return s.opError(opSet, netip.AddrPort{}, s.setReadDeadline(t))
}

func (s *memSocket) SetWriteDeadline(t time.Time) error {
	return s.opError(opSet, netip.AddrPort{}, memSet(s, &s.writeDeadline, t))
}

func (s *memSocket) SetReadBuffer(bytes int) error {
	if bytes <= 0 {
		return s.opError(opSet, netip.AddrPort{}, syscall.EINVAL)
	}
	return s.opError(opSet, netip.AddrPort{}, memSet(s, &s.limit, bytes))
}

// SetWriteBuffer changes nothing: what is sent has left.
func (s *memSocket) SetWriteBuffer(int) error {
	return s.opError(opSet, netip.AddrPort{}, s.do(func() error { return nil }))
}
