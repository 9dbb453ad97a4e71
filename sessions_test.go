package udp_test

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// sessionScenarios work with any net.PacketConn, nativeSessionScenarios where
// there are reports.
var (
	sessionScenarios = []scenario{
		{"Sessions", testSessions},
		{"SessionRefused", testSessionRefused},
		{"SessionEnd", testSessionEnd},
		{"SessionBatch", testSessionBatch},
		{"SessionGoexit", testSessionGoexit},
		{"SessionStopGoexit", testSessionStopGoexit},
		{"SessionPanic", testSessionPanic},
		{"SessionCloses", testSessionCloses},
		{"SessionsTwice", testSessionsTwice},
		{"SessionsEmbedded", testSessionsEmbedded},
		{"SessionTimers", testSessionTimers},
	}
	nativeSessionScenarios = []scenario{
		{"SessionUndelivered", testSessionUndelivered},
	}
)

func TestSessions(t *testing.T) {
	runScenarios(t, sessionScenarios, slices.Concat(kernelSetups(), []setup{foreignSetup()}, memSetups()))
	runScenarios(t, nativeSessionScenarios, slices.Concat(kernelSetups(), memSetups()))
	runScenarios(t, inBubbles(sessionScenarios, nativeSessionScenarios), memSetups())
}

// A diary is what sessions note in the Conn's goroutine, to be read when that
// has ended.
type diary struct {
	entries []string
	peers   map[netip.AddrPort]string // their names
}

func newDiary(peers ...bare) *diary {
	d := &diary{peers: make(map[netip.AddrPort]string)}
	for i, p := range peers {
		d.peers[p.addr] = string(rune('a' + i))
	}
	return d
}

func (d *diary) note(format string, args ...any) {
	d.entries = append(d.entries, fmt.Sprintf(format, args...))
}

func (d *diary) expect(t *testing.T, want string) {
	t.Helper()
	if got := strings.Join(d.entries, ", "); got != want {
		t.Errorf("it happens: %s\n        want: %s", got, want)
	}
}

// session returns a Handler that notes its calls.
func (d *diary) session(c *udp.Conn, first udp.Datagram) udp.Handler {
	name := d.peers[first.Addr]
	d.note("new %s %s", name, first.Payload)
	return funcs{
		start:       func(*udp.Conn) error { d.note("start %s", name); return nil },
		datagram:    func(_ *udp.Conn, got udp.Datagram) { d.note("%s %s", name, got.Payload) },
		undelivered: func(_ *udp.Conn, u udp.Undelivered) { d.note("%s is refused: %v", name, u.Err) },
		stop:        func(_ *udp.Conn, err error) { d.note("stop %s %v", name, err) },
	}
}

// testSessions has two peers.
func testSessions(t *testing.T, n setup) {
	a, b := n.peer(t), n.peer(t)
	d := newDiary(a, b)
	s := &udp.Sessions{New: d.session}
	c := n.listen(t, s)
	a.send(t, n.reach(c), "1")
	b.send(t, n.reach(c), "2")
	b.send(t, n.reach(c), "")
	a.send(t, n.reach(c), "3")
	eventually(t, "two sessions", func() bool { return s.Len() == 2 })
	shutdown(t, c)
	d.expect(t, "new a 1, start a, a 1, new b 2, start b, b 2, b , a 3, stop b <nil>, stop a <nil>")
	if s.Len() != 0 || s.Refused() != 0 {
		t.Errorf("%d sessions are left, %d datagrams were refused", s.Len(), s.Refused())
	}
}

// testSessionRefused has peers that New, HandleStart or Max keep out, and that
// may come again.
func testSessionRefused(t *testing.T, n setup) {
	a, b, e := n.peer(t), n.peer(t), n.peer(t)
	d := newDiary(a, b, e)
	s := &udp.Sessions{Max: 2, New: func(c *udp.Conn, first udp.Datagram) udp.Handler {
		switch string(first.Payload) {
		case "nil":
			d.note("nil")
			return nil
		case "error":
			return funcs{
				start: func(*udp.Conn) error { d.note("error"); return errors.New("no") },
				stop:  func(*udp.Conn, error) { t.Error("HandleStop is called") },
			}
		}
		return d.session(c, first)
	}}
	c := n.listen(t, s)
	for _, send := range []struct {
		from    bare
		payload string
	}{
		{a, "nil"}, {a, "error"}, {a, "1"}, {a, "nil"}, {b, "error"}, {b, "2"}, {e, "3"}, {e, "nil"}, {b, "4"},
	} {
		send.from.send(t, n.reach(c), send.payload)
	}
	shutdown(t, c)
	d.expect(t, "nil, error, new a 1, start a, a 1, a nil, error, new b 2, start b, b 2, b 4, stop a <nil>, stop b <nil>")
	if s.Refused() != 5 {
		t.Errorf("%d datagrams were refused, want 5", s.Refused())
	}
}

