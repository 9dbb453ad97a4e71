package udp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// A handler answers, posts and sets timers: all callbacks come from one
// goroutine, what is posted after the datagrams of the same read, in order.
func testPost(t *testing.T, n setup) {
	var home string
	done := make(chan []string, 1)
	var order []string
	note := func(what string) {
		if g := goroutine(); g != home {
			t.Errorf("%s runs in %s, the handler in %s", what, g, home)
		}
		order = append(order, what)
	}
	c := n.listen(t, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		home = goroutine()
		note("datagram")
		for i := range 3 {
			check(t, c.Post(func() { note(fmt.Sprint("post ", i)) }))
		}
		c.AfterFunc(0, func() { note("timer"); done <- order })
		note("returned")
	}))
	n.peer(t).send(t, n.reach(c), "x")
	want := []string{"datagram", "returned", "post 0", "post 1", "post 2", "timer"}
	if got := wait(t, done); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Goroutines post to a Conn that has nothing to read: all of it runs, each in
// the order of its goroutine.
func testPostIdle(t *testing.T, n setup) {
	const goroutines, each = 8, 200
	c := n.listen(t, nil)
	ran := make(chan bool)
	for range 20 { // one by one, each to a Conn that waits
		check(t, c.Post(func() { ran <- true }))
		wait(t, ran)
	}
	var last [goroutines]int
	var all sync.WaitGroup
	all.Add(goroutines * each)
	for g := range goroutines {
		go func() {
			for i := range each {
				err := c.Post(func() {
					if last[g]++; last[g] != i+1 {
						t.Errorf("post %d of a goroutine runs as its %dth", i+1, last[g])
					}
					all.Done()
				})
				if err != nil {
					t.Error(err)
					all.Done()
				}
			}
		}()
	}
	wait(t, async(func() bool { all.Wait(); return true }))
}

// A post that posts itself does not keep datagrams away, nor does a timer
// that sets itself, and datagrams do not keep either away.
func testPostFair(t *testing.T, n setup) {
	if runtime.GOOS == "js" {
		t.Skip("nothing preempts a goroutine in JavaScript, so that a post that posts itself keeps all others out: run elsewhere")
	}
	const count = 50
	posts, ticks, answers := 0, 0, 0
	done := make(chan struct{})
	p := n.peer(t)
	c := n.listen(t, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		if answers++; answers == count {
			close(done)
		}
		c.WriteTo(d.Payload, n.reach(c))
	}))
	var post func()
	post = func() { posts++; c.Post(post) }
	check(t, c.Post(post))
	check(t, c.Post(func() {
		var timer *udp.Timer
		timer = c.AfterFunc(0, func() { ticks++; timer.Reset(0) })
	}))
	p.send(t, n.reach(c), "x")
	wait(t, done)
	looked := make(chan bool)
	check(t, c.Post(func() {
		if posts < count/2 || ticks < count/2 {
			t.Errorf("%d datagrams, but %d posts and %d timers", answers, posts, ticks)
		}
		close(looked)
	}))
	wait(t, looked)
}

// Posts while the Conn shuts down: each that said nil has run when it is
// closed; in HandleStop and later there is none any more.
func testPostShutdown(t *testing.T, n setup) {
	entered, open := make(chan struct{}), make(chan struct{})
	var accepted, ran int
	var late, inStop error
	stopped := false
	var again func(c *udp.Conn)
	again = func(c *udp.Conn) {
		ran++
		if stopped {
			t.Error("a post runs after HandleStop")
		}
		if late = c.Post(func() { again(c) }); late == nil {
			accepted++
		}
	}
	c := n.listen(t, funcs{
		datagram: func(c *udp.Conn, d udp.Datagram) {
			close(entered)
			<-open
			accepted++
			check(t, c.Post(func() { again(c) }))
		},
		stop: func(c *udp.Conn, _ error) {
			stopped = true
			inStop = c.Post(func() { t.Error("what HandleStop posts runs") })
			if c.AfterFunc(0, func() { t.Error("a timer of HandleStop runs") }).Stop() {
				t.Error("Stop of a timer that HandleStop sets is true")
			}
		},
	})
	n.peer(t).send(t, n.reach(c), "x")
	wait(t, entered)
	down := async(func() error { return c.Shutdown(context.Background()) })
	close(open)
	check(t, wait(t, down))
	if ran != accepted || ran == 0 {
		t.Errorf("%d posts are accepted, %d run", accepted, ran)
	}
	for _, err := range []error{late, inStop, c.Post(func() { t.Error("a post runs after the end") })} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Post returns %v", err)
		}
		checkOpError(t, err)
	}
}

