package udp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// udpSocket is the kernel's socket, by way of the package net: one datagram
// for each system call, on every system. Where there is something faster, it
// is built on top of this one (accelerate).
type udpSocket struct {
	plainSocket
	conn      *net.UDPConn
	raw       syscall.RawConn
	max       int                            // MaxDatagram
	local     atomic.Pointer[netip.AddrPort] // changes as the socket is connected and disconnected
	peer      atomic.Pointer[netip.AddrPort] // nil: not connected
	origin    *net.UDPConn                   // of which conn is a duplicate; nil: it is not
	dialed    bool                           // net connected it, and refuses addresses on writes
	is6       bool                           // the descriptor is AF_INET6, and takes IPv4 addresses mapped
	ip4       bool                           // can send to IPv4
	bound     netip.Addr                     // the one address that it is bound to; zero: all
	tells4    bool                           // the system says with each IPv4 datagram where it was sent to
	drops     dropCount
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

func newUDPSocket(conn *net.UDPConn, maxDatagram int) (*udpSocket, error) {
	s := &udpSocket{conn: conn, max: maxDatagram}
	if netConnected(conn) {
		if dup, err := duplicate(conn); err == nil {
			s.conn, s.origin = dup, conn
		} else {
			s.dialed = true
		}
	}
	err := s.open()
	if err != nil && s.origin != nil {
		s.conn.Close()
	}
	return s, err
}

func (s *udpSocket) open() (err error) {
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		return err
	}
	local, ok := addrPortOf(s.conn.LocalAddr())
	if !ok {
		return net.ErrClosed
	}
	// An IPv4 socket has IPv4 addresses, anything else is an IPv6 socket.
	s.is6 = !local.Addr().Is4()
	s.ip4 = !s.is6 || local.Addr().Is4In6() || local.Addr().IsUnspecified() && !onlyIPv6(s.raw)
	s.setLocal(unmap(local))
	if peer, ok := addrPortOf(s.conn.RemoteAddr()); ok {
		peer = unmap(peer)
		index, _ := s.zoneIndex(peer.Addr())
		s.peerIndex.Store(int64(index))
		s.peer.Store(&peer)
	} else if !local.Addr().IsUnspecified() {
		s.bound = unmap(local).Addr()
	}
	if err := s.askForControl(); err != nil {
		return err
	}
	if !s.bound.IsValid() {
		ownGroupsOnly(s.raw, s.is6)
	}
	s.drops.start(s)
	return nil
}

// duplicate returns the same socket by another descriptor, which net does not
// take for connected, even though it is.
func duplicate(conn *net.UDPConn) (*net.UDPConn, error) {
	f, err := conn.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	pc, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// netConnected reports whether the package net takes conn for connected: a
// socket that came by a file may have a peer all the same. A write to no
// address shows it: net refuses it before any system call, for either reason.
func netConnected(conn *net.UDPConn) bool {
	_, err := conn.WriteToUDPAddrPort(nil, netip.AddrPort{})
	return errors.Is(err, net.ErrWriteToConnected)
}

// askForControl asks the system to tell with each datagram what can differ
// from one to the next. A system that cannot tell leaves it unknown.
func (s *udpSocket) askForControl() error {
	flags4, flags6 := ipv4.FlagTTL, ipv6.FlagHopLimit
	if !s.bound.IsValid() {
		flags4 |= ipv4.FlagDst | ipv4.FlagInterface
		flags6 |= ipv6.FlagDst | ipv6.FlagInterface
	}
	var err error
	if s.is6 {
		err = ipv6.NewPacketConn(s.conn).SetControlMessage(flags6, true)
	}
	if s.ip4 {
		err4 := ipv4.NewPacketConn(s.conn).SetControlMessage(flags4, true)
		s.tells4 = runtime.GOOS == "linux" && err4 == nil && !s.bound.IsValid() // others drop what is forged
		if !s.is6 {
			err = err4
		}
	}
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (s *udpSocket) localAddr() netip.AddrPort         { return *s.local.Load() }
func (s *udpSocket) setLocal(a netip.AddrPort)         { s.local.Store(&a) }
func (s *udpSocket) families() (ip4, ip6 bool)         { return s.ip4, s.is6 && !s.bound.Is4() }
func (s *udpSocket) release()                          {}
func (s *udpSocket) setReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }
func (s *udpSocket) dropped() uint64                   { return s.drops.read(s) }

func (s *udpSocket) syscallConn() (syscall.RawConn, error) { return s.conn.SyscallConn() }

func (s *udpSocket) close() error {
	s.drops.read(s) // for Stats after this
	if s.origin != nil {
		s.origin.Close()
	}
	return s.conn.Close()
}

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
		if scope = d.Interface; scope == 0 {
			scope, _ = s.zoneIndex(a)
		}
	}
	s.addZones(d, scope)
	return s.in.ds[:], nil
}

// markForged gives d its source as an IPv4 address mapped into IPv6 again, if
// that is how it stood in the packet: IPv6 datagrams have no such source
// (RFC 4291, section 2.5.5.2), but Linux lets them in. They come by a socket
// that takes no IPv4, or without the destination that an IPv4 datagram has.
func (s *udpSocket) markForged(d *Datagram) {
	if s.is6 && (!s.ip4 || s.tells4) && d.Addr.Addr().Is4() && !d.Local.Is4() {
		d.Addr = netip.AddrPortFrom(netip.AddrFrom16(d.Addr.Addr().As16()), d.Addr.Port())
	}
}

func (s *udpSocket) write(d Datagram) error {
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
	oob := s.packetInfo(space[:0], &d, d.Addr.Addr(), scope)
	_, _, err = s.conn.WriteMsgUDPAddrPort(d.Payload, oob, d.Addr)
	return err
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
	if d.Interface == 0 && (d.Local == s.bound || !d.Local.IsValid()) {
		return oob // the most frequent case, first
	}
	source, index := d.leave(peer)
	if index == 0 && (!source.IsValid() || source == s.bound) {
		return oob
	}
	if !source.IsValid() {
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

// remoteAddr is the peer, its zone as a number.
func (s *udpSocket) remoteAddr() netip.AddrPort {
	p := s.peer.Load()
	switch {
	case p == nil:
		return netip.AddrPort{}
	case p.Addr().Zone() != "":
		return netip.AddrPortFrom(p.Addr().WithZone(strconv.FormatInt(s.peerIndex.Load(), 10)), p.Port())
	}
	return *p
}

func (s *udpSocket) connect(peer netip.AddrPort) (netip.AddrPort, error) {
	index, err := s.zoneIndex(peer.Addr())
	if err != nil {
		return netip.AddrPort{}, err
	}
	local, peer, err := connectSocket(s.raw, s.localAddr(), s.remoteAddr(), peer, s.is6)
	if err != nil {
		return netip.AddrPort{}, err
	}
	s.setLocal(local)
	s.peerIndex.Store(int64(index))
	s.peer.Store(&peer)
	return peer, nil
}

func (s *udpSocket) disconnect() error {
	if s.dialed {
		// net will not send it to an address any more.
		return errors.ErrUnsupported
	}
	local, err := disconnectSocket(s.raw, s.localAddr(), s.is6)
	if err != nil {
		return err
	}
	s.setLocal(local)
	s.peer.Store(nil)
	return nil
}

func (s *udpSocket) pending() syscall.Errno { return pendingError(s.raw) }

// keepPort makes a port that the system chose like one that was asked for:
// it then stays when the socket is disconnected (Linux).
func (s *udpSocket) keepPort() error {
	if writeNamesPeer {
		return s.disconnect()
	}
	return nil
}
