package udp_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

var (
	workerScenarios = []scenario{
		{"Workers", testWorkers},
		{"WorkersBlocked", testWorkersBlocked},
		{"WorkersDropped", testWorkersDropped},
		{"WorkersShutdown", testWorkersShutdown},
		{"WorkersShutdownContext", testWorkersShutdownContext},
		{"WorkersClose", testWorkersClose},
		{"WorkersConnect", testWorkersConnect},
		{"WorkersGoexit", testWorkersGoexit},
		{"WorkersPanic", testWorkersPanic},
		{"WorkersBatch", testWorkersBatch},
		{"WorkersQueue", testWorkersQueue},
		{"WorkersShared", testWorkersShared},
		{"WorkersEmbedded", testWorkersEmbedded},
		{"WorkersStartFails", testWorkersStartFails},
	}
	nativeWorkerScenarios = []scenario{
		{"WorkersUndelivered", testWorkersUndelivered},
	}
)

func TestWorkers(t *testing.T) {
	runScenarios(t, workerScenarios, slices.Concat(kernelSetups(), []setup{foreignSetup()}, memSetups()))
	runScenarios(t, nativeWorkerScenarios, slices.Concat(kernelSetups(), memSetups()))
	runScenarios(t, inBubbles(workerScenarios, nativeWorkerScenarios), memSetups())
}

// testWorkers has more peers than workers: the datagrams of each are handled
// in their order, by one goroutine.
func testWorkers(t *testing.T, n setup) {
	const N, peers, each = 3, 12, 10
	var mu sync.Mutex
	by := make(map[netip.AddrPort]string)
	next := make(map[netip.AddrPort]int)
	goroutines := make(map[string]bool)
	c := n.listen(t, &udp.Workers{N: N, Handler: udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		mu.Lock()
		defer mu.Unlock()
		me := goroutine()
		goroutines[me] = true
		if old, known := by[d.Addr]; known && old != me {
			t.Errorf("%v is handled in several goroutines", d.Addr)
		}
		by[d.Addr] = me
		if string(d.Payload) != strconv.Itoa(next[d.Addr]) {
			t.Errorf("%s from %v, want %d", d.Payload, d.Addr, next[d.Addr])
		}
		next[d.Addr]++
		_ = append(d.Payload, "over the next"...)
		if _, err := c.Reply(d, d.Payload); err != nil {
			t.Error(err)
		}
	})})
	all := make([]bare, peers)
	for i := range all {
		all[i] = n.peer(t)
	}
	for i := range each {
		for _, p := range all {
			p.send(t, n.reach(c), strconv.Itoa(i))
		}
		for _, p := range all {
			p.expect(t, strconv.Itoa(i), n.reach(c))
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(goroutines) < 2 || len(goroutines) > N {
		t.Errorf("%d goroutines have handled datagrams, want %d", len(goroutines), N)
	}
}

// testWorkersBlocked has one peer's handler block: others are answered.
func testWorkersBlocked(t *testing.T, n setup) {
	answered := make(chan struct{}, 100)
	block := make(chan struct{})
	defer close(block)
	c := n.listen(t, &udp.Workers{N: 4, Handler: udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		if string(d.Payload) == "block" {
			<-block
			return
		}
		answered <- struct{}{}
	})})
	n.peer(t).send(t, n.reach(c), "block")
	for range 20 { // some of them have the same worker
		n.peer(t).send(t, n.reach(c), "x")
	}
	wait(t, answered)
}

// A blocker is a Handler that blocks in the first datagram.
type blocker struct {
	funcs
	entered, release chan struct{}
	handled          atomic.Int32
}

func newBlocker() *blocker {
	return &blocker{entered: make(chan struct{}), release: make(chan struct{})}
}

func (b *blocker) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	if b.handled.Add(1) == 1 {
		close(b.entered)
		<-b.release
	}
	b.funcs.HandleDatagram(c, d)
}

// behind sends one datagram, which blocks, and then count more, and returns
// when the Conn has read them.
func (b *blocker) behind(t *testing.T, n setup, c *udp.Conn, count int) {
	p := n.peer(t)
	p.send(t, n.reach(c), "first")
	wait(t, b.entered)
	for i := range count {
		p.send(t, n.reach(c), strconv.Itoa(i))
	}
	eventually(t, "all are read", func() bool { return c.Stats().ReadDatagrams == uint64(count+1) })
}

