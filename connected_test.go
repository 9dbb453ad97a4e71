package udp_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"example.com/udp"
)

// testDial dials, is connected before HandleStart runs, and hears nobody
// else.
func testDial(t *testing.T, n setup) {
	p, other := n.peer(t), n.peer(t)
	r := record()
	var atStart netip.AddrPort
	c := n.dial(t, p.addr, funcs{
		start:    func(c *udp.Conn) error { atStart = c.RemoteAddr(); return nil },
		datagram: r.HandleDatagram,
	})
	if atStart != p.addr || c.RemoteAddr() != p.addr {
		t.Errorf("RemoteAddr is %v, in HandleStart %v, want %v", c.RemoteAddr(), atStart, p.addr)
	}
	if size, err := c.Write([]byte("hello")); size != 5 || err != nil {
		t.Fatal(size, err)
	}
	p.expect(t, "hello", n.reach(c))
	other.send(t, n.reach(c), "from another")
	p.send(t, n.reach(c), "answer")
	r.expect(t, "answer", p.addr)
	check(t, second(c.Write(nil)))
	p.expect(t, "", n.reach(c))
}

func TestDialName(t *testing.T) {
	useResolver(t, map[string][]string{"peer.test.": {"127.0.0.1", "::1"}})
	p := setup{host: loopback4}.peer(t)
	c, err := udp.Dial(t.Context(), "peer.test:"+strconv.Itoa(int(p.addr.Port())), nil)
	check(t, err)
	closeAtEnd(t, c)
	if c.RemoteAddr() != p.addr {
		t.Errorf("RemoteAddr is %v", c.RemoteAddr())
	}
	check(t, second(c.Write([]byte("hello"))))
	p.expect(t, "hello", netip.AddrPortFrom(loopback4, c.LocalAddr().Port()))
}

// testConnectInStart does what the howto's Helloer does.
func testConnectInStart(t *testing.T, n setup) {
	p := n.peer(t)
	r := record()
	c := n.listen(t, funcs{
		start: func(c *udp.Conn) error {
			if err := c.Connect(p.addr); err != nil {
				return err
			}
			_, err := c.Write([]byte("hello"))
			return err
		},
		datagram: r.HandleDatagram,
	})
	p.expect(t, "hello", n.reach(c))
	p.send(t, n.reach(c), "welcome")
	r.expect(t, "welcome", p.addr)
}

// testConnectAgain connects to several ports on all hosts, one after the
// other, and disconnects now and then: the port stays.
func testConnectAgain(t *testing.T, n setup) {
	r := record()
	c := n.listen(t, r)
	port := c.LocalAddr().Port()
	var peers []bare
	for _, host := range n.hosts() {
		peers = append(peers, n.peerAt(t, netip.AddrPortFrom(host, 0)), n.peerAt(t, netip.AddrPortFrom(host, 0)))
	}
	for round := range 3 {
		for _, p := range peers {
			check(t, c.Connect(p.addr))
			if c.RemoteAddr() != p.addr || c.LocalAddr().Port() != port {
				t.Fatalf("connected to %v, it is %v, and had port %d", p.addr, c, port)
			}
			check(t, second(c.Write([]byte("hello"))))
			payload, from := p.receive(t)
			if payload != "hello" || from.Port() != port {
				t.Fatalf("%v gets %q from %v", p.addr, payload, from)
			}
			for _, other := range peers {
				if other.addr != p.addr {
					other.send(t, from, "from another")
				}
			}
			p.send(t, from, "answer")
			r.expect(t, "answer", p.addr)
			if round == 1 {
				check(t, c.Disconnect())
			}
		}
	}
}

// TestConnectOtherFamily connects from an IPv4 to an IPv6 peer and back.
func TestConnectOtherFamily(t *testing.T) {
	needIPv6(t)
	n := setup{bind: ":0", host: loopback4}
	r := record()
	c := n.listen(t, r)
	for _, host := range []netip.Addr{loopback4, loopback6, loopback4, loopback6} {
		n.host = host
		p := n.peer(t)
		check(t, c.Connect(p.addr))
		check(t, second(c.Write([]byte("hello"))))
		p.expect(t, "hello", n.reach(c))
		p.send(t, n.reach(c), "answer")
		r.expect(t, "answer", p.addr)
	}
}

