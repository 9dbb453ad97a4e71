package udp_test

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/udp"
)

// soak is set to run the soak tests for long: go test -run Soak -soak 10m
var soak = flag.Duration("soak", 0, "how long each soak test runs (a moment, if zero)")

// soakTime returns how long to go on.
func soakTime() time.Duration {
	if *soak != 0 {
		return *soak
	}
	return time.Second
}

// TestSoak has senders write in all ways to servers that block, panic,
// connect, shut down, close, and open again, all at random. Of what was sent
// to each address, every datagram is read, dropped or refused: there is no
// remainder.
func TestSoak(t *testing.T) {
	needTime(t)
	if runtime.GOOS != "linux" {
		t.Skip("the other systems do not count what they drop: try Linux")
	}
	setup{bind: "127.0.0.1:0"}.listen(t, nil).Close() // the poller has descriptors of its own
	fds, memory := descriptors(t), settledHeap()
	s := &soaking{t: t, unsent: unsentICMP(), stop: make(chan struct{}), quiet: make(chan struct{}), release: make(chan struct{})}
	for i := range 16 {
		s.addServer(i)
	}
	for range 4 {
		s.addSender()
	}

	var done sync.WaitGroup
	for _, sender := range s.senders {
		for range 2 {
			done.Go(func() { s.repeat(func(r *rand.Rand) { s.write(r, sender) }) })
		}
	}
	for range 3 {
		done.Go(func() { s.repeat(s.disturb) })
	}
	timer := time.AfterFunc(soakTime(), func() { close(s.stop) })
	defer timer.Stop()
	go func() {
		done.Wait()
		close(s.quiet)
	}()
	s.unblock()

	// From here on nothing blocks, and nobody writes but to answer.
	close(s.release)
	sent, refused := uint64(0), uint64(0)
	for _, e := range s.servers {
		s.settle(e, "at the end")
		s.closeEnd(e, true)
		sent += e.sent.Load()
		refused += e.refused.Load()
	}
	for _, e := range s.senders {
		s.settle(e, "at the end")
		s.closeEnd(e, true)
		sent += e.sent.Load()
	}
	t.Logf("%d datagrams to %d servers, which were opened %d times; %d refused, %d dropped, %d handlers panicked",
		sent, len(s.servers), s.opened.Load(), refused, s.dropped.Load(), s.panics.Load())
	if refused == 0 || s.dropped.Load() == 0 || s.panics.Load() == 0 {
		t.Error("some of it has not happened")
	}
	if after := descriptors(t); after > fds {
		t.Errorf("there were %d descriptors, there are %d", fds, after)
	}
	s.servers, s.senders = nil, nil
	s.ends.Clear()
	if grown := settledHeap() - memory; grown > 1<<20 {
		t.Errorf("%d bytes are left", grown)
	}
}

type soaking struct {
	t       *testing.T
	servers []*end
	senders []*end
	ends    sync.Map // all, by all their addresses
	stop    chan struct{}
	quiet   chan struct{} // closed when nobody disturbs any more
	release chan struct{} // lets one handler that blocks go on
	opened  atomic.Int64
	panics  atomic.Int64
	unsent  uint64        // unsentICMP at the beginning
	dropped atomic.Uint64 // by those that are closed
}

// An end is a socket, or one after the other at the same address.
type end struct {
	mu      sync.RWMutex // held for reading by those that write to it
	lc      udp.ListenConfig
	addr    netip.AddrPort
	handler udp.Handler
	queues  bool      // it answers by Queue, and nothing keeps that from being sent
	c       *udp.Conn // nil: closed
	counted uint64    // read and dropped by those that are closed

	sent    atomic.Uint64 // to addr
	refused atomic.Uint64 // reports about addr
	doubted atomic.Int64  // of a sender: what it wrote that may be refused, less what was
	told    chan struct{} // of a sender: there were reports
}

// addServer makes a server: the even ones are IPv4, some have small buffers,
// some take batches, some have sessions, workers, or answer by Queue. Their ports are not of those that the system chooses
// for others while they are closed.
func (s *soaking) addServer(i int) {
	e := &end{addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 77, 0, byte(i)}), 7177)}
	if i%2 == 1 && hasIPv6() {
		e.addr = netip.AddrPortFrom(loopback6, uint16(7100+i))
	}
	e.lc.NoOffload = true // for drops to be counted one by one
	e.lc.Recover = func(_ *udp.Conn, v any) {
		if v != "soak" {
			s.t.Errorf("a handler panics with %v", v)
		}
		s.panics.Add(1)
	}
	if i%3 == 0 {
		e.lc.ReadBuffer = 20000
	}
	h := funcs{datagram: s.serve}
	e.handler = h
	if i%4 >= 2 {
		e.handler = batchFuncs{h, func(c *udp.Conn, ds []udp.Datagram) {
			for _, d := range ds {
				s.serve(c, d)
			}
		}}
	}
	switch i % 8 {
	case 3:
		session := e.handler
		e.handler = &udp.Sessions{Idle: time.Millisecond, Max: 3, New: func(*udp.Conn, udp.Datagram) udp.Handler { return session }}
	case 4, 7:
		e.handler = &udp.Workers{N: 2, Handler: e.handler}
	case 5:
		e.queues = true
		e.handler = funcs{datagram: s.serveByQueue}
	}
	s.servers = append(s.servers, e)
	s.ends.Store(e.addr, e)
	s.open(e)
}

