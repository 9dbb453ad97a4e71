package udp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// udpSocket is the kernel's socket, by way of the package net: one datagram
// for each system call, on every system. Where there is something faster, it
// is built on top of this one (newSystemSocket).
type udpSocket struct {
	plainSocket
	conn         *net.UDPConn
	raw          syscall.RawConn
	max          int                            // MaxDatagram
	local        atomic.Pointer[netip.AddrPort] // changes as the socket is connected and disconnected
	first        netip.AddrPort                 // what local points to at first: an allocation less
	peer         atomic.Pointer[netip.AddrPort] // the system's, which may not be the Conn's; nil: none
	dialed       bool                           // package net refuses addresses on writes
	is6          bool                           // the descriptor is AF_INET6, and takes IPv4 addresses mapped
	ip4          bool                           // can send to IPv4
	bound        netip.Addr                     // the one address that it is bound to, without its zone; zero: all
	link         int                            // the index of the interface that the zone of that address names
	keepsReports bool                           // the system does, apart from the errors of reads and writes
	tells4       bool                           // the system says with each IPv4 datagram where it was sent to
	drops        dropCount

	// changing is locked to change the peer, the port or the device, and
	// read-locked by each system call that sends: in between, the system
	// would give a write another port.
	changing sync.RWMutex
	device   int // under changing: the index of the interface that it is bound to; zero: none

	writeTimeout time.Duration // of ListenConfig
	writing      chan struct{} // has room for the one that waits until writeTimeout; nil: none does

	ownGroups atomic.Bool // ownGroupsOnly has been called
	quiet     atomic.Bool // nothing had arrived when it was first read from, nor has since
	// mixed: what waits in the socket may have come by another interface than
	// device, before it was bound to that. It is so no more when nothing waits.
	mixed atomic.Bool

	namesSource atomic.Bool // writes must name their source (leaveShare)

	groupsBy  atomic.Int64 // setMulticastInterface
	zones     zones
	peerIndex atomic.Int64 // of the interface that the zone of peer names; zero: it has none
	in        *singleRead  // of the Conn's goroutine; nil until the first read
}

// A singleRead is the memory for reading one datagram at a time. Other than
// faster ways, this one holds it while it waits.
type singleRead struct {
	payload [readBuffer]byte
	control [controlSpace]byte
	ds      [1]Datagram
}

// open makes s a socket of conn, with the settings of lc. The network is
// what package net was asked for, if it has opened conn just now and nobody
// else has seen it; empty: whatever may have been done to conn is to be asked.
func (s *udpSocket) open(conn *net.UDPConn, lc *ListenConfig, network string) (err error) {
	s.conn, s.max, s.writeTimeout = conn, lc.MaxDatagram, lc.WriteTimeout
	if lc.WriteTimeout != 0 {
		s.writing = make(chan struct{}, 1)
	}
	if s.raw, err = conn.SyscallConn(); err != nil {
		return err
	}
	local, ok := addrPortOf(conn.LocalAddr())
	if !ok {
		return net.ErrClosed
	}
	fresh := network != ""
	// An IPv4 socket has IPv4 addresses, anything else is an IPv6 socket.
	s.is6 = !local.Addr().Is4()
	s.ip4 = !s.is6 || local.Addr().Is4In6()
	if local.Addr() == netip.IPv6Unspecified() {
		s.ip4 = network == "udp" && runtime.GOOS == "linux" || network != "udp6" && !s.onlyIPv6()
	}
	s.first = unmap(local)
	s.local.Store(&s.first)
	if local.Addr().Zone() != "" { // what net takes for the name may be another namespace's
		local = s.askLocalAddr()
		s.setLocal(local)
	}
	if peer, ok := addrPortOf(conn.RemoteAddr()); ok {
		peer = unmap(peer)
		index, _ := s.zoneIndex(peer.Addr())
		s.peerIndex.Store(int64(index))
		s.peer.Store(&peer)
		s.dialed = netConnected(conn)
	} else if !local.Addr().IsUnspecified() {
		s.bound = unmap(local).Addr().WithZone("")
		s.link, _ = s.zoneIndex(local.Addr())
	}
	if !fresh || local.Addr().Zone() != "" {
		s.rememberDevice()
	}
	s.drops.start(s, fresh)
	return nil
}

// netConnected reports whether the package net takes conn for connected: a
// socket that came by a file may have a peer all the same. A write to no
// address shows it: net refuses it before any system call, for either reason.
func netConnected(conn *net.UDPConn) bool {
	_, err := conn.WriteToUDPAddrPort(nil, netip.AddrPort{})
	return errors.Is(err, net.ErrWriteToConnected)
}