// testWorkersDropped has more datagrams than there is room for.
func testWorkersDropped(t *testing.T, n setup) {
	b := newBlocker()
	w := &udp.Workers{N: 1, Queue: 3, Handler: b}
	c := n.listen(t, w)
	b.behind(t, n, c, 10)
	eventually(t, "what does not fit is dropped", func() bool { return w.Dropped() == 7 })
	close(b.release)
	shutdown(t, c)
	if got := b.handled.Load(); got != 4 || w.Dropped() != 7 {
		t.Errorf("%d are handled, want 4; %d dropped, want 7", got, w.Dropped())
	}
}

// testWorkersShutdown has all handled that waits, and HandleStop come after.
func testWorkersShutdown(t *testing.T, n setup) {
	b := newBlocker()
	p := n.peer(t)
	b.stop = func(c *udp.Conn, err error) {
		if got := b.handled.Load(); got != 6 || err != nil {
			t.Errorf("HandleStop comes after %d of 6, with %v", got, err)
		}
		c.WriteTo([]byte("goodbye"), p.addr)
	}
	c := n.listen(t, &udp.Workers{N: 1, Handler: b})
	b.behind(t, n, c, 5)
	stopped := async(func() error { return c.Shutdown(t.Context()) })
	close(b.release)
	check(t, wait(t, stopped))
	p.expect(t, "goodbye", n.reach(c))
	if got := c.Stats().Discarded; got != 0 {
		t.Errorf("%d are discarded", got)
	}
}

// testWorkersShutdownContext gives up waiting for what waits.
func testWorkersShutdownContext(t *testing.T, n setup) {
	b := newBlocker()
	c := n.listen(t, &udp.Workers{N: 1, Handler: b})
	b.behind(t, n, c, 5)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := async(func() error { return c.Shutdown(ctx) })
	cancel()
	if err := wait(t, stopped); err == nil {
		t.Error("Shutdown returns nil")
	}
	close(b.release)
	check(t, c.Wait())
	if got := b.handled.Load(); got != 1 || c.Stats().Discarded != 5 {
		t.Errorf("%d are handled, want 1; %d discarded, want 5", got, c.Stats().Discarded)
	}
}

// testWorkersClose throws away what waits, and counts it.
func testWorkersClose(t *testing.T, n setup) {
	b := newBlocker()
	var returned atomic.Bool
	b.datagram = func(*udp.Conn, udp.Datagram) { returned.Store(true) }
	b.stop = func(c *udp.Conn, err error) {
		if !returned.Load() || err != nil {
			t.Errorf("HandleStop comes before a call has returned, with %v", err)
		}
	}
	c := n.listen(t, &udp.Workers{N: 1, Handler: b})
	b.behind(t, n, c, 5)
	check(t, c.Close())
	close(b.release)
	check(t, c.Wait())
	if got := b.handled.Load(); got != 1 || c.Stats().Discarded != 5 {
		t.Errorf("%d are handled, want 1; %d discarded, want 5", got, c.Stats().Discarded)
	}
}

// testWorkersConnect connects while datagrams wait, of which only the peer's
// is delivered then.
func testWorkersConnect(t *testing.T, n setup) {
	b := newBlocker()
	got := make(chan string, 10)
	b.datagram = func(_ *udp.Conn, d udp.Datagram) { got <- string(d.Payload) }
	c := n.listen(t, &udp.Workers{N: 1, Handler: b})
	p := n.peer(t)
	b.behind(t, n, c, 2)
	p.send(t, n.reach(c), "peer")
	eventually(t, "all are read", func() bool { return c.Stats().ReadDatagrams == 4 })
	check(t, c.Connect(p.addr))
	close(b.release)
	shutdown(t, c)
	close(got)
	var all []string
	for payload := range got {
		all = append(all, payload)
	}
	if fmt.Sprint(all) != "[first peer]" || c.Stats().Discarded != 2 {
		t.Errorf("%v are delivered, %d discarded", all, c.Stats().Discarded)
	}
}

