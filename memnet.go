package udp

import (
	"context"
	"fmt"
	"io"
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
// operating system. The zero value loses nothing and takes no time. The fields
// say what goes wrong; they must not change while something is sent.
//
// A MemNet works in a bubble of testing/synctest, by the bubble's clock: it has
// no goroutines, blocks durably, and keeps no timer when all its sockets are
// closed. Use its sockets in one bubble, or in none: while one is open, the
// MemNet belongs to the bubble in which that was opened. Use outside of bubbles
// then panics, and use in another bubble ends the program, by Go itself.
//
// Sockets behave as on Linux: ports are taken, or shared; a datagram is refused
// if nobody listens where and when it arrives; one that finds the receive
// buffer full is dropped, by default if 212992 bytes wait, with 256 added to
// the payload of each. What is a MemNet's own:
//
// Hosts. The MemNet itself opens sockets on a host that has every address.
// There a socket of all addresses sends from 127.0.0.1 or ::1 to loopback
// addresses, and from 192.0.2.1 or 2001:db8::1 to others. Host adds hosts, which
// have the addresses that they are given. Each host has loopback addresses and
// ports of its own.
//
// Interfaces. All hosts are on the same links, 1 to 65535, which are the
// indexes of their interfaces, and the zones of addresses. What is sent to a
// group by one of them arrives where the group was joined on the same, or
// without naming one. Interface 1 sends what is not to leave by another.
//
// Broadcasts to 255.255.255.255 arrive at the sockets of all addresses, on all
// hosts.
//
// Order. What arrives at one instant arrives in the order of the addresses and
// ports that it was sent from, then of those that it was sent to, as
// [netip.AddrPort.Compare] has it, and what they have in common in the order of
// sending. What takes no time arrives before the write returns, so that there
// the order is that of the writers. A test that is to give the same result on
// every run gives the Link a Latency, and each socket a port.
type MemNet struct {
	// Link is what the way between two sockets is like.
	Link Link

	// Drop reports whether a datagram is lost on the way; one to a group is
	// lost for all its members.
	//
	// Drop, Copies and Delay are called in this order when a datagram is
	// sent that the Link has not lost, in the goroutine that sends it. They
	// and Fail are called one at a time, so that they may share a source of
	// random numbers. They must not block, use the network, or keep the
	// payload.
	Drop func(from, to netip.AddrPort, payload []byte) bool

	// Delay returns how long a datagram takes, beside what the Link takes;
	// it is asked for each copy. Different delays reorder. A Delay below
	// zero panics.
	Delay func(from, to netip.AddrPort, payload []byte) time.Duration

	// Copies returns how many more of a datagram arrive, beside what the
	// Link duplicates: 1 duplicates it. A number below zero panics.
	Copies func(from, to netip.AddrPort, payload []byte) int

	// Fail returns what a call of a socket fails with, as the system's would:
	// syscall.ENOBUFS, EPERM, ENETDOWN or the like; nil: it does not fail.
	// The op is "write", when a datagram is to be sent, on each try, or
	// "read", when one waits, which stays there if the read fails. The peer
	// is where that goes or comes from. What fails is not sent: the Link does
	// not count it.
	Fail func(op string, local, peer netip.AddrPort) error

	// Names has the addresses of names, for LookupNetIP.
	Names map[string][]netip.Addr

	// Capture gets all that is sent as a file of the pcap format, which
	// Wireshark, tshark and tcpdump read. Each packet is a Write of its own,
	// when it is sent, with the time of the clock then (of the bubble's, in a
	// bubble). Errors of Write are ignored.
	//
	// The packets are IPv4 and IPv6 as sockets see them (LINKTYPE_RAW, without
	// frames of a link). One that is lost on the way, or does not fit into
	// the Link's Queue, has a TTL or hop limit of 0. A copy is there again.
	// The identification field of IPv4 and the flow label of IPv6 are the
	// number of the datagram in its flow, from 1.
	Capture io.Writer

	// MTU is the longest payload in bytes that can be sent. If zero, it is
	// what fits into a packet: 65507 over IPv4, 65527 over IPv6.
	MTU int

	// sending is held while one datagram is asked about and written to
	// Capture, and before mu, never after it.
	sending   sync.Mutex
	capturing bool   // the header of the file has been written
	packet    []byte // memory for one

	// mu guards what follows, and the sockets. It is held for moments, as to
	// wait for it does not block durably.
	mu       sync.Mutex
	every    memHost // has every address but those of hosts
	hosts    []*memHost
	owners   map[netip.Addr]*memHost // by the addresses of hosts
	open     int                     // how many sockets
	flows    map[memFlowKey]*memFlow // those of the open sockets, and of others before
	flights  flightHeap              // under way
	timer    *time.Timer             // for the next of them
	sequence uint64                  // how many have been sent
	stats    MemStats
	bubbled  bool          // those open are in a bubble,
	bubble   chan struct{} // in which this was made
}

// MemStats count what became of the datagrams of a [MemNet].
type MemStats struct {
	// Sent is what was written and did not fail. A datagram to a group counts
	// once.
	Sent uint64

	// Delivered is what was put into the receive buffers of sockets. A
	// datagram to a group counts for each of its members.
	Delivered uint64

	// Lost is what Link.Loss and Drop have lost, and what was sent from ::1 to
	// another host.
	Lost uint64

	// Duplicated is what Link.Duplicate and Copies have added.
	Duplicated uint64

	// Overflowed is what did not fit into Link.Queue, or into the receive
	// buffer of a socket.
	Overflowed uint64

	// Refused is what arrived where nobody listened.
	Refused uint64
}

// Stats returns what the MemNet has counted since its first socket, also when
// all are closed. A datagram that was under way when the last socket closed is
// Sent, and nothing more.
func (n *MemNet) Stats() MemStats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// A memHost is a host of a MemNet.
type memHost struct {
	net      *MemNet
	addrs    []netip.Addr
	ports    map[uint16][]*memSocket // in the order of binding
	nextPort uint16
}

const (
	memMTU4          = 65507
	memMTU6          = 65527
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
//
// Like the MemNet, what Host returns is a [Resolver], and has its DialContext.
func (n *MemNet) Host(addrs ...netip.Addr) PacketListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &memHost{net: n}
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == broadcast || n.owners[a] != nil || slices.Contains(h.addrs, a) {
			panic(fmt.Sprintf("udp: MemNet.Host: %v cannot be the address of a new host", a))
		}
		h.addrs = append(h.addrs, a)
	}
	if n.owners == nil {
		n.owners = make(map[netip.Addr]*memHost)
	}
	for _, a := range h.addrs {
		n.owners[a] = h
	}
	n.hosts = append(n.hosts, h)
	return h
}

