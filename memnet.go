package udp

import (
	"context"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A MemNet is a network in memory, for the tests of programs that use this
// package: as the PacketListener of a [ListenConfig] it takes the place of
// the operating system. The zero value loses nothing and takes no time. Its
// fields are for faults; they must not change while a datagram is sent.
//
// It works in a bubble of testing/synctest, by the bubble's clock: it has no
// goroutines, blocks durably, and keeps no timer when all its sockets are
// closed. As long as one is open, only the bubble in which it was opened may
// use the MemNet: what is outside of bubbles panics, and for another bubble
// Go ends the program.
//
// Its sockets do what the system's do on Linux, as far as memory goes: ports
// are taken and shared, receive queues overflow, and who sends is told where
// nobody listens when the datagram arrives. Beside that:
//
// Hosts: sockets opened by the MemNet itself are on a host that has every
// address. A socket of all of them sends to loopback addresses from 127.0.0.1
// or ::1, to others from 192.0.2.1 or 2001:db8::1. Host adds further hosts,
// which have those addresses that they are given. Each has loopback addresses
// of its own.
//
// Interfaces: each host is on the same links, by interfaces with an index of
// 1 to 65535. What is sent to a group by one of them arrives at those who have
// joined the group there, or without naming an interface. What does not name
// one is sent by the first.
//
// A datagram to 255.255.255.255 arrives at all sockets of all IPv4 addresses
// that listen on the port. Names are not looked up.
type MemNet struct {
	// Drop reports whether a datagram is lost on the way; one to a group is
	// lost for all its members.
	//
	// Drop, Copies and Delay are called in this order when a datagram is
	// sent, in the goroutine that sends it, and never two at a time, so that
	// they may share a source of random numbers. They must not block, send,
	// or keep the payload.
	Drop func(from, to netip.AddrPort, payload []byte) bool

	// Delay returns how long a datagram takes; it is asked for each copy.
	// Different delays reorder. A Delay below zero panics.
	Delay func(from, to netip.AddrPort, payload []byte) time.Duration

	// Copies returns how many more of a datagram arrive: 1 duplicates it. A
	// number below zero panics.
	Copies func(from, to netip.AddrPort, payload []byte) int

	// MTU is the longest payload in bytes that can be sent. If zero, 65507
	// is used, the longest that fits into IPv4.
	MTU int

	asking sync.Mutex // one call of the functions above at a time

	// mu guards what follows, and the sockets. It is held for moments, as to
	// wait for it does not block durably.
	mu       sync.Mutex
	hosts    []*memHost
	ports    map[uint16][]*memSocket // in the order of binding
	open     int                     // how many sockets
	nextPort uint16
	flights  []*flight // under way, in the order of arrival
	timer    *time.Timer
	bubbled  bool          // those open are in a bubble,
	bubble   chan struct{} // in which this was made
}

// A memHost is a host of a MemNet; nil is the one that has every address but
// the others'.
type memHost struct {
	net   *MemNet
	addrs []netip.Addr
}

// A flight is a datagram under way, as its receivers are to see it.
type flight struct {
	Datagram
	port uint16 // of Local
	from *memSocket
	loop bool // if to a group, also to from's host
	due  time.Time
}

const (
	memMTU           = 65507
	memInterfaces    = 65535
	firstDynamicPort = 49152 // RFC 6335, section 6
)

var (
	_ sharingListener = (*MemNet)(nil)
	_ sharingListener = (*memHost)(nil)
)

// Host adds a host with these addresses to the network, and returns what
// opens sockets on it: several instances of a program that listens on all
// addresses of its host can share a MemNet so. A socket of all addresses sends
// from the first of the family. Addresses that are no host's, or another
// host's, panic.
func (n *MemNet) Host(addrs ...netip.Addr) PacketListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addrs {
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == broadcast || n.hostOf(a) != nil {
			panic(fmt.Sprintf("udp: MemNet.Host: %v cannot be the address of a new host", a))
		}
	}
	h := &memHost{net: n, addrs: slices.Clone(addrs)}
	n.hosts = append(n.hosts, h)
	return h
}