// testWorkersGoexit has a handler end the worker's goroutine.
func testWorkersGoexit(t *testing.T, n setup) {
	b := newBlocker()
	b.datagram = func(_ *udp.Conn, d udp.Datagram) {
		if string(d.Payload) == "1" || string(d.Payload) == "3" {
			runtime.Goexit()
		}
	}
	c := n.listen(t, &udp.Workers{N: 1, Handler: b})
	b.behind(t, n, c, 4)
	close(b.release)
	eventually(t, "all are handled", func() bool { return b.handled.Load() == 5 })
	n.peer(t).send(t, n.reach(c), "3")
	eventually(t, "one more", func() bool { return b.handled.Load() == 6 })
	shutdown(t, c)
}

// testWorkersPanic panics in a worker and in the Conn's goroutine.
func testWorkersPanic(t *testing.T, n setup) {
	type recovered struct {
		v         any
		goroutine string
	}
	panics := make(chan recovered, 10)
	n.config.Recover = func(_ *udp.Conn, v any) { panics <- recovered{v, goroutine()} }
	handlers := make(chan string, 10)
	c := n.listen(t, &udp.Workers{N: 1, Handler: funcs{
		datagram: func(_ *udp.Conn, d udp.Datagram) {
			handlers <- goroutine()
			panic(string(d.Payload))
		},
		stop: func(*udp.Conn, error) { panic("stop") },
	}})
	for _, payload := range []string{"one", "two"} {
		n.peer(t).send(t, n.reach(c), payload)
		if r := wait(t, panics); r.v != any(payload) || r.goroutine != wait(t, handlers) {
			t.Errorf("recovered %v in %v", r.v, r.goroutine)
		}
	}
	c.Close()
	check(t, c.Wait())
	if r := wait(t, panics); r.v != any("stop") || c.Stats().Panics != 3 {
		t.Errorf("recovered %v, %d in all", r.v, c.Stats().Panics)
	}
}

// testWorkersBatch has the Handler take all that waits.
func testWorkersBatch(t *testing.T, n setup) {
	entered, release := make(chan struct{}), make(chan struct{})
	batches := make(chan string, 10)
	c := n.listen(t, &udp.Workers{N: 1, Handler: udp.BatchHandlerFunc(func(_ *udp.Conn, ds []udp.Datagram) {
		var all []string
		for i := range ds {
			all = append(all, string(ds[i].Payload))
			ds[i] = udp.Datagram{}
		}
		batches <- strings.Join(all, " ")
		if all[0] == "first" {
			close(entered)
			<-release
		}
	})})
	p := n.peer(t)
	p.send(t, n.reach(c), "first")
	wait(t, entered)
	for i := range 4 {
		p.send(t, n.reach(c), strconv.Itoa(i))
	}
	eventually(t, "all are read", func() bool { return c.Stats().ReadDatagrams == 5 })
	p.send(t, n.reach(c), "last") // the last that the Conn's goroutine hands over
	eventually(t, "all are read", func() bool { return c.Stats().ReadDatagrams == 6 })
	close(release)
	shutdown(t, c)
	close(batches)
	var all []string
	for b := range batches {
		all = append(all, b)
	}
	if got := strings.Join(all, " "); got != "first 0 1 2 3 last" || len(all) > 3 {
		t.Errorf("the batches are %q", all)
	}
}

// testWorkersQueue has a worker answer by Queue, and end its goroutine after
// the last: all that waited is answered in one batch.
func testWorkersQueue(t *testing.T, n setup) {
	const waiting = 20
	b := newBlocker()
	b.datagram = func(c *udp.Conn, d udp.Datagram) {
		if err := c.Queue(d); err != nil {
			t.Error(err)
		}
		if string(d.Payload) == strconv.Itoa(waiting-1) {
			runtime.Goexit()
		}
	}
	c := n.listen(t, &udp.Workers{N: 1, Handler: b})
	p := n.peer(t)
	p.send(t, n.reach(c), "first")
	wait(t, b.entered)
	for i := range waiting {
		p.send(t, n.reach(c), strconv.Itoa(i))
	}
	eventually(t, "all are read", func() bool { return c.Stats().ReadDatagrams == waiting+1 })
	inGoroutine(t, c, func() {}) // what was read has been handed over
	close(b.release)
	p.expect(t, "first", n.reach(c))
	for i := range waiting {
		p.expect(t, strconv.Itoa(i), n.reach(c))
	}
	if s := c.Stats(); n.kernel && n.batches && s.Writes > 5 {
		t.Errorf("%d datagrams are sent in %d calls", s.WriteDatagrams, s.Writes)
	}
}

