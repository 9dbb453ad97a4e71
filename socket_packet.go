package udp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// packetSocket is a socket over a net.PacketConn that this package knows
// nothing about. Reads hold one buffer; addresses that are not *net.UDPAddr
// cost allocations.
type packetSocket struct {
	plainSocket
	conn  net.PacketConn
	local netip.AddrPort
	max   int
	buf   []byte // of the Conn's goroutine, as is ds
	ds    [1]Datagram
}

func newPacketSocket(pc net.PacketConn, maxDatagram int) (*packetSocket, error) {
	local, ok := addrPortOf(pc.LocalAddr())
	if !ok {
		return nil, &net.AddrError{Err: "not a UDP socket", Addr: addrString(pc.LocalAddr())}
	}
	return &packetSocket{conn: pc, local: unmap(local), max: maxDatagram, buf: make([]byte, readBuffer)}, nil
}

func (s *packetSocket) localAddr() netip.AddrPort         { return s.local }
func (s *packetSocket) families() (ip4, ip6 bool)         { return familiesOf(s.local.Addr()) }
func (s *packetSocket) release()                          {}
func (s *packetSocket) setReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }
func (s *packetSocket) dropped() uint64                   { return 0 }
func (s *packetSocket) close() error                      { return s.conn.Close() }

func (s *packetSocket) syscallConn() (syscall.RawConn, error) {
	if sc, ok := s.conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

func (s *packetSocket) read(wait time.Duration) ([]Datagram, error) {
	if wait != forever {
		if err := s.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return nil, os.ErrDeadlineExceeded
		}
	}
	n, addr, err := s.conn.ReadFrom(s.buf)
	if err != nil {
		return nil, err
	}
	peer, _ := addrPortOf(addr)
	if ip4, _ := s.families(); ip4 {
		peer = unmap(peer)
	}
	s.ds[0] = Datagram{Addr: peer}
	s.ds[0].keep(s.buf[:n], s.max)
	if !s.local.Addr().IsUnspecified() {
		s.ds[0].Local = s.local.Addr()
	}
	return s.ds[:], nil
}

func (s *packetSocket) write(d Datagram) error {
	_, err := s.conn.WriteTo(d.Payload, net.UDPAddrFromAddrPort(d.Addr))
	return err
}