// ListenPacket opens a socket, as [net.ListenPacket] does, but for names in
// the address. The socket is a net.PacketConn that also programs can use which
// do not know this package.
func (n *MemNet) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return n.listen(ctx, nil, network, address, 0)
}

func (n *MemNet) listenShared(ctx context.Context, network, address string, how sharing) (net.PacketConn, error) {
	return n.listen(ctx, nil, network, address, how)
}

func (h *memHost) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return h.net.listen(ctx, h, network, address, 0)
}

func (h *memHost) listenShared(ctx context.Context, network, address string, how sharing) (net.PacketConn, error) {
	return h.net.listen(ctx, h, network, address, how)
}

func (n *MemNet) listen(ctx context.Context, h *memHost, network, address string, how sharing) (net.PacketConn, error) {
	at, err := memAddr(ctx, network, address)
	if err != nil {
		return nil, &net.OpError{Op: opListen, Net: network, Err: err}
	}
	s := newMemSocket(n, h, network, at, how)
	if err := n.bind(s); err != nil {
		return nil, &net.OpError{Op: opListen, Net: network, Addr: net.UDPAddrFromAddrPort(at), Err: os.NewSyscallError("bind", err)}
	}
	return s, nil
}

// memAddr is lookup for an address that has no name.
func memAddr(ctx context.Context, network, address string) (netip.AddrPort, error) {
	if network == "" {
		return netip.AddrPort{}, net.UnknownNetworkError(network)
	}
	if host, _, err := net.SplitHostPort(address); err == nil && host != "" {
		if _, err := netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, &net.AddrError{Err: "not an IP address", Addr: host}
		}
	}
	at, err := lookup(ctx, network, address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return at[0], nil
}

// bind lets s have the address that it wants, with a port if it names none.
func (n *MemNet) bind(s *memSocket) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open == 0 {
		n.bubbled, n.bubble = inBubble(), make(chan struct{})
	}
	s.bubbled, s.bubble = n.bubbled, n.bubble
	s.mustBeInItsBubble()
	if a := s.bound.Addr(); a.IsMulticast() || a == broadcast || !a.IsUnspecified() && !n.has(s.host, a) {
		return syscall.EADDRNOTAVAIL
	}
	if s.bound.Port() == 0 {
		s.bound = netip.AddrPortFrom(s.bound.Addr(), n.freePort())
	}
	port := s.bound.Port()
	if s.local = s.bound; port == 0 || slices.ContainsFunc(n.ports[port], s.collides) {
		return syscall.EADDRINUSE
	}
	if n.ports == nil {
		n.ports = make(map[uint16][]*memSocket)
	}
	n.ports[port] = append(n.ports[port], s)
	n.open++
	return nil
}

// freePort returns a port that nobody has, the next after the last one; zero:
// there is none.
func (n *MemNet) freePort() uint16 {
	for range 1<<16 - firstDynamicPort {
		port := max(n.nextPort, firstDynamicPort)
		n.nextPort = port + 1
		if len(n.ports[port]) == 0 {
			return port
		}
	}
	return 0
}

func (n *MemNet) unbind(s *memSocket) {
	port := s.bound.Port()
	n.ports[port] = slices.DeleteFunc(n.ports[port], func(t *memSocket) bool { return t == s })
	if n.open--; n.open == 0 && n.timer != nil {
		n.timer.Stop()
		n.timer, n.flights = nil, nil
	}
}

// hostOf returns the host that has a, which is no loopback address.
func (n *MemNet) hostOf(a netip.Addr) *memHost {
	for _, h := range n.hosts {
		if slices.Contains(h.addrs, a.WithZone("")) {
			return h
		}
	}
	return nil
}

func (n *MemNet) has(h *memHost, a netip.Addr) bool { return a.IsLoopback() || n.hostOf(a) == h }