func (s *soaking) at(addr netip.AddrPort) *end {
	e, _ := s.ends.Load(addr)
	return e.(*end)
}

func (s *soaking) open(e *end) {
	c, err := e.lc.Listen(context.Background(), e.addr.String(), e.handler)
	if err != nil {
		s.t.Error(err)
		return
	}
	e.c = c
	s.opened.Add(1)
}

// serve does what the first byte of the payload says.
func (s *soaking) serve(c *udp.Conn, d udp.Datagram) {
	switch d.Payload[0] {
	case 'a':
		s.answer(c, d)
	case 'o':
		d = d.Clone()
		if err := c.Post(func() { s.answer(c, d) }); err != nil && !errors.Is(err, net.ErrClosed) {
			s.t.Errorf("%v: %v", c, err)
		}
	case 't':
		d = d.Clone()
		t := c.AfterFunc(time.Duration(len(d.Payload))*10*time.Microsecond, func() { s.answer(c, d) })
		if len(d.Payload)%3 == 0 {
			t.Stop()
		}
	case 'b':
		<-s.release
	case 'p':
		panic("soak")
	}
}

func (s *soaking) answer(c *udp.Conn, d udp.Datagram) {
	s.at(d.Addr).sent.Add(1)
	if _, err := c.Reply(d, []byte("answer")); err != nil {
		s.at(d.Addr).sent.Add(^uint64(0))
		if !errors.Is(err, net.ErrWriteToConnected) && !errors.Is(err, net.ErrClosed) {
			s.t.Errorf("%v: %v", c, err)
		}
	}
}

// serveByQueue is serve for a server that is neither connected nor closed but
// by Shutdown, so that what it queues is sent.
func (s *soaking) serveByQueue(c *udp.Conn, d udp.Datagram) {
	if d.Payload[0] != 'a' {
		s.serve(c, d)
		return
	}
	s.at(d.Addr).sent.Add(1)
	d.Payload = []byte("answer")
	if err := c.Queue(d); err != nil {
		s.t.Errorf("%v: %v", c, err)
	}
}

func (s *soaking) addSender() {
	e := &end{told: make(chan struct{}, 1)}
	e.lc.ReadBuffer = 4 << 20 // for the reports too
	e.lc.NoOffload = true
	e.handler = funcs{
		datagram: func(_ *udp.Conn, d udp.Datagram) {
			if string(d.Payload) != "answer" {
				s.t.Errorf("%q from %v", d.Payload, d.Addr)
			}
		},
		undelivered: func(_ *udp.Conn, u udp.Undelivered) {
			if u.Err != syscall.ECONNREFUSED {
				s.t.Errorf("%+v", u)
			}
			s.at(u.Addr).refused.Add(1)
			e.doubted.Add(-1)
			select {
			case e.told <- struct{}{}:
			default:
			}
		},
	}
	c, err := e.lc.Listen(s.t.Context(), ":0", e.handler)
	check(s.t, err)
	e.c = c
	s.senders = append(s.senders, e)
	for _, host := range []netip.Addr{loopback4, loopback6} {
		s.ends.Store(netip.AddrPortFrom(host, c.LocalAddr().Port()), e)
	}
}

// repeat calls f again and again.
func (s *soaking) repeat(f func(r *rand.Rand)) {
	r := rand.New(rand.NewPCG(rand.Uint64(), 0))
	for {
		select {
		case <-s.stop:
			return
		default:
			f(r)
		}
	}
}

