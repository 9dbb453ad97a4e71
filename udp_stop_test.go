package udp_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"example.com/udp"
)

func testStartError(t *testing.T, n setup) {
	fail := errors.New("not today")
	var port uint16
	h := funcs{
		start: func(c *udp.Conn) error { port = c.LocalAddr().Port(); return fail },
		stop:  func(*udp.Conn, error) { t.Error("HandleStop is called") },
	}
	c, err := n.config.Listen(t.Context(), n.bind, h)
	if c != nil || !errors.Is(err, fail) {
		t.Errorf("Listen returns %v, %v", c, err)
	}
	n.listenAt(t, n.at(port), nil)
}

// testStartPanic has a panic in HandleStart: it is the caller's, although
// there is a Recover, and the socket is closed.
func testStartPanic(t *testing.T, n setup) {
	n.config.Recover = func(*udp.Conn, any) { t.Error("Recover is called") }
	var port uint16
	h := funcs{
		start: func(c *udp.Conn) error { port = c.LocalAddr().Port(); panic("mine") },
		stop:  func(*udp.Conn, error) { t.Error("HandleStop is called") },
	}
	func() {
		defer func() {
			if v := recover(); v != "mine" {
				t.Errorf("the caller recovers %v", v)
			}
		}()
		n.config.Listen(t.Context(), n.bind, h)
	}()
	n.listenAt(t, n.at(port), nil)
}

// testStartGoexit ends the caller's goroutine in HandleStart, as t.FailNow
// does.
func testStartGoexit(t *testing.T, n setup) {
	port := make(chan uint16, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.config.Listen(context.Background(), n.bind, funcs{start: func(c *udp.Conn) error {
			port <- c.LocalAddr().Port()
			runtime.Goexit()
			return nil
		}})
	}()
	wait(t, done)
	n.listenAt(t, n.at(<-port), nil)
}

func testCloseInStart(t *testing.T, n setup) {
	r := record()
	c := n.listen(t, funcs{
		start:    func(c *udp.Conn) error { return c.Close() },
		datagram: r.HandleDatagram,
		stop:     r.HandleStop,
	})
	check(t, c.Wait())
	check(t, wait(t, r.stopped))
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close returns %v", err)
	}
}