// After Close nothing that was posted runs, and no timer.
func testPostClose(t *testing.T, n setup) {
	entered, open := make(chan struct{}), make(chan struct{})
	c := n.listen(t, udp.HandlerFunc(func(*udp.Conn, udp.Datagram) { close(entered); <-open }))
	n.peer(t).send(t, n.reach(c), "x")
	wait(t, entered)
	check(t, c.Post(func() { t.Error("a post runs after Close") }))
	timer := c.AfterFunc(0, func() { t.Error("a timer runs after Close") })
	check(t, c.Close())
	select {
	case <-c.Done():
	default:
		t.Error("Close returns, and Done is open")
	}
	if timer.Stop() || timer.Reset(0) || c.AfterFunc(0, func() { t.Error("a timer of a closed Conn runs") }).Reset(0) {
		t.Error("Stop or Reset is true on a closed Conn")
	}
	close(open)
	check(t, wait(t, async(c.Wait)))
}

// A Conn that fails to open runs nothing.
func testPostStartFails(t *testing.T, n setup) {
	fail := errors.New("not today")
	var c *udp.Conn
	_, err := n.config.Listen(t.Context(), n.bind, funcs{start: func(conn *udp.Conn) error {
		c = conn
		check(t, c.Post(func() { t.Error("a post runs") }))
		c.AfterFunc(0, func() { t.Error("a timer runs") })
		return fail
	}})
	if !errors.Is(err, fail) {
		t.Errorf("Listen returns %v", err)
	}
	if err := c.Post(func() {}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Post returns %v", err)
	}
	ran := make(chan string, 9)
	n.listen(t, funcs{start: func(c *udp.Conn) error {
		check(t, c.Post(func() { ran <- "post" }))
		c.AfterFunc(0, func() { ran <- "timer" })
		ran <- "start"
		return nil
	}})
	for _, want := range []string{"start", "post", "timer"} {
		if got := wait(t, ran); got != want {
			t.Errorf("%s runs, want %s", got, want)
		}
	}
}

// Panics in what is posted, and in timers, go to Recover, and cost no more
// than themselves.
func testPostPanic(t *testing.T, n setup) {
	recovered := make(chan any, 9)
	n.config.Recover = func(_ *udp.Conn, v any) { recovered <- v }
	c := n.listen(t, nil)
	check(t, c.Post(func() { panic("post") }))
	c.AfterFunc(0, func() { panic("timer") })
	if a, b := wait(t, recovered), wait(t, recovered); a != "post" || b != "timer" {
		t.Errorf("recovered %v and %v", a, b)
	}
	done := make(chan struct{})
	check(t, c.Post(func() { close(done) }))
	wait(t, done)
	if got := c.Stats().Panics; got != 2 {
		t.Errorf("%d panics are counted", got)
	}
}

// A nil function is a mistake of the caller.
func testPostNil(t *testing.T, n setup) {
	c := n.listen(t, nil)
	for name, call := range map[string]func(){"Post": func() { c.Post(nil) }, "AfterFunc": func() { c.AfterFunc(0, nil) }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s takes nil", name)
				}
			}()
			call()
		}()
	}
}

