package udp

import (
	"math"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestCounterWraps has a count modulo 2^32 go round several times.
func TestCounterWraps(t *testing.T) {
	n := counter{last: math.MaxUint32 - 9}
	now, total := n.last, uint64(0)
	for _, step := range []uint32{0, 5, 5, 1, math.MaxUint32, 1 << 31, 1 << 31, 7} {
		now += step
		total += uint64(step)
		if got := n.advance(func() (uint32, bool) { return now, true }); got != total {
			t.Errorf("after %d more it is %d, want %d", step, got, total)
		}
		if got := n.advance(func() (uint32, bool) { return 0, false }); got != total {
			t.Errorf("of a closed socket it is %d, want %d", got, total)
		}
	}
}

// TestDropsAreSampled reads from a socket that drops nearly 2^32 datagrams
// between any two questions: the Conn asks often enough to count them all.
func TestDropsAreSampled(t *testing.T) {
	const reads = 20 * dropInterval
	s := &droppingSocket{step: math.MaxUint32 / dropInterval, left: reads, closed: make(chan struct{})}
	c := &Conn{sock: s, done: make(chan struct{}), finished: make(chan struct{})}
	if _, err := c.start(nil, nil); err != nil {
		t.Fatal(err)
	}
	<-s.closed // by the last read
	c.Wait()
	if got := c.Stats().Dropped; got != uint64(s.step)*reads {
		t.Errorf("%d are counted, %d dropped", got, uint64(s.step)*reads)
	}
}

// A droppingSocket drops a number of datagrams before each one that it reads.
type droppingSocket struct {
	plainSocket
	counter counter
	step    uint32
	left    int
	mu      sync.Mutex
	now     uint32
	closed  chan struct{}
}

func (s *droppingSocket) read(time.Duration) ([]Datagram, error) {
	if s.left--; s.left < 0 {
		close(s.closed)
		return nil, &net.OpError{Err: net.ErrClosed}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now += s.step
	return make([]Datagram, 1), nil
}

func (s *droppingSocket) dropped() uint64 {
	return s.counter.advance(func() (uint32, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.now, true
	})
}

func (s *droppingSocket) localAddr() netip.AddrPort             { return netip.AddrPort{} }
func (s *droppingSocket) families() (ip4, ip6 bool)             { return true, true }
func (s *droppingSocket) release()                              {}
func (s *droppingSocket) setReadDeadline(time.Time) error       { return nil }
func (s *droppingSocket) write(Datagram) error                  { return os.ErrInvalid }
func (s *droppingSocket) syscallConn() (syscall.RawConn, error) { return nil, os.ErrInvalid }
func (s *droppingSocket) close() error                          { return nil }