// testSessionEnd ends sessions in all places where that can be.
func testSessionEnd(t *testing.T, n setup) {
	a, b := n.peer(t), n.peer(t)
	d := newDiary(a, b)
	var s *udp.Sessions
	end := func(p bare) { d.note("end %s %v", d.peers[p.addr], s.End(p.addr)) }
	s = &udp.Sessions{New: func(c *udp.Conn, first udp.Datagram) udp.Handler {
		name := d.peers[first.Addr]
		d.note("new %s", name)
		end(a)
		return funcs{
			start: func(*udp.Conn) error {
				if string(first.Payload) == "start" {
					end(b)
				}
				return nil
			},
			datagram: func(c *udp.Conn, got udp.Datagram) {
				d.note("%s %s", name, got.Payload)
				switch string(got.Payload) {
				case "a":
					end(a)
				case "b":
					end(b)
				case "twice":
					end(b)
					end(b)
				}
				d.note("done")
			},
			stop: func(*udp.Conn, error) {
				d.note("stop %s", name)
				end(b)
			},
		}
	}}
	c := n.listen(t, s)
	for _, send := range []struct {
		from    bare
		payload string
	}{
		{a, "a"}, {a, "1"}, {b, "2"}, {b, "a"}, {b, "twice"}, {b, "start"}, {a, "3"}, {b, "4"}, {a, "b"},
	} {
		send.from.send(t, n.reach(c), send.payload)
	}
	shutdown(t, c)
	d.expect(t, "new a, end a false, a a, end a true, done, stop a, end b false, "+
		"new a, end a false, a 1, done, "+
		"new b, stop a, end b false, end a true, b 2, done, "+
		"b a, end a false, done, "+
		"b twice, end b true, end b false, done, stop b, end b false, "+
		"new b, end a false, end b true, stop b, end b false, "+
		"new a, end a false, a 3, done, "+
		"new b, stop a, end b false, end a true, b 4, done, "+
		"new a, end a false, a b, stop b, end b false, end b true, done, stop a, end b false")
}

// testSessionBatch has a session with HandleBatch, and one without.
func testSessionBatch(t *testing.T, n setup) {
	a, b := n.peer(t), n.peer(t)
	d := newDiary(a, b)
	block, blocked := make(chan struct{}), make(chan struct{})
	s := &udp.Sessions{New: func(c *udp.Conn, first udp.Datagram) udp.Handler {
		if first.Addr == b.addr {
			return d.session(c, first)
		}
		return udp.BatchHandlerFunc(func(_ *udp.Conn, ds []udp.Datagram) {
			for i := range ds {
				if ds[i].Addr != a.addr {
					t.Errorf("a's session gets a datagram from %v", ds[i].Addr)
				}
				d.note("%s/%d", ds[i].Payload, len(ds))
				ds[i] = udp.Datagram{}
			}
			_ = append(ds, udp.Datagram{}, udp.Datagram{})
			if block != nil {
				close(blocked)
				<-block
				block = nil
			}
		})
	}}
	c := n.listen(t, s)
	release := block
	a.send(t, n.reach(c), "0")
	wait(t, blocked)
	for i, p := range []bare{a, a, b, b, a, b} {
		p.send(t, n.reach(c), fmt.Sprint(i+1))
	}
	close(release)
	shutdown(t, c)
	if n.batches {
		d.expect(t, "0/1, 1/2, 2/2, new b 3, start b, b 3, b 4, 5/1, b 6, stop b <nil>")
	} else {
		d.expect(t, "0/1, 1/1, 2/1, new b 3, start b, b 3, b 4, 5/1, b 6, stop b <nil>")
	}
}