// Timers are stopped and set again in the goroutine: also one that is due
// together with the one that does so.
func testTimers(t *testing.T, n setup) {
	c := n.listen(t, nil)
	done := make(chan []string, 1)
	check(t, c.Post(func() {
		var order []string
		note := func(what string) func() { return func() { order = append(order, what) } }
		never := func() { t.Error("a timer that was stopped runs") }
		var stopped, reset, last *udp.Timer
		c.AfterFunc(0, func() {
			order = append(order, "first")
			if !stopped.Stop() || stopped.Stop() || !reset.Reset(2*time.Millisecond) {
				t.Error("Stop and Reset say that what is due was not still to run")
			}
		})
		stopped = c.AfterFunc(0, never)
		reset = c.AfterFunc(0, func() {
			order = append(order, "reset")
			if last.Stop() {
				t.Error("Stop of a timer that has run is true")
			}
			if last.Reset(0) {
				t.Error("Reset of a timer that has run is true")
			}
		})
		last = c.AfterFunc(0, func() {
			if order = append(order, "last"); len(order) == 5 {
				done <- order
			}
		})
		far := c.AfterFunc(time.Hour, never)
		near := c.AfterFunc(time.Millisecond, note("near"))
		if !far.Stop() || !near.Reset(0) {
			t.Error("Stop and Reset say that what is set was not still to run")
		}
	}))
	want := []string{"first", "last", "near", "reset", "last"}
	if got := wait(t, done); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// testTimerIdle sets timers from outside, each earlier than the one before.
func testTimerIdle(t *testing.T, n setup) {
	c := n.listen(t, nil)
	var order []int
	done := make(chan struct{})
	start := time.Now()
	for _, ms := range []int{60, 40, 20, 3600_000, 5} {
		d := time.Duration(ms) * time.Millisecond
		c.AfterFunc(d, func() {
			if time.Since(start) < d {
				t.Errorf("a timer of %v runs after %v", d, time.Since(start))
			}
			if order = append(order, ms); ms == 60 {
				close(done)
			}
		})
	}
	wait(t, done)
	if !slices.Equal(order, []int{5, 20, 40, 60}) {
		t.Errorf("they run in the order %v", order)
	}
}

// testTimerShutdown has Shutdown leave out what is not due.
func testTimerShutdown(t *testing.T, n setup) {
	entered, open := make(chan struct{}), make(chan struct{})
	due := false
	c := n.listen(t, udp.HandlerFunc(func(*udp.Conn, udp.Datagram) { close(entered); <-open }))
	n.peer(t).send(t, n.reach(c), "x")
	wait(t, entered)
	c.AfterFunc(0, func() { due = true })
	later := c.AfterFunc(time.Hour, func() { t.Error("a timer that is not due runs") })
	down := async(func() error { return c.Shutdown(context.Background()) })
	eventually(t, "no timer is set any more", func() bool {
		return !c.AfterFunc(time.Hour, func() { t.Error("a timer runs that was set after Shutdown") }).Stop()
	})
	if later.Stop() || later.Reset(0) {
		t.Error("Stop or Reset is true of a timer that Shutdown has left out")
	}
	close(open)
	check(t, wait(t, down))
	if !due {
		t.Error("a timer that was due has not run")
	}
}

// testDone has a handler that waits for somebody who never comes.
func testDone(t *testing.T, n setup) {
	for _, ctx := range []context.Context{nil, canceled(t)} {
		entered := make(chan struct{})
		c := n.listen(t, udp.HandlerFunc(func(c *udp.Conn, _ udp.Datagram) {
			close(entered)
			<-c.Done()
		}))
		n.peer(t).send(t, n.reach(c), "x")
		wait(t, entered)
		if ctx == nil {
			check(t, c.Close())
		} else if err := c.Shutdown(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Shutdown returns %v", err)
		}
		check(t, wait(t, async(c.Wait)))
	}
	c := n.listen(t, funcs{stop: func(c *udp.Conn, _ error) {
		select {
		case <-c.Done():
			t.Error("Done is closed before HandleStop has returned")
		default:
		}
	}})
	shutdown(t, c)
	wait(t, c.Done())
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// testGoexitAnywhere ends the goroutine in each of the callbacks, in
// HandleStop too: HandleStop is called once, and Wait returns.
func testGoexitAnywhere(t *testing.T, n setup) {
	for _, where := range []string{"datagram", "post", "timer", "undelivered", "last post"} {
		for _, closed := range []bool{false, true} {
			stops := 0
			var stopErr error
			exit := func(c *udp.Conn) {
				if closed {
					c.Close()
				}
				runtime.Goexit()
			}
			c := n.listen(t, funcs{
				datagram: func(c *udp.Conn, _ udp.Datagram) {
					if where == "undelivered" {
						check(t, c.Connect(n.dead(t)))
						check(t, second(c.Write([]byte("x"))))
						return
					}
					exit(c)
				},
				undelivered: func(c *udp.Conn, _ udp.Undelivered) { exit(c) },
				stop:        func(_ *udp.Conn, err error) { stops++; stopErr = err; runtime.Goexit() },
			})
			switch where {
			case "post":
				check(t, c.Post(func() { exit(c) }))
			case "timer":
				c.AfterFunc(0, func() { exit(c) })
			case "last post":
				check(t, c.Post(func() {
					go c.Shutdown(context.Background())
					<-time.After(time.Millisecond)
					check(t, c.Post(func() { check(t, c.Post(func() { exit(c) })) }))
				}))
			default:
				n.peer(t).send(t, n.reach(c), "x")
			}
			err := wait(t, async(c.Wait))
			if (err == nil) != closed || err != stopErr || stops != 1 {
				t.Errorf("Goexit in %s, closed before: %v: Wait returns %v, HandleStop gets %v, %d times", where, closed, err, stopErr, stops)
			}
		}
	}
}

// testGoexitCounts counts the datagrams of a read that Goexit interrupts.
func testGoexitCounts(t *testing.T, n setup) {
	first, sent := make(chan struct{}), make(chan struct{})
	calls := 0
	c := n.listen(t, udp.HandlerFunc(func(*udp.Conn, udp.Datagram) {
		if calls++; calls == 1 {
			close(first)
			<-sent
		} else {
			runtime.Goexit()
		}
	}))
	flood(t, n, n.reach(c), 1)
	wait(t, first)
	flood(t, n, n.reach(c), 100)
	close(sent)
	wait(t, async(c.Wait))
	if s := c.Stats(); s.ReadDatagrams != uint64(calls)+s.Discarded {
		t.Errorf("%d calls; %+v", calls, s)
	}
}

// TestPostInPause has reads fail for a second each: what is posted, and
// timers, do not wait for the next.
func TestPostInPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc := newFakeSocket()
		pc.read = func([]byte) (int, net.Addr, error) { return 0, nil, io.ErrUnexpectedEOF }
		c, err := udp.NewConn(pc, nil)
		check(t, err)
		time.Sleep(3500 * time.Millisecond) // 5 + 10 + ... + 640 + 1000 ms, and some
		errorsBefore, start := c.Stats().ReadErrors, time.Now()
		took := make(chan time.Duration, 9)
		check(t, c.Post(func() { took <- time.Since(start) }))
		c.AfterFunc(100*time.Millisecond, func() { took <- time.Since(start) })
		if a, b := <-took, <-took; a != 0 || b != 100*time.Millisecond {
			t.Errorf("a post runs after %v, a timer of 100 ms after %v", a, b)
		}
		if got := c.Stats().ReadErrors; got != errorsBefore {
			t.Errorf("%d reads meanwhile", got-errorsBefore)
		}
		check(t, c.Shutdown(t.Context()))
		if took := time.Since(start); took != 100*time.Millisecond {
			t.Errorf("Shutdown waits for the pause: %v", took)
		}
	})
}