// testCloseInHandler closes in the second call, when hundreds wait: the
// second may be one of many that a read has returned, and is the last.
func testCloseInHandler(t *testing.T, n setup) {
	first, sent := make(chan struct{}), make(chan struct{})
	calls := 0
	r := record()
	c := n.listen(t, funcs{
		datagram: func(c *udp.Conn, _ udp.Datagram) {
			calls++
			if calls == 1 {
				close(first)
				<-sent
				return
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		},
		stop: r.HandleStop,
	})
	flood(t, n, n.reach(c), 1)
	wait(t, first)
	flood(t, n, n.reach(c), 200)
	close(sent)
	check(t, c.Wait())
	check(t, wait(t, r.stopped))
	if s := c.Stats(); calls != 2 || s.ReadDatagrams != 2+s.Discarded {
		t.Errorf("%d calls, want 2; %+v", calls, s)
	}
}

// testCloseInUndelivered closes in the other callback.
func testCloseInUndelivered(t *testing.T, n setup) {
	var order []string
	c := n.listen(t, funcs{
		datagram: func(*udp.Conn, udp.Datagram) { order = append(order, "datagram") },
		undelivered: func(c *udp.Conn, _ udp.Undelivered) {
			order = append(order, "undelivered")
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		},
		stop: func(*udp.Conn, error) { order = append(order, "stop") },
	})
	check(t, c.Connect(n.dead(t)))
	check(t, second(c.Write([]byte("x"))))
	check(t, wait(t, async(c.Wait)))
	if !slices.Equal(order, []string{"undelivered", "stop"}) {
		t.Errorf("the calls are %q", order)
	}
}

// testCloseWhileDatagramsWait closes from outside, while the second call is
// under way and hundreds wait.
func testCloseWhileDatagramsWait(t *testing.T, n setup) {
	for _, batched := range []bool{false, true} {
		first, sent := make(chan struct{}), make(chan struct{})
		second, open := make(chan struct{}), make(chan struct{})
		calls := 0
		hold := func() {
			calls++
			switch calls {
			case 1:
				close(first)
				<-sent
			case 2:
				close(second)
				<-open
			}
		}
		var h udp.Handler = funcs{datagram: func(*udp.Conn, udp.Datagram) { hold() }}
		if batched {
			h = batchFuncs{batch: func(*udp.Conn, []udp.Datagram) { hold() }}
		}
		c := n.listen(t, h)
		flood(t, n, n.reach(c), 1)
		wait(t, first)
		flood(t, n, n.reach(c), 200)
		close(sent)
		wait(t, second)
		check(t, c.Close())
		close(open)
		check(t, c.Wait())
		if calls != 2 {
			t.Errorf("%d calls, want 2 (HandleBatch: %v)", calls, batched)
		}
	}
}

// testCloseUnderLoad closes while datagrams come: at most the call that was
// about to begin is seen after Close has returned.
func testCloseUnderLoad(t *testing.T, n setup) {
	p := n.peer(t)
	for range 30 {
		var closed, late, calls atomic.Int32
		running := make(chan struct{}, 1)
		c := n.listen(t, funcs{
			datagram: func(*udp.Conn, udp.Datagram) {
				late.Add(closed.Load())
				if calls.Add(1) == 5 {
					running <- struct{}{}
				}
			},
			stop: func(_ *udp.Conn, err error) {
				if err != nil {
					t.Error(err)
				}
			},
		})
		to, stop := n.reach(c), make(chan struct{})
		sender := async(func() error {
			for {
				select {
				case <-stop:
					return nil
				default:
					p.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(to))
					runtime.Gosched()
				}
			}
		})
		wait(t, running)
		check(t, c.Close())
		closed.Store(1)
		check(t, c.Wait())
		close(stop)
		wait(t, sender)
		if late.Load() > 1 {
			t.Fatalf("%d calls begin after Close", late.Load())
		}
	}
}

// testCloseWhileInUse closes while goroutines write and look: each of them
// ends with net.ErrClosed, and with nothing else.
func testCloseWhileInUse(t *testing.T, n setup) {
	to := n.reach(n.listen(t, nil))
	for range 10 {
		c := n.listen(t, nil)
		var done sync.WaitGroup
		started := make(chan struct{}, 4)
		use := func(write func() error) {
			done.Go(func() {
				err := write()
				started <- struct{}{}
				for err == nil {
					runtime.Gosched()
					err = write()
				}
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
			})
		}
		use(func() error { return second(c.WriteTo([]byte("x"), to)) })
		use(func() error { return second(c.Reply(udp.Datagram{Addr: to}, []byte("x"))) })
		use(func() error { return second(c.WriteBatch(batch(to, "x", "y", "z"))) })
		use(func() error {
			_, _, _, _ = c.Stats(), c.String(), c.LocalAddr(), c.Groups()
			return second(c.WriteTo(nil, to))
		})
		for range cap(started) {
			wait(t, started)
		}
		check(t, c.Close())
		done.Wait()
		check(t, c.Wait())
	}
}