// testConnectFails has the system refuse to connect: the old peer stays, or
// none.
func testConnectFails(t *testing.T, n setup) {
	// The system has no way there, from this socket.
	bad := netip.MustParseAddrPort("240.0.0.1:9")
	if n.host.Is6() {
		bad = netip.MustParseAddrPort("[fe80::1%99999]:9")
	}
	if n.wildcard() && n.host.Is4() || !n.kernel {
		bad = netip.AddrPort{} // A wildcard socket, and a MemNet, may well go there.
	}
	p, other := n.peer(t), n.peer(t)
	r := record()
	c := n.listen(t, r)
	err := c.Connect(bad)
	checkOpError(t, err)
	if c.RemoteAddr().IsValid() {
		t.Errorf("after a failed Connect it is %v", c)
	}
	other.send(t, n.reach(c), "still open")
	r.expect(t, "still open", other.addr)

	check(t, c.Connect(p.addr))
	for range 3 {
		if err := c.Connect(bad); err == nil {
			t.Fatalf("connecting to %v works", bad)
		}
		if c.RemoteAddr() != p.addr {
			t.Errorf("after a failed Connect it is %v", c)
		}
		check(t, second(c.Write([]byte("hello"))))
		p.expect(t, "hello", n.reach(c))
		other.send(t, n.reach(c), "from another")
		p.send(t, n.reach(c), "answer")
		r.expect(t, "answer", p.addr)
	}
}

// testDisconnect wants the socket to be what it was: any host reaches it at
// its old port and at all its addresses.
func testDisconnect(t *testing.T, n setup) {
	r := record()
	c := n.listen(t, r)
	local := c.LocalAddr()
	third := n.peer(t)
	for range 50 {
		p := n.peer(t)
		check(t, c.Connect(p.addr))
		check(t, c.Disconnect())
		if c.RemoteAddr().IsValid() || c.LocalAddr() != local {
			t.Fatalf("disconnected, it is %v, at %v; was at %v", c, c.LocalAddr(), local)
		}
		for _, host := range n.hosts() {
			third.send(t, netip.AddrPortFrom(host, local.Port()), "hello")
			r.expect(t, "hello", third.addr)
		}
		check(t, second(c.WriteTo([]byte("free"), third.addr)))
		third.expect(t, "free", n.reach(c))
		if _, err := c.Write([]byte("x")); err == nil {
			t.Fatal("Write works without a peer")
		}
	}
}

// testQueuedBeforeConnect lets datagrams wait while the socket is connected:
// only the new peer's are delivered.
func testQueuedBeforeConnect(t *testing.T, n setup) {
	entered, open := make(chan struct{}), make(chan struct{})
	r := record()
	first := true
	c := n.listen(t, funcs{datagram: func(c *udp.Conn, d udp.Datagram) {
		if first {
			first = false
			close(entered)
			<-open
			return
		}
		r.HandleDatagram(c, d)
	}})
	before, p := n.peer(t), n.peer(t)
	before.send(t, n.reach(c), "block")
	wait(t, entered)
	for range 100 {
		before.send(t, n.reach(c), "too late")
	}
	check(t, c.Connect(p.addr))
	p.send(t, n.reach(c), "hello")
	close(open)
	r.expect(t, "hello", p.addr)
	if got := c.Stats().Discarded; got != 100 {
		t.Errorf("Stats.Discarded is %d, want 100", got)
	}
}