// testSessionGoexit has a session end the goroutine: the Conn stops, but what
// had been read for others is theirs.
func testSessionGoexit(t *testing.T, n setup) {
	a, b := n.peer(t), n.peer(t)
	d := newDiary(a, b)
	block, blocked := make(chan struct{}), make(chan struct{})
	s := &udp.Sessions{New: func(c *udp.Conn, first udp.Datagram) udp.Handler {
		h := d.session(c, first).(funcs)
		note := h.datagram
		h.datagram = func(c *udp.Conn, got udp.Datagram) {
			note(c, got)
			switch string(got.Payload) {
			case "block":
				close(blocked)
				<-block
			case "exit":
				runtime.Goexit()
			}
		}
		h.stop = func(_ *udp.Conn, err error) { d.note("stop %s %v", d.peers[first.Addr], err != nil) }
		return h
	}}
	c := n.listen(t, s)
	a.send(t, n.reach(c), "block")
	wait(t, blocked)
	a.send(t, n.reach(c), "exit")
	b.send(t, n.reach(c), "1")
	close(block)
	if err := c.Wait(); err == nil {
		t.Error("Wait returns nil")
	}
	if n.batches {
		d.expect(t, "new a block, start a, a block, a exit, new b 1, start b, b 1, stop a true, stop b true")
	} else {
		d.expect(t, "new a block, start a, a block, a exit, stop a true")
	}
}

// testSessionStopGoexit has HandleStop of a session end the goroutine: the
// others are told all the same.
func testSessionStopGoexit(t *testing.T, n setup) {
	d := newDiary()
	s := &udp.Sessions{New: func(c *udp.Conn, first udp.Datagram) udp.Handler {
		name := string(first.Payload)
		return funcs{stop: func(*udp.Conn, error) {
			d.note("stop %s", name)
			runtime.Goexit()
		}}
	}}
	c := n.listen(t, s)
	for i := range 3 {
		n.peer(t).send(t, n.reach(c), fmt.Sprint(i))
	}
	eventually(t, "three sessions", func() bool { return s.Len() == 3 })
	c.Close()
	c.Wait()
	if len(d.entries) != 3 {
		t.Errorf("it happens: %v", d.entries)
	}
	n.listen(t, s) // it is free again
}

// testSessionPanic panics in each callback: that costs no other datagram.
func testSessionPanic(t *testing.T, n setup) {
	a, b := n.peer(t), n.peer(t)
	d := newDiary(a, b)
	n.config.Recover = func(_ *udp.Conn, v any) { d.note("recover %v", v) }
	var s *udp.Sessions
	s = &udp.Sessions{New: func(c *udp.Conn, first udp.Datagram) udp.Handler {
		switch string(first.Payload) {
		case "new":
			panic("new")
		case "start":
			return funcs{
				start: func(*udp.Conn) error { panic("start") },
				stop:  func(*udp.Conn, error) { t.Error("HandleStop is called") },
			}
		}
		h := d.session(c, first).(funcs)
		note := h.datagram
		h.datagram = func(c *udp.Conn, got udp.Datagram) {
			note(c, got)
			if first.Addr == a.addr {
				s.End(a.addr)
				panic("datagram")
			}
		}
		h.stop = func(*udp.Conn, error) { panic("stop " + d.peers[first.Addr]) }
		return h
	}}
	c := n.listen(t, s)
	for _, send := range []struct {
		from    bare
		payload string
	}{
		{a, "new"}, {b, "1"}, {a, "start"}, {b, "2"}, {a, "3"}, {b, "4"},
	} {
		send.from.send(t, n.reach(c), send.payload)
	}
	shutdown(t, c)
	d.expect(t, "recover new, new b 1, start b, b 1, recover start, b 2, "+
		"new a 3, start a, a 3, recover datagram, recover stop a, b 4, recover stop b")
	if got := c.Stats().Panics; got != 5 {
		t.Errorf("Stats.Panics is %d, want 5", got)
	}
	if s.Refused() != 2 || s.Len() != 0 {
		t.Errorf("%d were refused, want 2; %d sessions are left", s.Refused(), s.Len())
	}
}

// testSessionCloses closes the Conn in a session: no other gets anything.
func testSessionCloses(t *testing.T, n setup) {
	a, b := n.peer(t), n.peer(t)
	d := newDiary(a, b)
	block, blocked := make(chan struct{}), make(chan struct{})
	s := &udp.Sessions{New: func(c *udp.Conn, first udp.Datagram) udp.Handler {
		h := d.session(c, first).(funcs)
		h.datagram = func(c *udp.Conn, got udp.Datagram) {
			d.note("%s", got.Payload)
			if string(got.Payload) == "close" {
				close(blocked)
				<-block
				c.Close()
			}
		}
		return h
	}}
	c := n.listen(t, s)
	a.send(t, n.reach(c), "close")
	wait(t, blocked)
	b.send(t, n.reach(c), "1")
	a.send(t, n.reach(c), "2")
	close(block)
	check(t, c.Wait())
	d.expect(t, "new a close, start a, close, stop a <nil>")
}