func testCloseFromTen(t *testing.T, n setup) {
	r := record()
	c := n.listen(t, r)
	start, errs := make(chan struct{}), make(chan error, 10)
	var done sync.WaitGroup
	for range 10 {
		done.Go(func() {
			<-start
			errs <- c.Close()
			if err := c.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	done.Wait()
	succeeded := 0
	for range 10 {
		if err := <-errs; err == nil {
			succeeded++
		} else if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Close returns %v", err)
		}
	}
	if succeeded != 1 {
		t.Errorf("%d of 10 return nil", succeeded)
	}
	check(t, wait(t, r.stopped))
	if len(r.stopped) != 0 {
		t.Error("HandleStop is called again")
	}
}

// testAfterClose calls everything on a closed Conn.
func testAfterClose(t *testing.T, n setup) {
	p := n.peer(t)
	c := n.listen(t, nil)
	check(t, c.Close())
	check(t, c.Wait())
	group := udp.Group{Addr: n.group(1), Interface: n.ifi}
	d := udp.Datagram{Addr: p.addr}
	errs := map[string]error{
		"Close":                 c.Close(),
		"WriteTo":               second(c.WriteTo([]byte("x"), p.addr)),
		"Write":                 second(c.Write([]byte("x"))),
		"Reply":                 second(c.Reply(d, []byte("x"))),
		"WriteBatch":            second(c.WriteBatch(batch(p.addr, "x", "y"))),
		"Connect":               c.Connect(p.addr),
		"Disconnect":            c.Disconnect(),
		"Join":                  c.Join(group),
		"Leave":                 c.Leave(group),
		"Block":                 c.Block(udp.Group{Addr: group.Addr, Source: n.host, Interface: n.ifi}),
		"SetMulticastTTL":       c.SetMulticastTTL(1),
		"SetMulticastLoopback":  c.SetMulticastLoopback(true),
		"SetMulticastInterface": c.SetMulticastInterface(n.ifi),
		"MulticastTTL":          second(c.MulticastTTL()),
		"Shutdown":              c.Shutdown(t.Context()),
	}
	for name, err := range errs {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s returns %v", name, err)
			continue
		}
		checkOpError(t, err)
	}
	if size, _ := c.WriteBatch(batch(p.addr, "x")); size != 0 {
		t.Errorf("WriteBatch sends %d", size)
	}
}

// testShutdown has hundreds of datagrams wait: all are handled, and answered,
// and HandleStop says goodbye.
func testShutdown(t *testing.T, n setup) {
	const sent = 200
	open := make(chan struct{})
	p := n.peer(t)
	var order []string
	c := n.listen(t, funcs{
		datagram: func(c *udp.Conn, d udp.Datagram) {
			<-open
			order = append(order, string(d.Payload))
			if string(d.Payload) == strconv.Itoa(sent-1) {
				if _, err := c.WriteTo([]byte("answer"), p.addr); err != nil {
					t.Error(err)
				}
			}
		},
		stop: func(c *udp.Conn, err error) {
			order = append(order, "stop")
			if err != nil {
				t.Error("HandleStop gets", err)
			}
			if _, err := c.WriteTo([]byte("goodbye"), p.addr); err != nil {
				t.Error(err)
			}
		},
	})
	var want []string
	for i := range sent {
		want = append(want, strconv.Itoa(i))
	}
	flood(t, n, n.reach(c), sent)
	done := async(func() error { return c.Shutdown(context.Background()) })
	close(open)
	check(t, wait(t, done))
	check(t, c.Wait())
	if !slices.Equal(order, append(want, "stop")) {
		t.Errorf("the calls are %q", order)
	}
	p.expect(t, "answer", n.reach(c))
	p.expect(t, "goodbye", n.reach(c))
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close returns %v", err)
	}
}

func testShutdownIdle(t *testing.T, n setup) {
	r := record()
	c := n.listen(t, r)
	n.peer(t).send(t, n.reach(c), "x")
	wait(t, r.datagrams)
	shutdown(t, c)
	check(t, wait(t, r.stopped))
	n.listenAt(t, n.at(c.LocalAddr().Port()), nil)
}

// testShutdownContext ends the context while a handler blocks, and before
// Shutdown begins.
func testShutdownContext(t *testing.T, n setup) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, before := range []bool{false, true} {
		entered, open := make(chan struct{}), make(chan struct{})
		r := record()
		c := n.listen(t, funcs{
			datagram: func(*udp.Conn, udp.Datagram) { close(entered); <-open },
			stop:     r.HandleStop,
		})
		p := n.peer(t)
		p.send(t, n.reach(c), "block")
		wait(t, entered)
		p.send(t, n.reach(c), "never handled")

		ctx, cancel := ended, context.CancelFunc(func() {})
		if !before {
			ctx, cancel = context.WithCancel(t.Context())
		}
		done := async(func() error { return c.Shutdown(ctx) })
		cancel()
		if err := wait(t, done); !errors.Is(err, context.Canceled) {
			t.Errorf("Shutdown returns %v", err)
		}
		if _, err := c.WriteTo([]byte("x"), p.addr); !errors.Is(err, net.ErrClosed) {
			t.Errorf("then WriteTo returns %v", err)
		}
		if len(r.stopped) != 0 {
			t.Error("HandleStop is called during HandleDatagram")
		}
		close(open)
		check(t, c.Wait())
		check(t, wait(t, r.stopped))
	}
}