// testConnectInHandler connects in the second call, when datagrams of two
// peers wait, which one read may return together: the other's are not
// delivered.
func testConnectInHandler(t *testing.T, n setup) {
	first, sent := make(chan struct{}), make(chan struct{})
	r := record()
	calls := 0
	c := n.listen(t, funcs{datagram: func(c *udp.Conn, d udp.Datagram) {
		calls++
		switch calls {
		case 1:
			close(first)
			<-sent
		case 2:
			if err := c.Connect(d.Addr); err != nil {
				t.Error(err)
			}
		default:
			r.HandleDatagram(c, d)
		}
	}})
	p, other := n.peer(t), n.peer(t)
	p.send(t, n.reach(c), "first")
	wait(t, first)
	p.send(t, n.reach(c), "second")
	for range 20 {
		other.send(t, n.reach(c), "from another")
		p.send(t, n.reach(c), "from the peer")
	}
	close(sent)
	for range 20 {
		r.expect(t, "from the peer", p.addr)
	}
}

func testOnlyToThePeer(t *testing.T, n setup) {
	p, other := n.peer(t), n.peer(t)
	c := n.listen(t, nil)
	size, err := c.Write([]byte("x"))
	if size != 0 || err == nil {
		t.Errorf("not connected, Write returns %d, %v", size, err)
	}
	checkOpError(t, err)

	check(t, c.Connect(p.addr))
	for name, write := range map[string]func() (int, error){
		"WriteTo":    func() (int, error) { return c.WriteTo([]byte("x"), other.addr) },
		"Reply":      func() (int, error) { return c.Reply(udp.Datagram{Addr: other.addr}, []byte("x")) },
		"WriteBatch": func() (int, error) { return c.WriteBatch(batch(other.addr, "x", "y")) },
	} {
		size, err := write()
		if size != 0 || !errors.Is(err, net.ErrWriteToConnected) {
			t.Errorf("%s to another returns %d, %v", name, size, err)
		}
		checkOpError(t, err)
	}
	check(t, second(c.WriteTo([]byte("one"), p.addr)))
	p.expect(t, "one", n.reach(c))
	check(t, second(c.Reply(udp.Datagram{Addr: p.addr}, []byte("two"))))
	p.expect(t, "two", n.reach(c))

	ds := append(batch(p.addr, "three", "four"), batch(other.addr, "x")...)
	ds = append(ds, batch(p.addr, "five")...)
	if size, err := c.WriteBatch(ds); size != 3 || !errors.Is(err, net.ErrWriteToConnected) {
		t.Errorf("a mixed WriteBatch returns %d, %v", size, err)
	}
	for _, payload := range []string{"three", "four", "five"} {
		p.expect(t, payload, n.reach(c))
	}
}

// testRefused writes once to a port where nobody listens, several times over.
// Then somebody does.
func testRefused(t *testing.T, n setup) {
	r := record()
	c := n.listen(t, r)
	dead := n.dead(t)
	check(t, c.Connect(dead))
	for i := range uint64(5) {
		if size, err := c.Write([]byte("anybody?")); size != 8 || err != nil {
			t.Fatalf("Write returns %d, %v", size, err)
		}
		u := wait(t, r.undelivered)
		if !errors.Is(u.Err, syscall.ECONNREFUSED) || u.Addr != dead {
			t.Fatalf("%+v, want ECONNREFUSED from %v", u, dead)
		}
		if got := c.Stats().Undelivered; got != i+1 {
			t.Fatalf("Stats.Undelivered is %d, want %d", got, i+1)
		}
	}
	p := n.peerAt(t, dead)
	check(t, second(c.Write([]byte("hello"))))
	p.expect(t, "hello", n.reach(c))
	p.send(t, n.reach(c), "answer")
	r.expect(t, "answer", p.addr)
	if len(r.undelivered) != 0 || c.Stats().ReadErrors != 0 {
		t.Errorf("%d more reports, and %+v", len(r.undelivered), c.Stats())
	}
}

// testRefusedUnheard has a Handler without HandleUndelivered: the report is
// only counted.
func testRefusedUnheard(t *testing.T, n setup) {
	c := n.listen(t, nil)
	check(t, c.Connect(n.dead(t)))
	check(t, second(c.Write([]byte("anybody?"))))
	shutdown(t, c)
	if s := c.Stats(); s.Undelivered != 1 || s.ReadErrors != 0 || s.WriteErrors != 0 {
		t.Errorf("%+v, want one undelivered", s)
	}
}