func (s *udpSocket) setLocal(a netip.AddrPort)         { s.local.Store(&a) }
func (s *udpSocket) families() (ip4, ip6 bool)         { return s.ip4, s.is6 && !s.bound.Is4() }
func (s *udpSocket) release()                          {}
func (s *udpSocket) setReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }
func (s *udpSocket) dropped() uint64                   { return s.drops.read(s) }

func (s *udpSocket) syscallConn() (syscall.RawConn, error) { return s.conn.SyscallConn() }

// localAddr asks the system as long as the socket has no port: one that was
// opened elsewhere may be bound by its first write.
func (s *udpSocket) localAddr() netip.AddrPort {
	a := *s.local.Load()
	if a.Port() == 0 {
		if now := s.askLocalAddr(); now.Port() != 0 {
			s.setLocal(now)
			return now
		}
	}
	if a.Addr().Zone() == "" {
		return a
	}
	if s.bound.IsValid() {
		return s.renewZone(a, s.link)
	}
	return s.renewZone(a, int(s.peerIndex.Load())) // an address of the way to the peer
}

func (s *udpSocket) close() error {
	if !s.quiet.Load() {
		s.drops.read(s) // for Stats after this
	}
	return s.conn.Close()
}

func (s *udpSocket) drain() { s.leaveShare() }

func (s *udpSocket) read(wait time.Duration) ([]Datagram, error) {
	if s.in == nil {
		s.in = new(singleRead)
	}
	if wait != forever {
		if err := s.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return nil, os.ErrDeadlineExceeded
		}
	}
	n, controln, _, addr, err := s.conn.ReadMsgUDPAddrPort(s.in.payload[:], s.in.control[:])
	if err != nil {
		s.restoreAfter(errnoOf(err))
		return nil, err
	}
	d := &s.in.ds[0]
	*d = Datagram{Addr: unmap(addr), Local: s.bound}
	d.keep(s.in.payload[:n], s.max)
	parseControl(s.in.control[:controln], d)
	s.markForged(d)
	scope := 0
	if a := d.Addr.Addr(); a.Zone() != "" {
		// Package net asks for names once a minute, and in the namespace of
		// the thread. A link-local source is on the link that d came in by.
		// So is what comes to a socket of one link-local address.
		scope = d.Interface
		if scope == 0 && s.bound.IsLinkLocalUnicast() {
			s.changing.RLock()
			scope = s.device
			s.changing.RUnlock()
		}
		if scope == 0 {
			scope, _ = s.zoneIndex(a)
		}
	}
	s.addZones(d, scope)
	return s.in.ds[:], nil
}

// markForeign marks d as one that the handler is not to have, if it came by
// another interface than the socket is bound to, or nobody knows by which.
func (s *udpSocket) markForeign(d *Datagram) {
	s.changing.RLock()
	defer s.changing.RUnlock()
	if s.device != 0 && d.Interface != s.device {
		d.Interface = foreignInterface
	}
}

// foreignInterface is the Interface of a datagram that is to be discarded.
const foreignInterface = -1

// markForged gives d its source as an IPv4 address mapped into IPv6 again, if
// that is how it stood in the packet: IPv6 datagrams have no such source
// (RFC 4291, section 2.5.5.2), but Linux lets them in. They come by a socket
// that takes no IPv4, or without the destination that an IPv4 datagram has.
func (s *udpSocket) markForged(d *Datagram) {
	if s.is6 && (!s.ip4 || s.tells4) && d.Addr.Addr().Is4() && !d.Local.Is4() {
		d.Addr = netip.AddrPortFrom(netip.AddrFrom16(d.Addr.Addr().As16()), d.Addr.Port())
	}
}

// waitToSend calls send when there is room in the send buffer, until it says
// that it has sent, or failed: for as long as writeTimeout allows, of which the
// deadline of the caller is made when it waits for the first time.
func (s *udpSocket) waitToSend(send func(fd uintptr) bool, deadline *time.Time) error {
	switch {
	case s.writeTimeout == 0:
		return s.raw.Write(send)
	case s.writeTimeout < 0:
		return os.ErrDeadlineExceeded
	case deadline.IsZero():
		*deadline = time.Now().Add(s.writeTimeout)
	}
	return s.writeUntil(*deadline, func() error { return s.raw.Write(send) })
}