// testShutdownClosed calls Shutdown after Close: it waits for the handler.
func testShutdownClosed(t *testing.T, n setup) {
	entered, open := make(chan struct{}), make(chan struct{})
	var over atomic.Bool
	c := n.listen(t, funcs{
		datagram: func(*udp.Conn, udp.Datagram) { close(entered); <-open },
		stop:     func(*udp.Conn, error) { over.Store(true) },
	})
	n.peer(t).send(t, n.reach(c), "block")
	wait(t, entered)
	check(t, c.Close())
	done := async(func() error {
		err := c.Shutdown(context.Background())
		if !over.Load() {
			t.Error("Shutdown does not wait for HandleStop")
		}
		return err
	})
	runtime.Gosched()
	close(open)
	if err := wait(t, done); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Shutdown returns %v", err)
	}
}

// testGoexit ends the Conn's goroutine from inside a handler, as t.FailNow
// does.
func testGoexit(t *testing.T, n setup) {
	r := record()
	c := n.listen(t, funcs{
		datagram: func(*udp.Conn, udp.Datagram) { runtime.Goexit() },
		stop:     r.HandleStop,
	})
	p := n.peer(t)
	p.send(t, n.reach(c), "x")
	if err := wait(t, async(c.Wait)); err == nil {
		t.Error("Wait returns nil")
	}
	if err := wait(t, r.stopped); err == nil {
		t.Error("HandleStop gets nil")
	}
	if _, err := c.WriteTo([]byte("x"), p.addr); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteTo returns %v", err)
	}
	n.listenAt(t, n.at(c.LocalAddr().Port()), nil)
}

// TestClosedByAnother closes the socket behind the Conn's back.
func TestClosedByAnother(t *testing.T) {
	for _, hide := range []bool{false, true} {
		p := setup{host: loopback4}.peer(t)
		pc := p.PacketConn
		if hide {
			pc = foreign{pc}
		}
		r := record()
		c, err := udp.NewConn(pc, r)
		check(t, err)
		closeAtEnd(t, c)
		p.Close()
		err = wait(t, r.stopped)
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("HandleStop gets %v", err)
		}
		checkOpError(t, err)
		if got := wait(t, async(c.Wait)); got != err {
			t.Errorf("HandleStop gets %v, Wait returns %v", err, got)
		}
	}
}

// TestThousandRounds leaves no goroutine and no descriptor. (TestMain looks
// for goroutines too; here a slow leak is seen at once.)
func TestThousandRounds(t *testing.T) {
	needTime(t)
	n := setup{bind: "127.0.0.1:0", host: loopback4}
	p := n.peer(t)
	fail := errors.New("no")
	round := func(i int) {
		c, err := udp.Listen(n.bind, nil)
		check(t, err)
		check(t, c.Connect(p.addr))
		check(t, c.Close())
		check(t, c.Wait())
		c, err = udp.Dial(t.Context(), p.addr.String(), nil)
		check(t, err)
		if i%50 == 0 {
			check(t, c.Shutdown(t.Context()))
		} else {
			check(t, c.Close())
			check(t, c.Wait())
		}
		_, err = udp.Listen(n.bind, funcs{start: func(*udp.Conn) error { return fail }})
		if !errors.Is(err, fail) {
			t.Fatal(err)
		}
		if _, err = udp.Listen(p.addr.String(), nil); err == nil {
			t.Fatal("a port is bound twice")
		}
		if _, err = udp.NewConn(nil, nil); err == nil {
			t.Fatal("a Conn is made of nil")
		}
	}
	round(0)
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	for i := range 1000 {
		round(i)
	}
	eventually(t, "the goroutines end", func() bool { return runtime.NumGoroutine() <= goroutines })
	if got := descriptors(t); got > files {
		t.Errorf("%d descriptors are left", got-files)
	}
}