// testWriteMeetsReport blocks the handler, so that only a Write can meet the
// report of the Write before it: it sends its own datagram all the same, and
// the report comes to the handler later.
func testWriteMeetsReport(t *testing.T, n setup) {
	entered, open := make(chan struct{}), make(chan struct{})
	r := record()
	c := n.listen(t, funcs{
		datagram:    func(*udp.Conn, udp.Datagram) { close(entered); <-open },
		undelivered: r.HandleUndelivered,
	})
	p := n.peer(t)
	check(t, c.Connect(p.addr))
	p.send(t, n.reach(c), "block")
	wait(t, entered)
	p.Close()
	check(t, second(c.Write([]byte("lost"))))

	p = n.peerAt(t, p.addr)
	for _, write := range []struct {
		payload string
		write   func(b []byte) error
	}{
		{"Write", func(b []byte) error { return second(c.Write(b)) }},
		{"WriteTo", func(b []byte) error { return second(c.WriteTo(b, p.addr)) }},
		{"WriteBatch", func(b []byte) error { return second(c.WriteBatch(batch(p.addr, string(b)))) }},
	} {
		if write.payload != "Write" {
			p.Close()
			check(t, second(c.Write([]byte("lost"))))
			p = n.peerAt(t, p.addr)
		}
		if err := write.write([]byte(write.payload)); err != nil {
			t.Fatalf("%s: %v", write.payload, err)
		}
		p.expect(t, write.payload, n.reach(c))
	}
	if len(r.undelivered) != 0 {
		t.Error("HandleUndelivered is called while HandleDatagram is")
	}
	close(open)
	for range 3 {
		if u := wait(t, r.undelivered); !errors.Is(u.Err, syscall.ECONNREFUSED) || u.Addr != p.addr {
			t.Errorf("%+v, want ECONNREFUSED from %v", u, p.addr)
		}
	}
	shutdown(t, c)
	if len(r.undelivered) != 0 || c.Stats().Undelivered != 3 {
		t.Errorf("%d more reports, and %+v", len(r.undelivered), c.Stats())
	}
}

// testDeadThenLive writes a thousand times to a dead port and then to a live
// one: all that was written to the latter arrives, in order.
func testDeadThenLive(t *testing.T, n setup) {
	const total, step = 1000, 100
	live := record()
	addr := n.reach(n.listen(t, live))
	writer := goroutine()
	var dead netip.AddrPort
	var reports atomic.Uint64
	c := n.listen(t, funcs{undelivered: func(_ *udp.Conn, u udp.Undelivered) {
		reports.Add(1)
		if u.Addr != dead || !errors.Is(u.Err, syscall.ECONNREFUSED) {
			t.Errorf("%+v, want ECONNREFUSED from %v", u, dead)
		}
		if goroutine() == writer {
			t.Error("HandleUndelivered is called by Write")
		}
	}})
	dead = n.dead(t) // After all others are open, or one of them may get its port.
	check(t, c.Connect(dead))
	for range total {
		check(t, second(c.Write([]byte("anybody?"))))
	}
	check(t, c.Connect(addr))
	for i := range total {
		check(t, second(c.Write([]byte(strconv.Itoa(i)))))
		if i%step != step-1 {
			continue
		}
		for k := i - step + 1; k <= i; k++ {
			live.expect(t, strconv.Itoa(k), n.reach(c))
		}
	}
	shutdown(t, c)
	// In a storm, some reports may be counted only.
	if got, s := reports.Load(), c.Stats(); got < 1 || got > s.Undelivered || s.Undelivered > total {
		t.Errorf("%d reports, and %+v", got, s)
	}
}

