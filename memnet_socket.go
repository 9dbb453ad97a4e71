package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// The size of a receive queue is Linux's default. Each datagram counts with
// more than its payload, so that empty ones fill it too.
const (
	memReadBuffer = 212992
	memOverhead   = 256
	memBatch      = 64 // datagrams that a read returns at most
)

// A memSocket is a socket of a MemNet, whose mutex guards it.
type memSocket struct {
	plainSocket
	net      *MemNet
	host     *memHost
	how      sharing
	network  string
	ip4, ip6 bool
	max      int // MaxDatagram

	bubbled bool // of the MemNet, when this was opened
	bubble  chan struct{}

	bound  netip.AddrPort
	local  netip.AddrPort // bound, but for a connected socket of all addresses
	peer   netip.AddrPort
	closed bool

	ready    sync.Cond // a read need not wait any more
	queue    []Datagram
	size     int // of the queue in bytes
	limit    int
	overflow uint64        // how many did not fit
	report   syscall.Errno // what the next call is to return; zero: nothing
	reports  []Undelivered // kept apart,
	apart    bool          // if the Conn has asked for that

	expired       bool // the read deadline is over
	alarm         *time.Timer
	writeDeadline time.Time

	lent  []Datagram // what read returned; the handler may change it
	loans [][]byte   // the memory of its payloads
	spare [][]byte   // memory for others

	members []membership
	ttl     int // of what it sends to groups, like the next two
	loop    bool
	index   int
}

var (
	_ net.PacketConn = (*memSocket)(nil)
	_ socket         = (*memSocket)(nil)
)

func newMemSocket(n *MemNet, h *memHost, network string, at netip.AddrPort, how sharing) *memSocket {
	s := &memSocket{net: n, host: h, how: how, network: network, bound: at, max: readBuffer, limit: memReadBuffer, ttl: 1, loop: true}
	s.ip4, s.ip6 = familiesOf(at.Addr())
	s.ip4 = s.ip4 && network != "udp6"
	s.ready.L = &n.mu
	return s
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
		s.queue, s.spare = nil, nil
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

// await waits until something is in the queue, or returns why there will not
// be. It gives the mutex away while it waits.
func (s *memSocket) await(wait bool) error {
	for ; ; s.ready.Wait() {
		switch {
		case s.closed:
			return net.ErrClosed
		case s.expired && wait:
			return os.ErrDeadlineExceeded
		case s.report != 0:
			return s.takeReport()
		case len(s.queue) > 0:
			return nil
		case !wait:
			return os.ErrDeadlineExceeded
		}
	}
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
		s.lent = append(s.lent[:0], s.next(memBatch)...)
		for i := range s.lent {
			d := &s.lent[i]
			s.loans = append(s.loans, d.Payload)
			if len(d.Payload) > s.max {
				d.Payload, d.Truncated = d.Payload[:s.max:s.max], true
			}
		}
		ds = s.lent
		return nil
	})
	return ds, err
}

func (s *memSocket) release() {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	s.spare = append(s.spare, s.loans...)
	s.loans = s.loans[:0]
}

// next takes up to limit datagrams from the queue. They are there until more
// arrive.
func (s *memSocket) next(limit int) []Datagram {
	ds := s.queue[:min(limit, len(s.queue))]
	if s.queue = s.queue[len(ds):]; len(s.queue) == 0 {
		s.queue = ds[:0]
	}
	for _, d := range ds {
		s.size -= len(d.Payload) + memOverhead
	}
	return ds
}

// take puts d into the queue, with a payload of its own, if there is room.
func (s *memSocket) take(d Datagram) {
	if s.size >= s.limit {
		s.overflow++
		return
	}
	var memory []byte
	if last := len(s.spare) - 1; last >= 0 {
		memory, s.spare = s.spare[last], s.spare[:last]
	}
	d.Payload = append(memory[:0], d.Payload...)
	s.queue = append(s.queue, d)
	s.size += len(d.Payload) + memOverhead
	s.ready.Signal()
}

func (s *memSocket) connect(peer netip.AddrPort) (netip.AddrPort, error) {
	if peer.Addr().IsUnspecified() {
		peer = netip.AddrPortFrom(loopbackLike(peer.Addr()), peer.Port())
	}
	err := s.do(func() error {
		from := s.bound.Addr()
		if from.IsUnspecified() {
			var err error
			if from, err = s.host.source(peer.Addr()); err != nil {
				return err
			}
		}
		s.local, s.peer = netip.AddrPortFrom(from, s.bound.Port()), peer
		return nil
	})
	return peer, err
}

func (s *memSocket) disconnect() error {
	return s.do(func() error { s.local, s.peer = s.bound, netip.AddrPort{}; return nil })
}
