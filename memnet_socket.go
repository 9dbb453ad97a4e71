package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// The size of a receive buffer is Linux's default. Each datagram counts with
// more than its payload, so that empty ones fill it too.
const (
	memReadBuffer = 212992
	memOverhead   = 256
	memBatch      = 64 // datagrams that a read returns at most
)

// A memSocket is a socket of a MemNet, whose mutex guards it.
type memSocket struct {
	plainSocket
	net       *MemNet
	host      *memHost
	how       sharing
	network   string
	ip4, ip6  bool
	max       int   // MaxDatagram
	device    int   // ListenConfig.Interface; zero: all
	broadcast bool  // ListenConfig.Broadcast; package net allows it
	readTime  bool  // ListenConfig.ReadTime
	readClass bool  // ListenConfig.ReadTrafficClass
	hops      int   // the TTL of what it sends to single hosts
	class     uint8 // of what it sends without a class of its own

	bubbled bool // of the MemNet, when this was opened
	bubble  chan struct{}

	bound  netip.AddrPort
	local  netip.AddrPort // bound, but for a connected socket of all addresses
	peer   netip.AddrPort
	closed bool

	ready    sync.Cond     // a read need not wait any more
	arrived  memQueue      // since the last of ready
	readable memQueue      // what is to be read next
	size     int           // of what waits, in bytes
	limit    int           // of size
	overflow uint64        // how many did not fit
	report   syscall.Errno // what the next call is to return; zero: nothing
	reports  []Undelivered // kept apart,
	apart    bool          // if the Conn has asked for that

	expired       bool // the read deadline is over
	alarm         *time.Timer
	writeDeadline time.Time

	members []membership
	ttl     int // of what it sends to groups, like the next two
	loop    bool
	index   int
}

// A memQueue has datagrams, their payloads in memory that is used again.
// Payloads stay where they are when that has to grow.
type memQueue struct {
	datagrams []Datagram
	next      int // of those the first that has not been read
	memory    []byte
}

func (q *memQueue) waiting() []Datagram { return q.datagrams[q.next:] }

func (q *memQueue) put(d Datagram) {
	start := len(q.memory)
	q.memory = append(q.memory, d.Payload...)
	d.Payload = q.memory[start:len(q.memory):len(q.memory)]
	if old := q.datagrams; len(old) == cap(old) {
		q.datagrams = slices.Grow(old, 1)
		clear(old) // a handler that kept the slice is to find nothing in it
	}
	q.datagrams = append(q.datagrams, d)
}

func (q *memQueue) reset() { q.datagrams, q.next, q.memory = q.datagrams[:0], 0, q.memory[:0] }

var (
	_ net.PacketConn = (*memSocket)(nil)
	_ net.Conn       = (*memSocket)(nil)
	_ socket         = (*memSocket)(nil)
)

func newMemSocket(h *memHost, network string, at netip.AddrPort, how sharing) *memSocket {
	s := &memSocket{net: h.net, host: h, how: how, network: network, bound: at, max: readBuffer, limit: memReadBuffer, broadcast: true, ttl: 1, hops: 64, loop: true}
	s.ip4, s.ip6 = familiesOf(at.Addr())
	s.ip4 = s.ip4 && network != "udp6"
	s.ready.L = &h.net.mu
	return s
}

// setUp has nothing to do for DontFragment: nothing is fragmented.
func (s *memSocket) setUp(lc *ListenConfig) error {
	return s.do(func() error {
		s.max, s.broadcast, s.readTime, s.readClass = lc.MaxDatagram, lc.Broadcast, lc.ReadTime, lc.ReadTrafficClass
		return nil
	})
}

func (s *memSocket) setUnicastTTL(ttl int) error       { return memSet(s, &s.hops, ttl) }
func (s *memSocket) unicastTTL() (int, error)          { return memGet(s, &s.hops) }
func (s *memSocket) setTrafficClass(class uint8) error { return memSet(s, &s.class, class) }
func (s *memSocket) trafficClass() (uint8, error)      { return memGet(s, &s.class) }