// testConnectUnderLoad connects and disconnects while four goroutines write:
// what Write takes goes to one of the peers, from the same port as ever.
func testConnectUnderLoad(t *testing.T, n setup) {
	const writers = 4
	c := n.listen(t, nil)
	port := c.LocalAddr().Port()
	var received atomic.Uint64
	h := udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) {
		received.Add(1)
		if d.Addr.Port() != port {
			t.Errorf("a datagram comes from %v", d.Addr)
		}
	})
	a, b := n.listen(t, h), n.listen(t, h)

	stop := make(chan struct{})
	var sent atomic.Uint64
	var done sync.WaitGroup
	for range writers {
		done.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.Write([]byte("x")); err == nil {
					sent.Add(1)
				} else if errors.Is(err, net.ErrClosed) {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 50 {
		check(t, c.Connect(n.reach(a)))
		check(t, c.Connect(n.reach(b)))
		check(t, c.Disconnect())
	}
	close(stop)
	done.Wait()
	if n.counts {
		eventually(t, "all arrive, or are counted as dropped", func() bool {
			return received.Load()+a.Stats().Dropped+b.Stats().Dropped == sent.Load()
		})
	}
	p := n.peer(t)
	check(t, second(c.WriteTo([]byte("free"), p.addr)))
	p.expect(t, "free", n.reach(c))
}

// testWriteToUnderLoad connects to one peer and the other while goroutines
// write to each by its address: what arrives is for who gets it, and comes
// from the same port as ever.
func testWriteToUnderLoad(t *testing.T, n setup) {
	c := n.listen(t, nil)
	var misled atomic.Int32
	listen := func(payload string) netip.AddrPort {
		return n.reach(n.listen(t, udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) {
			if string(d.Payload) != payload || d.Addr.Port() != c.LocalAddr().Port() {
				misled.Add(1)
			}
		})))
	}
	a, b := listen("a"), listen("b")
	stop := make(chan struct{})
	var done sync.WaitGroup
	writer := func(write func() error) {
		done.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := write(); err != nil && !errors.Is(err, net.ErrWriteToConnected) {
					t.Error(err)
					return
				}
			}
		})
	}
	writer(func() error { return second(c.WriteTo([]byte("a"), a)) })
	writer(func() error { return second(c.WriteTo([]byte("b"), b)) })
	writer(func() error { return second(c.WriteBatch(append(batch(a, "a", "a"), batch(b, "b", "b")...))) })
	for range 200 {
		check(t, c.Connect(a))
		check(t, c.Connect(b))
	}
	close(stop)
	done.Wait()
	if got := misled.Load(); got != 0 {
		t.Errorf("%d datagrams arrive at the other peer, or from another port", got)
	}
}

// testReportNamesItsPeer connects to a live peer right after a Write to a dead
// one: the report is about the latter.
func testReportNamesItsPeer(t *testing.T, n setup) {
	live := n.reach(n.listen(t, nil))
	var dead netip.AddrPort
	var slandered atomic.Int32
	c := n.listen(t, funcs{undelivered: func(_ *udp.Conn, u udp.Undelivered) {
		if u.Addr != dead {
			slandered.Add(1)
		}
	}})
	dead = n.dead(t)
	for range 300 {
		check(t, c.Connect(dead))
		check(t, second(c.Write([]byte("anybody?"))))
		check(t, c.Connect(live))
		check(t, second(c.Write([]byte("hello"))))
	}
	shutdown(t, c)
	if got := slandered.Load(); got != 0 {
		t.Errorf("%d reports name another than %v", got, dead)
	}
	// What comes back after the next Connect is no report for this socket.
	if got := c.Stats().Undelivered; got < 1 || got > 300 {
		t.Errorf("%d reports of 300", got)
	}
}

func TestDialFails(t *testing.T) {
	useResolver(t, nil)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name    string
		ctx     context.Context
		address string
		want    error
	}{
		{"empty", t.Context(), "", nil},
		{"port", t.Context(), "127.0.0.1:70000", nil},
		{"name", t.Context(), "name.invalid:53", nil},
		{"context", ended, "name.invalid:53", context.Canceled},
	} {
		c, err := udp.Dial(test.ctx, test.address, startMustNotRun(t))
		if c != nil || err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v, %v", test.name, c, err)
			continue
		}
		checkOpError(t, err)
	}
}
