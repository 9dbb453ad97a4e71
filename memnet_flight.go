package udp

import (
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// A flight is a datagram under way, as its receivers are to see it.
type flight struct {
	Datagram
	port uint16 // of Local
	from *memSocket
	loop bool // if to a group, also to from's host
	due  time.Time
}

func (s *memSocket) write(d Datagram) error {
	var f flight
	err := s.do(func() (err error) { f, err = s.depart(d); return err })
	if err != nil {
		return err
	}
	var space [4]time.Duration
	delays := s.net.fate(space[:0], f.Addr, netip.AddrPortFrom(f.Local, f.port), f.Payload)
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	for _, delay := range delays {
		if delay > 0 {
			s.net.fly(f, delay)
		} else {
			s.net.arrive(&f)
		}
	}
	return nil
}

// depart makes of d what its receivers are to see.
func (s *memSocket) depart(d Datagram) (f flight, err error) {
	mtu, to := s.net.MTU, d.Addr.Addr()
	if mtu == 0 {
		mtu = memMTU
	}
	switch {
	case s.report != 0:
		return f, s.takeReport()
	case len(d.Payload) > mtu:
		return f, syscall.EMSGSIZE
	case to.IsUnspecified():
		to = loopbackLike(to)
	}
	from, err := s.source(d.Local.Unmap(), to)
	if err != nil {
		return f, err
	}
	index, ttl := d.Interface, 64
	if index == 0 {
		if index, err = s.zoneIndex(to); err != nil {
			return f, err
		}
	}
	if to.IsMulticast() {
		to, ttl = to.WithZone(""), s.ttl
		if index == 0 {
			index = s.index
		}
	}
	return flight{
		Datagram: Datagram{
			Payload:   d.Payload,
			Addr:      netip.AddrPortFrom(from, s.bound.Port()),
			Local:     to,
			Interface: max(index, 1),
			TTL:       ttl,
		},
		port: d.Addr.Port(),
		from: s,
		loop: s.loop,
	}, checkInterface(index)
}

// source returns the address that a datagram leaves from that is to leave
// from want.
func (s *memSocket) source(want, to netip.Addr) (netip.Addr, error) {
	if !want.IsValid() || want.IsMulticast() || want == broadcast {
		want = s.local.Addr()
	}
	switch {
	case want.IsUnspecified():
		return s.host.source(to)
	case !s.net.has(s.host, want):
		return want, syscall.EADDRNOTAVAIL
	case want.IsLoopback() && !to.IsMulticast() && !s.net.has(s.host, to):
		return want, syscall.EINVAL // loopback addresses do not leave a host
	}
	return want, nil
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

// refused reports that nobody listened where f arrived.
func (s *memSocket) refused(f *flight) {
	to := netip.AddrPortFrom(f.Local, f.port)
	if s.apart && len(s.reports) < maxReports {
		s.reports = append(s.reports, Undelivered{Addr: to, Offender: f.Local, Err: syscall.ECONNREFUSED})
	}
	if s.apart || s.peer == to {
		s.report = syscall.ECONNREFUSED
		s.ready.Signal()
	}
}

// collides reports whether s and t cannot both have their addresses.
func (s *memSocket) collides(t *memSocket) bool {
	return s.host == t.host && s.how&t.how == 0 && (s.covers(t.local.Addr()) || t.covers(s.local.Addr()))
}

// covers reports whether s has the address a of its host.
func (s *memSocket) covers(a netip.Addr) bool {
	local := s.local.Addr()
	return local == a || local.IsUnspecified() && (a.Is4() && s.ip4 || a.Is6() && s.ip6)
}

// fits tells how well s fits as the receiver of f, which is for that host;
// zero: not at all.
func (s *memSocket) fits(f *flight, host *memHost) int {
	switch {
	case s.host != host || !s.covers(f.Local) || s.peer.IsValid() && s.peer != f.Addr:
		return 0
	case s.peer.IsValid():
		return 3
	case s.local.Addr() == f.Local:
		return 2
	}
	return 1
}