// TestTimerAndForeignDeadline has reads fail for a deadline that is not the
// Conn's, while a timer waits: the Conn does not take it for that of the timer.
func TestTimerAndForeignDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		pc := newFakeSocket()
		pc.read = func([]byte) (int, net.Addr, error) { reads++; return 0, nil, os.ErrDeadlineExceeded }
		c, err := udp.NewConn(pc, nil)
		check(t, err)
		start, ran := time.Now(), make(chan time.Duration, 1)
		c.AfterFunc(time.Minute, func() { ran <- time.Since(start) })
		if took := <-ran; took != time.Minute {
			t.Errorf("a timer of a minute runs after %v", took)
		}
		if s := c.Stats(); reads > 100 || s.ReadErrors != uint64(reads) {
			t.Errorf("%d reads, %d errors", reads, s.ReadErrors)
		}
		check(t, c.Close())
		check(t, c.Wait())
	})
}

// TestPostWithoutDeadlines has a socket that cannot be woken.
func TestPostWithoutDeadlines(t *testing.T) {
	c, err := udp.NewConn(deadlineless{newFakeSocket()}, nil)
	check(t, err)
	defer c.Wait()
	defer c.Close()
	err = c.Post(func() { t.Error("it runs, although Post says that it does not") })
	checkOpError(t, err)
	if !errors.Is(err, os.ErrNoDeadline) {
		t.Errorf("Post returns %v", err)
	}
}

type deadlineless struct{ *fakeSocket }