// ListenPacket opens a socket like net.ListenPacket. A name of a host in
// address is one of Names.
//
// Programs that do not know this package can use the socket too: it has the
// methods of *net.UDPConn for datagrams, addresses, deadlines and buffers.
func (n *MemNet) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return n.everyHost().listenShared(ctx, network, address, 0)
}

func (n *MemNet) listenShared(ctx context.Context, network, address string, how sharing) (net.PacketConn, error) {
	return n.everyHost().listenShared(ctx, network, address, how)
}

// DialContext opens a socket like [net.Dialer.DialContext], connected to
// address, for "udp", "udp4" and "udp6". A name of a host in address is one of
// Names. It is what [net.Resolver].Dial wants, for instance.
func (n *MemNet) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return n.everyHost().DialContext(ctx, network, address)
}

func (n *MemNet) everyHost() *memHost {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.every.net = n
	return &n.every
}

func (h *memHost) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return h.listenShared(ctx, network, address, 0)
}

func (h *memHost) listenShared(ctx context.Context, network, address string, how sharing) (net.PacketConn, error) {
	at, err := h.lookup(ctx, network, address)
	if err != nil {
		return nil, &net.OpError{Op: opListen, Net: network, Err: err}
	}
	s := newMemSocket(h, network, at[0], how)
	if err := h.net.bind(s); err != nil {
		return nil, &net.OpError{Op: opListen, Net: network, Addr: net.UDPAddrFromAddrPort(at[0]), Err: os.NewSyscallError("bind", err)}
	}
	return s, nil
}