// testWorkersShared has two Conns, and later a third, with the same Workers.
func testWorkersShared(t *testing.T, n setup) {
	var stops atomic.Int32
	w := &udp.Workers{N: 2, Handler: funcs{
		datagram: func(c *udp.Conn, d udp.Datagram) { c.Reply(d, d.Payload) },
		stop:     func(*udp.Conn, error) { stops.Add(1) },
	}}
	a, b := n.listen(t, w), n.listen(t, w)
	p := n.peer(t)
	for _, c := range []*udp.Conn{a, b, a, b} {
		p.send(t, n.reach(c), "x")
		p.expect(t, "x", n.reach(c))
	}
	shutdown(t, a)
	p.send(t, n.reach(b), "y")
	p.expect(t, "y", n.reach(b))
	b.Close()
	check(t, b.Wait())
	again := n.listen(t, w)
	p.send(t, n.reach(again), "z")
	p.expect(t, "z", n.reach(again))
	shutdown(t, again)
	if stops.Load() != 3 {
		t.Errorf("%d HandleStops", stops.Load())
	}
}

// doorman keeps a peer out of the Workers that it embeds.
type doorman struct {
	*udp.Workers
	out netip.AddrPort
}

func (k doorman) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	if d.Addr != k.out {
		k.Workers.HandleDatagram(c, d)
	}
}

func testWorkersEmbedded(t *testing.T, n setup) {
	a, b := n.peer(t), n.peer(t)
	c := n.listen(t, doorman{&udp.Workers{N: 1, Handler: echo(t)}, b.addr})
	b.send(t, n.reach(c), "b")
	a.send(t, n.reach(c), "a")
	a.expect(t, "a", n.reach(c))
	shutdown(t, c)
	if got := c.Stats().WriteDatagrams; got != 1 {
		t.Errorf("%d are answered", got)
	}
}

// testWorkersStartFails leaves no goroutine behind where Listen fails.
func testWorkersStartFails(t *testing.T, n setup) {
	h := funcs{
		start: func(*udp.Conn) error { return fmt.Errorf("no") },
		stop:  func(*udp.Conn, error) { t.Error("HandleStop is called") },
	}
	if _, err := n.config.Listen(t.Context(), n.bind, &udp.Workers{Handler: h}); err == nil || err.Error() != "no" {
		t.Errorf("the error is %v", err)
	}
	h.start = func(*udp.Conn) error { panic("start") }
	defer func() {
		if v := recover(); v != any("start") {
			t.Errorf("recovered %v", v)
		}
	}()
	n.config.Listen(t.Context(), n.bind, &udp.Workers{Handler: h})
}

// testWorkersUndelivered has reports come in the Conn's goroutine while the
// worker blocks.
func testWorkersUndelivered(t *testing.T, n setup) {
	b := newBlocker()
	reports := make(chan udp.Undelivered, 10)
	b.undelivered = func(_ *udp.Conn, u udp.Undelivered) { reports <- u }
	c := n.listen(t, &udp.Workers{N: 1, Handler: b})
	n.peer(t).send(t, n.reach(c), "x")
	wait(t, b.entered)
	dead := n.dead(t)
	check(t, second(c.WriteTo([]byte("x"), dead)))
	if u := wait(t, reports); u.Addr != dead {
		t.Errorf("the report is %+v", u)
	}
	close(b.release)
}

// TestWorkersBytes has long datagrams wait, of which there is room for 4 MiB.
func TestWorkersBytes(t *testing.T) {
	const size, count = 60000, 100
	n := memSetups()[0]
	n.config.PacketListener = new(udp.MemNet)
	b := newBlocker()
	b.datagram = func(_ *udp.Conn, d udp.Datagram) {
		if string(d.Payload) != "first" && (len(d.Payload) != size || strings.Trim(string(d.Payload[1:]), string(d.Payload[:1])) != "") {
			t.Errorf("%d bytes, %.10q", len(d.Payload), d.Payload)
		}
	}
	w := &udp.Workers{N: 1, Handler: b}
	c := n.listen(t, w)
	b.behind(t, n, c, 0)
	p := n.peer(t)
	for i := range count {
		p.send(t, n.reach(c), strings.Repeat(string(rune('a'+i%26)), size))
		eventually(t, "it is read", func() bool { return c.Stats().ReadDatagrams == uint64(i+2) })
	}
	want := 4 << 20 / size
	eventually(t, "what does not fit is dropped", func() bool { return w.Dropped() >= uint64(count-want) })
	close(b.release)
	shutdown(t, c)
	if int(b.handled.Load()) != want+1 || w.Dropped() != uint64(count-want) {
		t.Errorf("%d are handled, %d dropped; want %d", b.handled.Load(), w.Dropped(), want+1)
	}
}