func (deadlineless) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// TestTimerMoments lets hours pass: timers run at their moments, and those
// for the same one in the order in which they were set.
func TestTimerMoments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := setup{config: udp.ListenConfig{PacketListener: new(udp.MemNet)}, bind: "127.0.0.1:0", host: loopback4}
		c := n.listen(t, nil)
		start := time.Now()
		var log strings.Builder
		done := make(chan struct{})
		at := func(d time.Duration, what string) *udp.Timer {
			return c.AfterFunc(d, func() { fmt.Fprintf(&log, "%v %s\n", time.Since(start), what) })
		}
		at(time.Hour, "b").Reset(2 * time.Hour)
		at(2*time.Hour, "c")
		at(time.Hour, "a")
		at(3*time.Hour, "stopped").Stop()
		at(-time.Hour, "now")
		ticks := 0
		var tick *udp.Timer
		tick = c.AfterFunc(time.Minute, func() {
			if ticks++; ticks < 24*60 {
				tick.Reset(time.Minute)
			} else {
				fmt.Fprintf(&log, "%v last tick\n", time.Since(start))
				close(done)
			}
		})
		c.AfterFunc(1<<63-1, func() { t.Error("the end of time has come") })
		<-done
		want := "0s now\n1h0m0s a\n2h0m0s b\n2h0m0s c\n24h0m0s last tick\n"
		if log.String() != want {
			t.Errorf("got\n%swant\n%s", &log, want)
		}
		check(t, c.Shutdown(t.Context()))
	})
}

// TestTimersAgainstModel sets, resets and stops timers at random: they run
// when and in the order that the plainest of models has it.
func TestTimersAgainstModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := setup{config: udp.ListenConfig{PacketListener: new(udp.MemNet)}, bind: "127.0.0.1:0", host: loopback4}
		c := n.listen(t, nil)
		type entry struct{ at, order, id int }
		var model []entry
		start, set := time.Now(), 0
		now := func() int { return int(time.Since(start) / time.Second) }
		remove := func(id int) bool {
			size := len(model)
			model = slices.DeleteFunc(model, func(e entry) bool { return e.id == id })
			return len(model) < size
		}
		put := func(id, d int) {
			set++
			model = append(model, entry{now() + d, set, id})
		}
		random := uint32(1)
		next := func(limit int) int { // xorshift
			random ^= random << 13
			random ^= random >> 17
			random ^= random << 5
			return int(random % uint32(limit))
		}
		var timers []*udp.Timer
		fired := 0
		done := make(chan struct{})
		var step *udp.Timer
		steps := 0
		run := func() {
			for range 20 {
				id := next(100)
				for id >= len(timers) {
					id := len(timers)
					d := next(50)
					put(id, d)
					timers = append(timers, c.AfterFunc(time.Duration(d)*time.Second, func() {
						fired++
						first := slices.MinFunc(model, func(a, b entry) int {
							if a.at != b.at {
								return a.at - b.at
							}
							return a.order - b.order
						})
						if first.id != id || first.at != now() {
							t.Fatalf("timer %d runs at %d; the next is %+v", id, now(), first)
						}
						remove(id)
					}))
				}
				switch next(3) {
				case 0:
					if got, want := timers[id].Stop(), remove(id); got != want {
						t.Fatalf("Stop says %v, want %v", got, want)
					}
				default:
					d := next(30)
					if got, want := timers[id].Reset(time.Duration(d)*time.Second), remove(id); got != want {
						t.Fatalf("Reset says %v, want %v", got, want)
					}
					put(id, d)
				}
			}
			if steps++; steps == 1000 {
				close(done)
				return
			}
			step.Reset(time.Second + 1) // never at the same moment as one of them
		}
		check(t, c.Post(func() { step = c.AfterFunc(0, run) }))
		<-done
		if fired < 1000 {
			t.Errorf("only %d timers have run", fired)
		}
		check(t, c.Shutdown(t.Context()))
	})
}

// TestTimersFromOutside sets and stops timers from many goroutines while they
// run: with the race detector, mostly.
func TestTimersFromOutside(t *testing.T) {
	n := setup{bind: "127.0.0.1:0", host: loopback4}
	c := n.listen(t, nil)
	var set, ran, stopped atomic.Int64
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				set.Add(1)
				timer := c.AfterFunc(time.Duration(i*g%7)*100*time.Microsecond, func() { ran.Add(1) })
				if i%3 == 0 && timer.Stop() {
					stopped.Add(1)
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "all have run", func() bool { return ran.Load()+stopped.Load() == set.Load() })
}
