package udp

import (
	"cmp"
	"container/heap"
	"fmt"
	"hash/crc32"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// A flight is a datagram under way, as its receivers are to see it.
type flight struct {
	Datagram
	port    uint16 // of Local
	from    *memSocket
	loop    bool // if to a group, also to from's host
	martian bool // from a loopback address to another host
	due     time.Time
	number  uint64 // of all that were sent
}

func (f *flight) to() netip.AddrPort { return netip.AddrPortFrom(f.Local, f.port) }

// flightPool has flights with memory for a payload.
var flightPool = sync.Pool{New: func() any { return new(flight) }}

// A flightHeap (container/heap) has the one on top that arrives first.
type flightHeap []*flight

func (h flightHeap) Len() int      { return len(h) }
func (h flightHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *flightHeap) Push(f any)   { *h = append(*h, f.(*flight)) }

func (h flightHeap) Less(i, j int) bool {
	a, b := h[i], h[j]
	if c := a.due.Compare(b.due); c != 0 {
		return c < 0
	}
	if c := a.Addr.Compare(b.Addr); c != 0 {
		return c < 0
	}
	if c := a.to().Compare(b.to()); c != 0 {
		return c < 0
	}
	return a.number < b.number
}

func (h *flightHeap) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return f
}

func (s *memSocket) write(d Datagram) error {
	var f flight
	err := s.do(func() (err error) { f, err = s.route(d); return err })
	if err == nil {
		err = s.net.fail(opWrite, f.Addr, f.to())
	}
	if err == nil {
		s.net.send(&f)
	}
	return err
}

// route makes of d what its receivers are to see.
func (s *memSocket) route(d Datagram) (f flight, err error) {
	to := d.Addr.Addr()
	switch {
	case s.report != 0:
		return f, s.takeReport()
	case len(d.Payload) > s.net.longest(to):
		return f, syscall.EMSGSIZE
	case to == broadcast && !s.broadcast:
		return f, syscall.EACCES
	}
	index := d.Interface
	if index == 0 {
		if index, err = s.zoneIndex(to); err != nil {
			return f, err
		}
	}
	if index == 0 {
		index = s.device
	}
	from, to, err := s.endpoints(d.Local.Unmap(), to)
	if err != nil {
		return f, err
	}
	ttl := s.hops
	if to.IsMulticast() {
		to, ttl = to.WithZone(""), s.ttl
		if index == 0 {
			index = s.index
		}
	}
	if err := checkInterface(index); err != nil {
		return f, err
	}
	if s.device != 0 && index != s.device {
		return f, syscall.EINVAL
	}
	return flight{
		Datagram: Datagram{
			Payload:   d.Payload,
			Addr:      netip.AddrPortFrom(from, s.bound.Port()),
			Local:     to,
			Interface: max(index, 1),
			TTL:       ttl,

			TrafficClass: cmp.Or(d.TrafficClass, s.class),
		},
		port:    d.Addr.Port(),
		from:    s,
		loop:    s.loop,
		martian: from.IsLoopback() && !to.IsMulticast() && !s.host.has(to),
	}, nil
}

// longest returns the longest payload that can be sent to an address.
func (n *MemNet) longest(to netip.Addr) int {
	most := memMTU4
	if to.Is6() {
		most = memMTU6
	}
	if n.MTU > 0 {
		return min(n.MTU, most)
	}
	return most
}

// endpoints returns the addresses that a datagram has which is to leave from
// want for to. Like Linux, it takes an unspecified IPv4 destination for the
// source, and lets what has an IPv6 loopback address leave the host, where
// nobody takes it.
func (s *memSocket) endpoints(want, to netip.Addr) (_, _ netip.Addr, err error) {
	if !want.IsValid() || want.IsMulticast() || want == broadcast {
		want = s.local.Addr()
	}
	if to.IsUnspecified() {
		if to = loopbackLike(to); to.Is4() && !want.IsUnspecified() {
			to = want
		}
	}
	switch {
	case want.IsUnspecified():
		want, err = s.host.source(to)
	case !s.host.has(want):
		err = syscall.EADDRNOTAVAIL
	case want.Is4() && want.IsLoopback() && !to.IsMulticast() && !s.host.has(to):
		err = syscall.EINVAL
	}
	return want, to, err
}

// fail asks Fail.
func (n *MemNet) fail(op string, local, peer netip.AddrPort) error {
	if n.Fail == nil {
		return nil
	}
	n.sending.Lock()
	defer n.sending.Unlock()
	return n.Fail(op, local, peer)
}

// perfect reports whether all that is sent arrives at once, and nobody looks.
func (n *MemNet) perfect() bool {
	return n.Link == (Link{}) && n.Drop == nil && n.Delay == nil && n.Copies == nil && n.Capture == nil
}