// writeUntil calls write with the write deadline of the socket. As there is
// one for all writers, only one of them waits by it; the others wait for their
// turn, each until its own deadline.
func (s *udpSocket) writeUntil(deadline time.Time, write func() error) error {
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case s.writing <- struct{}{}:
	case <-t.C:
		return os.ErrDeadlineExceeded
	}
	defer func() { <-s.writing }()
	if err := s.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	defer s.conn.SetWriteDeadline(time.Time{})
	return write()
}

// shortestWait is what a WriteTimeout below zero means to package net, which
// does not try to write when the deadline is over.
const shortestWait = time.Millisecond

func (s *udpSocket) write(d Datagram) error {
	if s.writeTimeout == 0 {
		return s.writeRestored(d)
	}
	timeout := s.writeTimeout
	if timeout < 0 {
		timeout = shortestWait
	}
	return s.writeUntil(time.Now().Add(timeout), func() error { return s.writeRestored(d) })
}

// writeRestored writes again, if the socket had to be restored.
func (s *udpSocket) writeRestored(d Datagram) error {
	err := s.writeOnce(d)
	if err != nil && s.restoreAfter(errnoOf(err)) {
		err = s.writeOnce(d)
	}
	return err
}

func (s *udpSocket) writeOnce(d Datagram) error {
	s.changing.RLock()
	defer s.changing.RUnlock()
	if s.dialed || !writeNamesPeer && s.peer.Load() != nil {
		_, err := s.conn.Write(d.Payload)
		return err
	}
	scope, err := s.scope(d.Addr.Addr())
	if err != nil {
		return err
	}
	if scope != 0 { // as a number: what net knows of names may be a minute old
		d.Addr = netip.AddrPortFrom(d.Addr.Addr().WithZone(strconv.Itoa(scope)), d.Addr.Port())
	}
	var space [controlSpace]byte
	oob := s.appendControl(space[:0], &d, d.Addr.Addr(), scope)
	_, _, err = s.conn.WriteMsgUDPAddrPort(d.Payload, oob, d.Addr)
	return err
}

// appendControl appends to oob the control messages that a datagram to send
// needs on its way to peer: none, for most.
func (s *udpSocket) appendControl(oob []byte, d *Datagram, peer netip.Addr, scope int) []byte {
	oob = s.packetInfo(oob, d, peer, scope)
	if d.TrafficClass != 0 {
		oob = appendTrafficClass(oob, d.TrafficClass, peer.Is4(), s.is6)
	}
	return oob
}

// packetInfo appends to oob the control message that makes d leave from its
// Local by its Interface on the way to peer, where the system would not do so
// by itself. The scope is the index of the interface that the zone of peer
// names. The system looks at that zone for addresses of a link only, not for
// groups that routers forward.
func (s *udpSocket) packetInfo(oob []byte, d *Datagram, peer netip.Addr, scope int) []byte {
	if scope != 0 && d.Interface == 0 && peer.IsMulticast() && !peer.IsLinkLocalMulticast() {
		byZone := *d
		byZone.Interface = scope
		d = &byZone
	}
	if s.namesSource.Load() && !d.Local.IsValid() {
		named := *d
		named.Local = routeSource(netip.AddrPortFrom(peer, d.Addr.Port()))
		d = &named
	}
	if d.Interface == 0 && (d.Local == s.bound || !d.Local.IsValid()) {
		return oob // the most frequent case, first
	}
	source, index := d.leave(peer)
	if index == 0 && (!source.IsValid() || source == s.bound) {
		return oob
	}
	if !source.IsValid() && !s.bound.IsMulticast() {
		// With an index alone, the system takes one of that interface's
		// addresses, even where the socket is bound to another.
		source = s.bound
	}
	return appendPacketInfo(oob, source, index, peer.Is4(), s.is6)
}

// leave returns what to tell the system about where d is to leave for peer. The index
// goes along only where it is needed: for a peer or a source that is on a
// link, not in the routing table; elsewhere the way back from a source is the
// table's to choose.
func (d *Datagram) leave(peer netip.Addr) (source netip.Addr, index int) {
	source, index = d.Local.Unmap().WithZone(""), d.Interface
	switch {
	case source.IsMulticast() || source == broadcast:
		source = netip.Addr{} // of the addresses of that interface, the system knows the right one
	case routable(source) && routable(peer):
		index = 0
	}
	return source, index
}

// broadcast is the limited broadcast address (RFC 919).
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func routable(a netip.Addr) bool {
	return a.IsValid() && !a.IsMulticast() && !a.IsLinkLocalUnicast() && a != broadcast
}

func (s *udpSocket) pending() syscall.Errno { return pendingError(s.raw) }

func boolInt(on bool) int {
	if on {
		return 1
	}
	return 0
}