// testSessionsTwice has one Sessions on two Conns: at one time it is an error,
// one after the other it is not.
func testSessionsTwice(t *testing.T, n setup) {
	a := n.peer(t)
	d := newDiary(a)
	s := &udp.Sessions{New: d.session}
	c := n.listen(t, s)
	if second, err := n.config.Listen(t.Context(), n.bind, s); err == nil {
		second.Close()
		t.Error("one Sessions serves two Conns")
	} else if op := checkOpError(t, err); op.Err.Error() != "Sessions serve one Conn at a time" {
		t.Errorf("the error is %v", err)
	}
	a.send(t, n.reach(c), "1")
	eventually(t, "a session", func() bool { return s.Len() == 1 })
	c.Close()
	check(t, c.Wait())

	// A Listen that fails later leaves nothing behind.
	if _, err := n.config.Listen(t.Context(), n.bind, failingLater{s}); err == nil || err.Error() != "later" {
		t.Errorf("the error is %v", err)
	}

	c = n.listen(t, s)
	a.send(t, n.reach(c), "2")
	shutdown(t, c)
	if d.entries[len(d.entries)-1] != "stop a <nil>" || len(d.entries) < 4 {
		t.Errorf("it happens: %v", d.entries)
	}
}

type failingLater struct{ *udp.Sessions }

func (f failingLater) HandleStart(c *udp.Conn) error {
	if err := f.Sessions.HandleStart(c); err != nil {
		return err
	}
	return errors.New("later")
}

// keeper keeps one peer out of the Sessions that it embeds.
type keeper struct {
	*udp.Sessions
	out netip.AddrPort
}

func (k keeper) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	if d.Addr != k.out {
		k.Sessions.HandleDatagram(c, d)
	}
}

// testSessionsEmbedded has a Handler around Sessions.
func testSessionsEmbedded(t *testing.T, n setup) {
	a, b := n.peer(t), n.peer(t)
	d := newDiary(a, b)
	c := n.listen(t, keeper{&udp.Sessions{New: d.session}, b.addr})
	for i, p := range []bare{a, b, a} {
		p.send(t, n.reach(c), fmt.Sprint(i))
	}
	shutdown(t, c)
	d.expect(t, "new a 0, start a, a 0, a 2, stop a <nil>")
}

// testSessionTimers has a session answer later, by a timer and a post.
func testSessionTimers(t *testing.T, n setup) {
	a := n.peer(t)
	c := n.listen(t, &udp.Sessions{New: func(c *udp.Conn, first udp.Datagram) udp.Handler {
		var timer *udp.Timer
		return funcs{
			datagram: func(c *udp.Conn, d udp.Datagram) {
				d = d.Clone()
				timer = c.AfterFunc(time.Millisecond, func() {
					c.Post(func() { c.Reply(d, d.Payload) })
				})
			},
			stop: func(*udp.Conn, error) { timer.Stop() },
		}
	}})
	a.send(t, n.reach(c), "later")
	a.expect(t, "later", n.reach(c))
}

// testSessionUndelivered has two sessions answer, one to a peer that is gone.
func testSessionUndelivered(t *testing.T, n setup) {
	a, b := n.peer(t), n.peer(t)
	d := newDiary(a, b)
	refused := make(chan struct{})
	go_, gone := make(chan struct{}), make(chan struct{})
	c := n.listen(t, &udp.Sessions{New: func(c *udp.Conn, first udp.Datagram) udp.Handler {
		h := d.session(c, first).(funcs)
		h.datagram = func(c *udp.Conn, got udp.Datagram) {
			if got.Addr == a.addr {
				close(go_)
				<-gone
			}
			c.Reply(got, got.Payload)
		}
		note := h.undelivered
		h.undelivered = func(c *udp.Conn, u udp.Undelivered) {
			if note(c, u); errors.Is(u.Err, syscall.ECONNREFUSED) {
				close(refused)
			}
		}
		return h
	}})
	b.send(t, n.reach(c), "1")
	b.expect(t, "1", n.reach(c))
	a.send(t, n.reach(c), "2")
	wait(t, go_)
	a.Close()
	close(gone)
	wait(t, refused)
	shutdown(t, c)
	d.expect(t, "new b 1, start b, new a 2, start a, a is refused: connection refused, stop b <nil>, stop a <nil>")
}