// pathMTU is what the longest payload takes with its headers.
func (s *memSocket) pathMTU() (mtu int, err error) {
	err = s.do(func() error {
		if !s.peer.IsValid() {
			return syscall.ENOTCONN
		}
		mtu = s.net.longest(s.peer.Addr()) + headersOf(s.peer.Addr())
		return nil
	})
	return mtu, err
}

// headersOf returns the length of the headers of IP and UDP.
func headersOf(a netip.Addr) int {
	if a.Is4() {
		return 20 + 8
	}
	return 40 + 8
}

func (s *memSocket) queued() uint64 {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if s.closed {
		return 0
	}
	return uint64(s.size)
}

func (s *memSocket) setInterface(index int) error {
	if err := checkInterface(index); err != nil {
		return err
	}
	return memSet(s, &s.device, index)
}

// mustBeInItsBubble panics if the sockets of the MemNet were opened in a bubble
// of testing/synctest and the caller is in none, or the other way round. If the
// caller is in another bubble, Go ends the program here: "... synctest channel
// from outside bubble".
func (s *memSocket) mustBeInItsBubble() {
	if inBubble() != s.bubbled {
		where := map[bool]string{true: "in a synctest bubble", false: "outside of synctest bubbles"}
		panic(fmt.Sprintf("udp: MemNet socket %v: used %s, but its MemNet is in use %s", s.bound, where[!s.bubbled], where[s.bubbled]))
	}
	select {
	case <-s.bubble:
	default:
	}
}

// do calls f with the mutex held, unless the socket is closed.
func (s *memSocket) do(f func() error) error {
	s.mustBeInItsBubble()
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	return f()
}

// memGet returns the value of a field of s.
func memGet[T any](s *memSocket, field *T) (value T, err error) {
	err = s.do(func() error { value = *field; return nil })
	return value, err
}

// memSet sets a field of s.
func memSet[T any](s *memSocket, field *T, value T) error {
	return s.do(func() error { *field = value; return nil })
}

func (s *memSocket) localAddr() netip.AddrPort {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	return s.local
}

func (s *memSocket) remoteAddr() netip.AddrPort {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	return s.peer
}

func (s *memSocket) dropped() uint64 {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	return s.overflow
}

func (s *memSocket) families() (ip4, ip6 bool)             { return s.ip4, s.ip6 }
func (s *memSocket) syscallConn() (syscall.RawConn, error) { return nil, errors.ErrUnsupported }

func (s *memSocket) close() error {
	return s.do(func() error {
		s.closed = true
		s.arrived, s.readable = memQueue{}, memQueue{}
		s.stopAlarm()
		s.net.unbind(s)
		s.ready.Broadcast()
		return nil
	})
}

func (s *memSocket) setReadDeadline(t time.Time) error {
	return s.do(func() error {
		s.stopAlarm()
		wait := time.Until(t)
		s.expired = !t.IsZero() && wait <= 0
		if wait > 0 {
			s.setAlarm(wait)
		}
		s.ready.Broadcast()
		return nil
	})
}

// setAlarm has reads fail after a while, unless another deadline is set.
func (s *memSocket) setAlarm(wait time.Duration) {
	var alarm *time.Timer
	alarm = time.AfterFunc(wait, func() {
		s.net.mu.Lock()
		defer s.net.mu.Unlock()
		if s.alarm == alarm {
			s.expired = true
			s.ready.Broadcast()
		}
	})
	s.alarm = alarm
}

func (s *memSocket) stopAlarm() {
	if s.alarm != nil {
		s.alarm.Stop()
		s.alarm = nil
	}
}

// await waits until something is to be read, or returns why there will not be;
// it only looks, if it is not to wait. It gives the mutex away while it waits, and while it asks Fail.
func (s *memSocket) await(wait bool) error {
	for {
		if err := s.awaitArrival(wait); err != nil || s.net.Fail == nil {
			return err
		}
		local, peer := s.local, s.waiting()[0].Addr
		s.net.mu.Unlock()
		err := s.net.fail(opRead, local, peer)
		s.net.mu.Lock()
		if err != nil || len(s.waiting()) > 0 { // it may have been read or closed meanwhile
			return err
		}
	}
}