// source returns what a socket of all addresses of h sends from, to to.
func (h *memHost) source(to netip.Addr) (netip.Addr, error) {
	switch {
	case to.IsLoopback():
		return loopbackLike(to), nil
	case h == nil && to.Is4():
		return netip.AddrFrom4([4]byte{192, 0, 2, 1}), nil
	case h == nil:
		return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 15: 1}), nil
	}
	for _, a := range h.addrs {
		if a.Is4() == to.Is4() {
			return a, nil
		}
	}
	return netip.Addr{}, syscall.ENETUNREACH
}

func loopbackLike(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// fate asks what becomes of a datagram, and appends to delays how long each of
// those takes that arrive.
func (n *MemNet) fate(delays []time.Duration, from, to netip.AddrPort, payload []byte) []time.Duration {
	if n.Drop == nil && n.Delay == nil && n.Copies == nil {
		return append(delays, 0)
	}
	n.asking.Lock()
	defer n.asking.Unlock()
	if n.Drop != nil && n.Drop(from, to, payload) {
		return delays
	}
	copies := 0
	if n.Copies != nil {
		if copies = n.Copies(from, to, payload); copies < 0 {
			panic(fmt.Sprintf("udp: MemNet.Copies returns %d for %v -> %v", copies, from, to))
		}
	}
	for range 1 + copies {
		delay := time.Duration(0)
		if n.Delay != nil {
			if delay = n.Delay(from, to, payload); delay < 0 {
				panic(fmt.Sprintf("udp: MemNet.Delay returns %v for %v -> %v", delay, from, to))
			}
		}
		delays = append(delays, delay)
	}
	return delays
}

// fly has f arrive after a while. One timer serves all, so that those which
// arrive at the same moment do so in the order in which they were sent.
func (n *MemNet) fly(f flight, delay time.Duration) {
	f.Payload = slices.Clone(f.Payload)
	f.due = time.Now().Add(delay)
	at := len(n.flights)
	for at > 0 && n.flights[at-1].due.After(f.due) {
		at--
	}
	n.flights = slices.Insert(n.flights, at, &f)
	if n.timer == nil {
		n.timer = time.AfterFunc(delay, n.land)
	} else if at == 0 {
		n.timer.Reset(delay)
	}
}

// land has those arrive that are due.
func (n *MemNet) land() {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for len(n.flights) > 0 && !n.flights[0].due.After(now) {
		f := n.flights[0]
		n.flights = n.flights[1:]
		n.arrive(f)
	}
	if len(n.flights) > 0 {
		n.timer.Reset(n.flights[0].due.Sub(now))
	}
}

// arrive gives f to those whom it is for, or has it refused.
func (n *MemNet) arrive(f *flight) {
	if f.Local.IsMulticast() || f.Local == broadcast {
		for _, s := range n.ports[f.port] {
			if s.hears(f) {
				s.take(f.Datagram)
			}
		}
	} else if s := n.listener(f); s != nil {
		s.take(f.Datagram)
	} else {
		f.from.refused(f)
	}
}

// listener returns the socket that f is for: among those that fit it best the
// one bound last, or, where they share the load, the one for f's sender.
func (n *MemNet) listener(f *flight) *memSocket {
	host := n.hostOf(f.Local)
	if f.Local.IsLoopback() {
		host = f.from.host
	}
	var space [8]*memSocket
	best, fit := space[:0], 1
	for _, s := range n.ports[f.port] {
		switch this := s.fits(f, host); {
		case this > fit:
			best, fit = append(best[:0], s), this
		case this == fit:
			best = append(best, s)
		}
	}
	if len(best) == 0 {
		return nil
	}
	last := len(best) - 1
	if last > 0 && best[last].how&shareLoad != 0 {
		sender, _ := f.Addr.MarshalBinary()
		last = int(crc32.ChecksumIEEE(sender) % uint32(len(best)))
	}
	return best[last]
}

// inBubble reports whether the caller is in a bubble of testing/synctest,
// where the clock has no monotonic reading.
func inBubble() bool {
	now := time.Now()
	return now == now.Round(0)
}