// TestSessionIdle has sessions that end by the clock: none early, none later
// than a tenth of Idle, whatever the pattern.
func TestSessionIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle = 10 * time.Second
		n := memSetups()[0]
		n.config.PacketListener = new(udp.MemNet)
		type life struct{ last time.Time }
		lives := make(map[netip.AddrPort]*life)
		var ends atomic.Int32
		s := &udp.Sessions{Idle: idle, New: func(c *udp.Conn, first udp.Datagram) udp.Handler {
			l := new(life)
			lives[first.Addr] = l
			return funcs{
				datagram: func(*udp.Conn, udp.Datagram) { l.last = time.Now() },
				stop: func(*udp.Conn, error) {
					ends.Add(1)
					if late := time.Since(l.last) - idle; late < 0 || late > idle/10 {
						t.Errorf("a session ends %v after its time", late)
					}
				},
			}
		}}
		c := n.listen(t, s)
		peers := make([]bare, 50)
		for i := range peers {
			peers[i] = n.peer(t)
		}
		for i := range 2000 {
			peers[i*i%(1+i%50)].send(t, n.reach(c), "x")
			time.Sleep(time.Duration(i%97) * 13 * time.Millisecond)
		}
		synctest.Wait()
		if ends.Load() < 50 || s.Len() == 0 {
			t.Errorf("%d sessions have ended, %d are left", ends.Load(), s.Len())
		}
		time.Sleep(idle + idle/10)
		synctest.Wait()
		if s.Len() != 0 {
			t.Errorf("%d sessions are left", s.Len())
		}

		// After a long silence a session lives no longer than at first.
		time.Sleep(time.Hour)
		peers[0].send(t, n.reach(c), "x")
		synctest.Wait()
		time.Sleep(idle - time.Nanosecond)
		synctest.Wait()
		if s.Len() != 1 {
			t.Error("a session ends early")
		}
		time.Sleep(idle/10 + time.Nanosecond)
		synctest.Wait()
		if s.Len() != 0 {
			t.Error("a session goes on")
		}
	})
}

// TestSessionDefaults has neither Idle nor Max.
func TestSessionDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memSetups()[0]
		n.config.PacketListener = new(udp.MemNet)
		s := &udp.Sessions{New: func(*udp.Conn, udp.Datagram) udp.Handler { return funcs{} }}
		c := n.listen(t, s)
		inGoroutine(t, c, func() {
			from := netip.MustParseAddr("192.0.2.0")
			for range 1<<16 + 5 { // without a socket for each
				from = from.Next()
				s.HandleDatagram(c, udp.Datagram{Addr: netip.AddrPortFrom(from, 9)})
			}
		})
		if s.Len() != 1<<16 || s.Refused() != 5 {
			t.Errorf("%d sessions, %d refused", s.Len(), s.Refused())
		}
		time.Sleep(time.Minute - time.Nanosecond)
		synctest.Wait()
		if s.Len() != 1<<16 {
			t.Errorf("%d sessions after a minute", s.Len())
		}
		time.Sleep(6*time.Second + time.Nanosecond)
		synctest.Wait()
		if s.Len() != 0 {
			t.Errorf("%d sessions after 66 s", s.Len())
		}
	})
}