func (s *memSocket) awaitArrival(wait bool) error {
	for ; ; s.ready.Wait() {
		switch {
		case s.closed:
			return net.ErrClosed
		case s.expired && wait:
			return os.ErrDeadlineExceeded
		case s.report != 0:
			return s.takeReport()
		case len(s.waiting()) > 0:
			return nil
		case !wait:
			return os.ErrDeadlineExceeded
		}
	}
}

// waiting returns what is to be read next, if anything is to be read.
func (s *memSocket) waiting() []Datagram {
	if len(s.readable.waiting()) == 0 {
		s.readable.reset()
		s.arrived, s.readable = s.readable, s.arrived
	}
	return s.readable.waiting()
}

func (s *memSocket) takeReport() syscall.Errno {
	errno := s.report
	s.report = 0
	return errno
}

func (s *memSocket) pending() (errno syscall.Errno) {
	s.do(func() error { errno = s.takeReport(); return nil })
	return errno
}

func (s *memSocket) askForReports() bool { return memSet(s, &s.apart, true) == nil }

func (s *memSocket) takeReports(limit int, take func(Undelivered)) (more bool) {
	s.do(func() error {
		n := min(limit, len(s.reports))
		for _, u := range s.reports[:n] {
			take(u)
		}
		s.reports = s.reports[n:]
		more = len(s.reports) > 0
		return nil
	})
	return more
}

func (s *memSocket) read(wait time.Duration) (ds []Datagram, err error) {
	err = s.do(func() error {
		if err := s.await(wait == forever); err != nil {
			return err
		}
		ds = s.take(memBatch)
		for i := range ds {
			ds[i].keep(ds[i].Payload, s.max)
		}
		return nil
	})
	return ds, err
}

// release: what read returned is used again when all of the same queue has been
// read, which no read does before release.
func (s *memSocket) release() {}

// take takes up to limit datagrams that wait. They are there until the next
// call of waiting.
func (s *memSocket) take(limit int) []Datagram {
	ds := s.waiting()
	ds = ds[:min(limit, len(ds))]
	s.readable.next += len(ds)
	for _, d := range ds {
		s.size -= len(d.Payload) + memOverhead
	}
	return ds
}

// deliver puts f into the receive buffer, if there is room.
func (s *memSocket) deliver(f *flight) {
	if s.size >= s.limit {
		s.overflow++
		s.net.stats.Overflowed++
		return
	}
	s.net.stats.Delivered++
	d := f.Datagram
	if !s.readClass {
		d.TrafficClass = 0
	}
	if s.readTime {
		d.Time = time.Now().Round(0)
	}
	s.arrived.put(d)
	s.size += len(f.Payload) + memOverhead
	s.ready.Signal()
}

func (s *memSocket) connect(peer netip.AddrPort) (netip.AddrPort, error) {
	err := s.do(func() error {
		err := s.setPeer(peer)
		peer = s.peer
		return err
	})
	return peer, err
}

// setPeer connects s. It needs a route, like a datagram.
func (s *memSocket) setPeer(peer netip.AddrPort) error {
	if peer.Addr() == broadcast && !s.broadcast {
		return syscall.EACCES
	}
	if _, err := s.zoneIndex(peer.Addr()); err != nil {
		return err
	}
	from, to, err := s.endpoints(s.bound.Addr(), peer.Addr())
	if err != nil {
		return err
	}
	s.local = netip.AddrPortFrom(from, s.bound.Port())
	s.peer = netip.AddrPortFrom(to, peer.Port())
	return nil
}

func (s *memSocket) disconnect() error {
	return s.do(func() error { s.local, s.peer = s.bound, netip.AddrPort{}; return nil })
}
