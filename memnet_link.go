package udp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// A Link is what the way of datagrams through a [MemNet] is like. The zero
// value is perfect. It holds for every datagram, also for those that a host
// sends to itself.
//
// A flow is what goes from one address and port to another. Whether the n-th
// datagram of a flow is lost or duplicated, and its jitter, depend on the Seed,
// the flow and n alone: not on other flows, nor on when it was sent. n begins
// with 1, again when all sockets of the MemNet have been closed. A value that
// makes no sense panics when something is sent.
type Link struct {
	// Latency is how long a datagram takes at least.
	Latency time.Duration

	// Jitter is how much longer it takes at most; each takes its own part of
	// it, so that they overtake each other.
	Jitter time.Duration

	// Loss and Duplicate are the chances, from 0 to 1, that a datagram is
	// lost, and that one that is not lost arrives twice.
	Loss, Duplicate float64

	// Rate is how many bytes of payload a flow transports a second. If zero,
	// it transports any number.
	Rate int

	// Queue is how many bytes of payload of a flow may wait for the Rate,
	// with those that are being sent. If zero, any number may. One datagram
	// more is dropped, unless it finds the line idle.
	Queue int

	// Seed chooses one of the many courses that things may take.
	Seed uint64
}

// A memFlowKey names a flow. The addresses alone are not enough, as each host has its
// own loopback addresses.
type memFlowKey struct {
	host     *memHost
	from, to netip.AddrPort
}

// A memFlow is what the Link remembers of one.
type memFlow struct {
	datagrams uint64    // sent so far
	idleAt    time.Time // when the line has sent all of them
}

// A crossing is how a datagram crosses the network.
type crossing struct {
	number     uint64 // in its flow
	overflowed bool   // did not fit into the Link's Queue
	lost       bool
	copies     int           // how many more arrive
	delay      time.Duration // of each, before its jitter
	random     randomNumbers // for what is still to be decided
}

func (c *crossing) arrives() bool { return !c.lost && !c.overflowed }

// crossLink decides how f crosses the Link. The random numbers are drawn
// whatever they are for, so that another Loss does not change the rest.
func (n *MemNet) crossLink(f *flight) crossing {
	l := &n.Link
	key := memFlowKey{f.from.host, f.Addr, f.to()}
	line := n.flows[key]
	if line == nil {
		if n.flows == nil {
			n.flows = make(map[memFlowKey]*memFlow)
		}
		line = new(memFlow)
		n.flows[key] = line
	}
	line.datagrams++
	c := crossing{number: line.datagrams, random: newRandomNumbers(l.Seed, key, line.datagrams)}
	lost, duplicated := c.random.chance(l.Loss), c.random.chance(l.Duplicate)
	c.lost = lost || f.martian
	if duplicated {
		c.copies = 1
	}
	wait, fits := l.queue(line, len(f.Payload))
	c.delay, c.overflowed = l.Latency+wait, !fits
	return c
}

func (l *Link) mustMakeSense() {
	if l.Latency < 0 || l.Jitter < 0 || l.Rate < 0 || l.Queue < 0 || !(l.Loss >= 0 && l.Loss <= 1) || !(l.Duplicate >= 0 && l.Duplicate <= 1) {
		panic(fmt.Sprintf("udp: MemNet.Link is %+v", *l))
	}
}

// queue has a datagram of that size wait for the line, and returns how long
// that takes with the sending of it, unless it does not fit.
func (l *Link) queue(line *memFlow, size int) (wait time.Duration, fits bool) {
	if l.Rate == 0 {
		return 0, true
	}
	now := time.Now()
	ahead := max(line.idleAt.Sub(now), 0)
	wait = ahead + l.sendTime(size)
	if l.Queue > 0 && ahead > 0 && wait > l.sendTime(l.Queue) {
		return 0, false
	}
	line.idleAt = now.Add(wait)
	return wait, true
}

// sendTime returns how long the line needs for that many bytes.
func (l *Link) sendTime(size int) time.Duration {
	return time.Duration(float64(size) * float64(time.Second) / float64(l.Rate))
}

// jitter draws that of one copy.
func (l *Link) jitter(random *randomNumbers) time.Duration {
	return time.Duration(random.float() * float64(l.Jitter))
}

// randomNumbers is the state of SplitMix64 (Steele, Lea, Flood: Fast Splittable
// Pseudorandom Number Generators, 2014). It is here, and not math/rand/v2, as a
// generator there costs allocations where each datagram has its own.
type randomNumbers uint64

func newRandomNumbers(seed uint64, f memFlowKey, number uint64) randomNumbers {
	r := randomNumbers(seed)
	for _, a := range [...]netip.AddrPort{f.from, f.to} {
		b := a.Addr().As16()
		for _, v := range [...]uint64{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:]), uint64(a.Port())} {
			r = randomNumbers(r.next() ^ v)
		}
	}
	return randomNumbers(r.next() ^ number)
}

func (r *randomNumbers) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// float returns a number from 0 up to, but not, 1.
func (r *randomNumbers) float() float64 { return float64(r.next()>>11) / (1 << 53) }

func (r *randomNumbers) chance(p float64) bool { return r.float() < p }