// TestWorkersLog has the Logger told of drops, once a second.
func TestWorkersLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memSetups()[0]
		n.config.PacketListener = new(udp.MemNet)
		var log bytes.Buffer // written in the Conn's goroutine
		n.config.Logger = slog.New(slog.NewTextHandler(&log, nil))
		b := newBlocker()
		w := &udp.Workers{N: 1, Queue: 1, Handler: b}
		c := n.listen(t, w)
		b.behind(t, n, c, 1)
		p := n.peer(t)
		for range 100 {
			p.send(t, n.reach(c), "x")
			time.Sleep(25 * time.Millisecond)
		}
		close(b.release)
		shutdown(t, c)
		if got := strings.Count(log.String(), "workers are behind"); got != 3 || !strings.Contains(log.String(), "dropped=41") {
			t.Errorf("%d lines in 2.5 s, want 3:\n%s", got, log.String())
		}
		if w.Dropped() != 100 {
			t.Errorf("%d were dropped", w.Dropped())
		}
	})
}

// TestWorkersAndSessionsAllocate counts the allocations of a datagram on its
// way to a session's handler or a worker's, and back.
func TestWorkersAndSessionsAllocate(t *testing.T) {
	if raceDetector() {
		t.Skip("the race detector allocates: try without -race")
	}
	payload := []byte(text(100))
	reply := udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) { c.Reply(d, d.Payload) })
	batches := udp.BatchHandlerFunc(func(c *udp.Conn, ds []udp.Datagram) { c.WriteBatch(ds) })
	session := func(h udp.Handler) *udp.Sessions {
		return &udp.Sessions{New: func(*udp.Conn, udp.Datagram) udp.Handler { return h }}
	}
	for _, test := range []struct {
		name string
		h    udp.Handler
	}{
		{"Sessions", session(reply)},
		{"Sessions of batches", session(batches)},
		{"Sessions, embedded", keeper{Sessions: session(reply)}},
		{"Workers", &udp.Workers{N: 2, Handler: reply}},
		{"Workers of batches", &udp.Workers{N: 2, Handler: batches}},
	} {
		for _, n := range append(kernelSetups(), memSetups()[0]) {
			if portable() && n.kernel {
				continue // package net allocates
			}
			n.config.Recover = func(*udp.Conn, any) {}
			server := n.listen(t, test.h)
			back := make(chan struct{}, 1)
			client := n.listen(t, udp.HandlerFunc(func(*udp.Conn, udp.Datagram) { back <- struct{}{} }))
			to := n.reach(server)
			got := testing.AllocsPerRun(300, func() {
				client.WriteTo(payload, to)
				<-back
			})
			if got != 0 {
				t.Errorf("%s, %s: %v allocations", test.name, n.name, got)
			}
			server.Close()
			check(t, server.Wait())
			client.Close()
		}
	}
}

// groupsTold is a Handler that is told of groups.
type groupsTold struct {
	funcs
	joined chan []udp.Group
}

func (h groupsTold) HandleGroups(_ *udp.Conn, joined, _ []udp.Group) { h.joined <- joined }

// TestWorkersGroups has HandleGroups called through Workers, directly and by a
// Handler around them.
func TestWorkersGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lc := udp.ListenConfig{PacketListener: new(udp.MemNet)}
		h := groupsTold{joined: make(chan []udp.Group, 1)}
		w := &udp.Workers{N: 1, Handler: h}
		for _, h := range []udp.Handler{w, doorman{Workers: w}} {
			c, err := lc.Listen(t.Context(), ":0", h)
			check(t, err)
			check(t, c.JoinAll(netip.MustParseAddr("239.1.2.3")))
			if joined := wait(t, w.Handler.(groupsTold).joined); len(joined) != 1 || joined[0].Addr != netip.MustParseAddr("239.1.2.3") {
				t.Errorf("joined %v", joined)
			}
			shutdown(t, c)
		}
	})
}