// write writes some datagrams, to one server or several.
func (s *soaking) write(r *rand.Rand, from *end) {
	// The kernel does not count the reports for which it has no room. Not
	// all that is doubted is refused: after a while without reports, it has
	// arrived.
	for from.doubted.Load() > 300 {
		select {
		case <-from.told:
		case <-time.After(50 * time.Millisecond):
			from.doubted.Store(0)
		}
	}
	from.doubted.Store(max(0, from.doubted.Load())) // reports that nobody expected make no room for more

	var ds []udp.Datagram
	several, size := r.IntN(4) == 0, 1+r.IntN(60)
	first := r.IntN(len(s.servers))
	for i, e := range s.servers {
		if i != first && (!several || i < first) {
			continue
		}
		e.mu.RLock()
		defer e.mu.RUnlock()
		for range size {
			payload := make([]byte, 1+r.IntN(100))
			switch dice := r.IntN(2000); {
			case dice == 0:
				payload[0] = 'b'
			case dice < 3:
				payload[0] = 'p'
			case dice < 200:
				payload[0] = 'a'
			case dice < 250:
				payload[0] = 'o'
			case dice < 300:
				payload[0] = 't'
			}
			ds = append(ds, udp.Datagram{Addr: e.addr, Payload: payload})
		}
		e.sent.Add(uint64(size))
		if e.c == nil || e.c.RemoteAddr().IsValid() {
			from.doubted.Add(int64(size))
		}
	}
	if r.IntN(2) == 0 {
		r.Shuffle(len(ds), func(i, j int) { ds[i], ds[j] = ds[j], ds[i] })
		if n, err := from.c.WriteBatch(ds); n != len(ds) || err != nil {
			s.t.Errorf("WriteBatch sends %d of %d: %v", n, len(ds), err)
		}
		return
	}
	for _, d := range ds {
		if _, err := from.c.WriteTo(d.Payload, d.Addr); err != nil {
			s.t.Error(err)
		}
	}
}

// disturb does something to a server.
func (s *soaking) disturb(r *rand.Rand) {
	e := s.servers[r.IntN(len(s.servers))]
	switch r.IntN(8) {
	case 0, 1:
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.c == nil {
			s.open(e)
			return
		}
		// Nobody writes to it now; what is under way arrives.
		s.settle(e, "before it closes")
		s.closeEnd(e, e.queues || r.IntN(2) == 0)
		if r.IntN(2) == 0 {
			s.open(e)
		}
	case 2:
		e.mu.RLock()
		defer e.mu.RUnlock()
		if e.c == nil || e.queues {
			return
		}
		// Only one of the senders is heard; the others are refused.
		peer := netip.AddrPortFrom(e.addr.Addr(), s.senders[r.IntN(len(s.senders))].c.LocalAddr().Port())
		if peer.Addr().Is4() {
			peer = netip.AddrPortFrom(loopback4, peer.Port())
		}
		if err := e.c.Connect(peer); err != nil {
			s.t.Error(err)
		}
		for range r.IntN(5) {
			runtime.Gosched()
		}
		if err := e.c.Disconnect(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
			s.t.Error(err)
		}
	default:
		e.mu.RLock()
		defer e.mu.RUnlock()
		if e.c != nil {
			_, _ = e.c.Stats(), e.c.String()
		}
		for range r.IntN(5) {
			runtime.Gosched()
		}
	}
}

// unblock lets a handler go on that blocks, now and then, until all is quiet.
func (s *soaking) unblock() {
	for {
		for range rand.IntN(5) {
			runtime.Gosched()
		}
		select {
		case s.release <- struct{}{}:
		case <-s.quiet:
			return
		}
	}
}

// settle waits until all that was sent to e is accounted for.
func (s *soaking) settle(e *end, when string) {
	accounted := func() uint64 {
		n := e.counted + e.refused.Load()
		if e.c != nil {
			stats := e.c.Stats()
			n += stats.ReadDatagrams + stats.Dropped
		}
		return n
	}
	for start := time.Now(); accounted() != e.sent.Load(); runtime.Gosched() {
		if time.Since(start) < failSafe {
			continue
		}
		missing := e.sent.Load() - accounted()
		if unsent := unsentICMP() - s.unsent; missing > unsent {
			s.t.Errorf("%v %s: of %d that were sent, %d are missing, and the kernel failed to report %d", e.addr, when, e.sent.Load(), missing, unsent)
		}
		e.counted += missing
		return
	}
}

// unsentICMP returns how many ICMP messages the kernel has failed to send, for
// want of memory.
func unsentICMP() (count uint64) {
	b, _ := os.ReadFile("/proc/net/snmp")
	var names []string
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if fields[0] != "Icmp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "OutErrors" {
				count, _ = strconv.ParseUint(fields[i], 10, 64)
			}
		}
	}
	return count
}

// closeEnd closes e in one of two ways.
func (s *soaking) closeEnd(e *end, gently bool) {
	if e.c == nil {
		return
	}
	var err error
	if gently {
		ctx, cancel := context.WithTimeout(context.Background(), failSafe)
		err = e.c.Shutdown(ctx)
		cancel()
	} else {
		err = e.c.Close()
	}
	if err := errors.Join(err, e.c.Wait()); err != nil {
		s.t.Errorf("%v: %v", e.c, err)
	}
	stats := e.c.Stats()
	if stats.ReadErrors != 0 {
		s.t.Errorf("%v: %+v", e.c, stats)
	}
	e.counted += stats.ReadDatagrams + stats.Dropped
	s.dropped.Add(stats.Dropped)
	e.c = nil
}

// settledHeap returns how much memory is in use when nothing is in pools.
func settledHeap() int64 {
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