// send has f cross the network.
func (n *MemNet) send(f *flight) {
	if n.perfect() && !f.martian {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.stats.Sent++
		n.arrive(f)
		return
	}
	n.Link.mustMakeSense()
	n.sending.Lock()
	defer n.sending.Unlock()
	n.mu.Lock()
	c := n.crossLink(f)
	n.mu.Unlock()
	var space [4]time.Duration
	delays := n.ask(space[:0], f, &c)
	n.capture(f, &c)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stats.Sent++
	switch {
	case c.overflowed:
		n.stats.Overflowed++
	case c.lost:
		n.stats.Lost++
	default:
		n.stats.Duplicated += uint64(c.copies)
	}
	for _, delay := range delays {
		if delay > 0 {
			n.fly(f, delay)
		} else {
			n.arrive(f)
		}
	}
}

// ask asks the functions what becomes of f, if the Link lets it through, and
// appends to delays how long each of those takes that arrive.
func (n *MemNet) ask(delays []time.Duration, f *flight, c *crossing) []time.Duration {
	from, to, payload := f.Addr, f.to(), f.Payload
	if c.arrives() && n.Drop != nil {
		c.lost = n.Drop(from, to, payload)
	}
	if !c.arrives() {
		c.copies = 0
		return delays
	}
	if n.Copies != nil {
		copies := n.Copies(from, to, payload)
		if copies < 0 {
			panic(fmt.Sprintf("udp: MemNet.Copies returns %d for %v -> %v", copies, from, to))
		}
		c.copies += copies
	}
	for range 1 + c.copies {
		delay := c.delay + n.Link.jitter(&c.random)
		if n.Delay != nil {
			more := n.Delay(from, to, payload)
			if more < 0 {
				panic(fmt.Sprintf("udp: MemNet.Delay returns %v for %v -> %v", more, from, to))
			}
			delay += more
		}
		delays = append(delays, delay)
	}
	return delays
}

// fly has a copy of f arrive after a while. One timer serves all, so that those
// which arrive at the same instant do so in their order.
func (n *MemNet) fly(f *flight, delay time.Duration) {
	g := flightPool.Get().(*flight)
	payload := append(g.Payload[:0], f.Payload...)
	*g = *f
	g.Payload = payload
	g.due = time.Now().Add(delay)
	n.sequence++
	g.number = n.sequence
	heap.Push(&n.flights, g)
	if n.timer == nil {
		n.timer = time.AfterFunc(delay, n.land)
	} else if n.flights[0] == g {
		n.timer.Reset(delay)
	}
}

// land has those arrive that are due.
func (n *MemNet) land() {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for len(n.flights) > 0 && !n.flights[0].due.After(now) {
		f := heap.Pop(&n.flights).(*flight)
		n.arrive(f)
		f.from = nil
		flightPool.Put(f)
	}
	if len(n.flights) > 0 {
		n.timer.Reset(n.flights[0].due.Sub(now))
	}
}

// arrive gives f to those whom it is for, or has it refused.
func (n *MemNet) arrive(f *flight) {
	if f.Local.IsMulticast() || f.Local == broadcast {
		n.every.deliverGroup(f)
		for _, h := range n.hosts {
			h.deliverGroup(f)
		}
	} else if s := n.listener(f); s != nil {
		s.deliver(f)
	} else {
		n.stats.Refused++
		f.from.refused(f)
	}
}

// deliverGroup gives f, which was sent to a group or to all, to the sockets of
// h that are to have it.
func (h *memHost) deliverGroup(f *flight) {
	for _, s := range h.ports[f.port] {
		if s.listensTo(f) {
			s.deliver(f)
		}
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
	for _, s := range host.ports[f.port] {
		switch this := s.fits(f); {
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

// refused reports that nobody listened where f arrived.
func (s *memSocket) refused(f *flight) {
	if s.apart && len(s.reports) < maxReports {
		s.reports = append(s.reports, Undelivered{Addr: f.to(), Offender: f.Local, Err: syscall.ECONNREFUSED})
	}
	if s.apart || s.peer == f.to() {
		s.report = syscall.ECONNREFUSED
		s.ready.Signal()
	}
}

// collides reports whether s and t, which are of one host, cannot both have
// their addresses.
func (s *memSocket) collides(t *memSocket) bool {
	return s.how&t.how == 0 && (s.covers(t.local.Addr()) || t.covers(s.local.Addr()))
}

// covers reports whether s has the address a of its host.
func (s *memSocket) covers(a netip.Addr) bool {
	local := s.local.Addr()
	return local == a || local.IsUnspecified() && (a.Is4() && s.ip4 || a.Is6() && s.ip6)
}

// fits tells how well s fits as the receiver of f, which is for its host; zero:
// not at all.
func (s *memSocket) fits(f *flight) int {
	switch {
	case !s.covers(f.Local) || s.peer.IsValid() && s.peer != f.Addr || s.device != 0 && s.device != f.Interface:
		return 0
	case s.peer.IsValid():
		return 3
	case s.local.Addr() == f.Local:
		return 2
	}
	return 1
}
