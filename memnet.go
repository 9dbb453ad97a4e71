package udp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A MemNet is a network in memory, for the tests of programs that use this
// package. As the PacketListener of a [ListenConfig] it takes the place of the
// operating system. The zero value loses nothing and takes no time; the fields
// are for faults, and must not change while something is sent.
//
// A MemNet works in a bubble of testing/synctest, by the bubble's clock: it has
// no goroutines, blocks durably, and keeps no timer when all its sockets are
// closed. While one is open, the bubble in which it was opened is the only
// place to use the MemNet. Use outside of bubbles panics; use in another bubble
// ends the program, by Go itself.
//
// Sockets behave as on Linux: ports are taken, or shared; a datagram is refused
// if nobody listens where and when it arrives; one that finds the receive queue
// full is dropped, by default if 212992 bytes wait, with 256 added to the
// payload of each. What is a MemNet's own:
//
// Hosts. The MemNet itself opens sockets on a host that has every address.
// There a socket of all addresses sends from 127.0.0.1 or ::1 to loopback
// addresses, and from 192.0.2.1 or 2001:db8::1 to others. Host adds hosts, which
// have the addresses that they are given. Each host has loopback addresses of
// its own.
//
// Interfaces. All hosts are on the same links, 1 to 65535, which are the
// indexes of their interfaces. What is sent to a group by one of them arrives
// where the group was joined on the same, or without naming one. Interface 1
// sends what is not to leave by another.
//
// Broadcasts to 255.255.255.255 arrive at the sockets of all addresses, on all
// hosts. Names are not looked up.
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

const (
	memMTU           = 65507
	memInterfaces    = 65535
	firstDynamicPort = 49152 // RFC 6335, section 6
)

var (
	_ sharingListener = (*MemNet)(nil)
	_ sharingListener = (*memHost)(nil)
)

// Host adds a host with these addresses, and returns what opens sockets on it.
// So several instances of a program that listens on all addresses of its host
// can be tested together. A socket of all addresses sends from the first of the
// family. Addresses that no host can have, or that another has, panic.
func (n *MemNet) Host(addrs ...netip.Addr) PacketListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &memHost{net: n}
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == broadcast || n.hostOf(a) != nil {
			panic(fmt.Sprintf("udp: MemNet.Host: %v cannot be the address of a new host", a))
		}
		h.addrs = append(h.addrs, a)
	}
	n.hosts = append(n.hosts, h)
	return h
}

// ListenPacket opens a socket like net.ListenPacket, at an address without a
// name. Programs that do not know this package can use the socket too.
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

// inBubble reports whether the caller is in a bubble of testing/synctest,
// where the clock has no monotonic reading.
func inBubble() bool {
	now := time.Now()
	return now == now.Round(0)
}