func (h *memHost) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	peers, err := h.lookup(ctx, network, address)
	if err != nil {
		return nil, &net.OpError{Op: opDial, Net: network, Err: err}
	}
	for _, peer := range peers {
		all := netip.IPv6Unspecified()
		if peer.Addr().Is4() {
			all = netip.IPv4Unspecified()
		}
		s := newMemSocket(h, network, netip.AddrPortFrom(all, 0), 0)
		s.peer = peer
		if err = h.net.bind(s); err == nil {
			return s, nil
		}
		err = &net.OpError{Op: opDial, Net: network, Addr: net.UDPAddrFromAddrPort(peer), Err: os.NewSyscallError("connect", err)}
	}
	return nil, err
}

// lookup is the function lookup for package net's networks, which always have
// a name.
func (h *memHost) lookup(ctx context.Context, network, address string) ([]netip.AddrPort, error) {
	if network == "" {
		return nil, net.UnknownNetworkError(network)
	}
	return lookup(ctx, h.net, network, address)
}

// bind gives s the address that it wants, with a port if that has none, and
// connects it if it has a peer.
func (n *MemNet) bind(s *memSocket) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open == 0 {
		n.bubbled, n.bubble = inBubble(), make(chan struct{})
	}
	s.bubbled, s.bubble = n.bubbled, n.bubble
	s.mustBeInItsBubble()
	if a := s.bound.Addr(); a.IsMulticast() || a == broadcast || !a.IsUnspecified() && !s.host.has(a) {
		return syscall.EADDRNOTAVAIL
	}
	if s.bound.Port() == 0 {
		s.bound = netip.AddrPortFrom(s.bound.Addr(), s.host.freePort())
	}
	port := s.bound.Port()
	if s.local = s.bound; port == 0 || slices.ContainsFunc(s.host.ports[port], s.collides) {
		return syscall.EADDRINUSE
	}
	if s.peer.IsValid() {
		if err := s.setPeer(s.peer); err != nil {
			return err
		}
	}
	if s.host.ports == nil {
		s.host.ports = make(map[uint16][]*memSocket)
	}
	s.host.ports[port] = append(s.host.ports[port], s)
	n.open++
	return nil
}

// freePort returns a port that nobody has on h, the next after the last one;
// zero: there is none.
func (h *memHost) freePort() uint16 {
	for range 1<<16 - firstDynamicPort {
		port := max(h.nextPort, firstDynamicPort)
		h.nextPort = port + 1
		if len(h.ports[port]) == 0 {
			return port
		}
	}
	return 0
}

// unbind ends all that is under way, and the flows, with the last socket: the
// next may be in another bubble, with another clock.
func (n *MemNet) unbind(s *memSocket) {
	ports, port := s.host.ports, s.bound.Port()
	if ports[port] = slices.DeleteFunc(ports[port], func(t *memSocket) bool { return t == s }); len(ports[port]) == 0 {
		delete(ports, port)
	}
	if n.open--; n.open > 0 {
		return
	}
	n.flows, n.flights = nil, nil
	if n.timer != nil {
		n.timer.Stop()
		n.timer = nil
	}
}

// hostOf returns the host that has a, which is no loopback address.
func (n *MemNet) hostOf(a netip.Addr) *memHost {
	if h := n.owners[a.WithZone("")]; h != nil {
		return h
	}
	return &n.every
}

func (h *memHost) has(a netip.Addr) bool { return a.IsLoopback() || h.net.hostOf(a) == h }

// source returns what a socket of all addresses of h sends from, to to.
func (h *memHost) source(to netip.Addr) (netip.Addr, error) {
	every := h == &h.net.every
	switch {
	case to.IsLoopback():
		return loopbackLike(to), nil
	case every && to.Is4():
		return netip.AddrFrom4([4]byte{192, 0, 2, 1}), nil
	case every:
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
