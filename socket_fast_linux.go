//go:build linux && !udpbasic

package udp

import (
	"net"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fastSocket is the kernel's socket by its own system calls: many datagrams
// for each (recvmmsg(2), sendmmsg(2)), and those of one peer as one, which the
// kernel or the network card cuts and joins (UDP_SEGMENT, UDP_GRO: udp(7)).
//
// Brief calls are made by RawSyscall, which does not tell Go's scheduler: that
// would take some tenths of a microsecond for each, and have the runtime's
// monitor look after each that takes more than 20. What it costs is that until
// such a call returns, its thread runs nothing else, and a garbage collection
// that is to start waits for it. So only calls that never wait are made that
// way, and of batches only those that take a tenth of a millisecond or two.
// MSG_DONTWAIT makes sure of it, as a descriptor that others share may be in
// blocking mode (os.File.Fd puts it there).
type fastSocket struct {
	udpSocket
	segments segmentLimits
	asked    atomic.Bool // askToSegment has been called
	single   atomic.Bool // sendmmsg is refused: one message for each call
	corrupts bool        // the kernel corrupts segments

	// Of the Conn's goroutine.
	receive    func(fd uintptr) bool // s.receiveOnce, made once
	receiveNow func(fd uintptr)      // likewise, for a read that does not wait
	plain      bool                  // reads one message a call, as recvmmsg is refused
	class      int                   // how much to read: an index of readClasses
	idle       bool                  // it has not been read from
	joins      bool                  // it is to have the kernel join datagrams
	singles    int                   // reads in a row that waited for one datagram
	waited     bool                  // nothing was there when this read began
	batch      *readBatch            // what is lent to the handler; nil: nothing
	err        error
}

// newSystemSocket makes a socket of conn, as udpSocket.open does.
func newSystemSocket(conn *net.UDPConn, lc *ListenConfig, network string) (socket, error) {
	s := &fastSocket{idle: true}
	s.receive = s.receiveOnce
	err := s.open(conn, lc, network)
	s.dialed = false // the system calls made here need no leave of package net
	return s, err
}

func (s *fastSocket) setUp(lc *ListenConfig) error {
	if lc.NoOffload || offloadUnwanted() {
		s.segments.off.Store(true)
		s.raw.Control(func(fd uintptr) { // where it was inherited
			unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 0)
		})
	} else {
		s.joins = true
		s.corrupts = corruptsSegments(kernelRelease())
		s.segments.off.Store(s.corrupts)
	}
	return s.udpSocket.setUp(lc)
}

// askToSegment asks whether the kernel knows UDP_SEGMENT, before the first
// batch. Those that do not ignore it in a control message, and send one
// datagram instead of many (before 4.18).
func (s *fastSocket) askToSegment() {
	s.raw.Control(func(fd uintptr) {
		if _, err := unix.GetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT); err != nil {
			s.segments.off.Store(true)
		}
	})
	s.asked.Store(true)
}

// joinDatagrams has the kernel join the datagrams of one peer, since 5.0. It
// is not asked before several have come at once, as the first such socket of a
// system, and the last, cost it much.
func (s *fastSocket) joinDatagrams(fd uintptr) {
	s.joins = false
	unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1)
}

// notice says that the kernel is one that corrupts segments.
func (s *fastSocket) notice() string {
	if s.corrupts {
		return "no segmentation offload, as Linux " + kernelRelease() + " corrupts segments"
	}
	return ""
}

// mmsghdr is struct mmsghdr of recvmmsg(2), which x/sys does not have.
type mmsghdr struct {
	hdr  unix.Msghdr
	size uint32
}

// A rawName is a socket address as the kernel writes and reads it, of either
// family.
type rawName = unix.RawSockaddrInet6

// decodeName returns the address in name, unmapped, and instead of its zone the
// index of that interface; zero: it has none.
func decodeName(name *rawName) (addr netip.AddrPort, scope int) {
	if name.Family == unix.AF_INET {
		name4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(name4.Addr), swap16(name4.Port)), 0
	}
	return netip.AddrPortFrom(netip.AddrFrom16(name.Addr).Unmap(), swap16(name.Port)), int(name.Scope_id)
}

// encodeName puts a into name, mapped on an IPv6 socket, and returns its
// length. The scope is the index of the interface that the zone of a names.
func (s *fastSocket) encodeName(name *rawName, a netip.AddrPort, scope int) uint32 {
	if !s.is6 {
		name4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		*name4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: swap16(a.Port()), Addr: a.Addr().As4()}
		return unix.SizeofSockaddrInet4
	}
	*name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: swap16(a.Port()), Addr: a.Addr().As16(), Scope_id: uint32(scope)}
	return unix.SizeofSockaddrInet6
}

// swap16 turns a port from the network's byte order into the host's, or back.
func swap16(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port))
	return uint16(b[0])<<8 | uint16(b[1])
}