// TestSessionMisuse has Handlers that cannot work.
func TestSessionMisuse(t *testing.T) {
	n := setup{bind: "127.0.0.1:0", host: loopback4}
	session := func(*udp.Conn, udp.Datagram) udp.Handler { return funcs{} }
	for _, test := range []struct {
		h    udp.Handler
		want string
	}{
		{new(udp.Sessions), "Sessions.New is nil"},
		{keeper{Sessions: new(udp.Sessions)}, "Sessions.New is nil"},
		{&udp.Sessions{New: session, Max: -1}, "Sessions.Idle is 0s, Sessions.Max -1"},
		{&udp.Sessions{New: session, Idle: -1}, "Sessions.Idle is -1ns, Sessions.Max 0"},
		{new(udp.Workers), "Workers.Handler is nil"},
		{&udp.Workers{Handler: funcs{}, N: -1}, "Workers.N is -1, Workers.Queue 0"},
		{&udp.Workers{Handler: funcs{}, Queue: -1}, "Workers.N is 0, Workers.Queue -1"},
		{&udp.Workers{Handler: &udp.Sessions{New: session}}, "Workers.Handler is a *udp.Sessions, which is called in one goroutine"},
		{&udp.Workers{Handler: keeper{Sessions: &udp.Sessions{New: session}}}, "Workers.Handler is a udp_test.keeper, which is called in one goroutine"},
		{&udp.Workers{Handler: &udp.Workers{Handler: funcs{}}}, "Workers.Handler is a *udp.Workers, which is called in one goroutine"},
		{&udp.Workers{Handler: stopOfPointer{}}, "handler udp_test.stopOfPointer: only *udp_test.stopOfPointer has HandleStop: pass a pointer"},
	} {
		c, err := n.config.Listen(t.Context(), n.bind, test.h)
		if err == nil {
			c.Close()
			t.Errorf("%T is taken; want: %s", test.h, test.want)
		} else if op := checkOpError(t, err); op.Err.Error() != test.want {
			t.Errorf("the error is\n%v, want\n%v", op.Err, test.want)
		}
	}

	// What New returns is seen later; it panics in New's place.
	panics := make(chan any, 1)
	n.config.Recover = func(_ *udp.Conn, v any) { panics <- v }
	for _, test := range []struct {
		h    udp.Handler
		want string
	}{
		{startNoError{}, "udp: Sessions.New: handler udp_test.startNoError: HandleStart(*udp.Conn) is not the HandleStart(*udp.Conn) error of udp.StartHandler"},
		{&udp.Workers{Handler: funcs{}}, "udp: Sessions.New returned a *udp.Workers, which serves a whole Conn"},
	} {
		s := &udp.Sessions{New: func(*udp.Conn, udp.Datagram) udp.Handler { return test.h }}
		c := n.listen(t, s)
		n.peer(t).send(t, n.reach(c), "x")
		if v := wait(t, panics); v != any(test.want) {
			t.Errorf("it panics with\n%v, want\n%v", v, test.want)
		}
		c.Close()
		check(t, c.Wait())
		if s.Len() != 0 {
			t.Errorf("%T has a session", test.h)
		}
	}
}

// TestSessionZone has one peer of a link-local address, whose zone is the
// interface, however it is spelled.
func TestSessionZone(t *testing.T) {
	ifi := loopback()
	n := setup{bind: "127.0.0.1:0", host: loopback4}
	s := &udp.Sessions{New: func(*udp.Conn, udp.Datagram) udp.Handler { return funcs{} }}
	c := n.listen(t, s)
	inGoroutine(t, c, func() {
		for _, zone := range []string{ifi.Name, fmt.Sprint(ifi.Index)} {
			s.HandleDatagram(c, udp.Datagram{Addr: netip.AddrPortFrom(netip.MustParseAddr("fe80::1%"+zone), 9)})
		}
		s.HandleDatagram(c, udp.Datagram{Addr: netip.MustParseAddrPort("[fe80::1%987654]:9")})
		if s.Len() != 2 {
			t.Errorf("%d sessions, want 2", s.Len())
		}
		again := udp.Datagram{Addr: netip.MustParseAddrPort(fmt.Sprintf("[fe80::1%%%s]:9", ifi.Name))}
		if n := testing.AllocsPerRun(100, func() { s.HandleDatagram(c, again) }); n != 0 && !raceDetector() && !portable() {
			t.Errorf("a datagram with a zone is %v allocations", n)
		}
		if !s.End(netip.MustParseAddrPort(fmt.Sprintf("[fe80::1%%%s]:9", ifi.Name))) {
			t.Error("there is no session to end")
		}
		s.HandleDatagram(c, udp.Datagram{Addr: netip.MustParseAddrPort("192.0.2.1:9")})
		if !s.End(netip.MustParseAddrPort("[::ffff:192.0.2.1]:9")) {
			t.Error("an IPv4 address is another when it is mapped")
		}
	})
}

// inGoroutine runs f in the goroutine of c.
func inGoroutine(t *testing.T, c *udp.Conn, f func()) {
	t.Helper()
	done := make(chan struct{})
	check(t, c.Post(func() {
		defer close(done)
		f()
	}))
	wait(t, done)
}
