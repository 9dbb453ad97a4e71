package udp_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.com/udp"
)

func TestClone(t *testing.T) {
	d := udp.Datagram{
		Payload:   []byte("hello"),
		Addr:      netip.MustParseAddrPort("192.0.2.1:9"),
		Local:     loopback4,
		Interface: 1,
		TTL:       64,
		Truncated: true,
	}
	clone := d.Clone()
	d.Payload[0] = 'j'
	if string(clone.Payload) != "hello" {
		t.Errorf("the clone has %q", clone.Payload)
	}
	if clone.Addr != d.Addr || clone.Local != d.Local || clone.Interface != 1 || clone.TTL != 64 || !clone.Truncated {
		t.Errorf("the clone is %+v", clone)
	}
}

// testHandleStart sends a datagram to its own socket from HandleStart: it is
// handled, but not before HandleStart has returned.
func testHandleStart(t *testing.T, n setup) {
	var order []string
	caller := goroutine()
	done := make(chan struct{})
	var opened *udp.Conn
	c := n.listen(t, funcs{
		start: func(c *udp.Conn) error {
			opened = c
			if goroutine() != caller {
				t.Error("HandleStart has a goroutine of its own")
			}
			_, err := c.WriteTo([]byte("to myself"), n.reach(c))
			order = append(order, "start")
			return err
		},
		datagram: func(_ *udp.Conn, d udp.Datagram) {
			order = append(order, string(d.Payload))
			close(done)
		},
	})
	if opened != c {
		t.Errorf("HandleStart gets %v, Listen returns %v", opened, c)
	}
	wait(t, done)
	if !slices.Equal(order, []string{"start", "to myself"}) {
		t.Errorf("the order is %q", order)
	}
}

// testOneGoroutine collects the goroutines of all callbacks, without a lock:
// the race detector sees if there are two.
func testOneGoroutine(t *testing.T, n setup) {
	var calls []string
	seen := make(chan struct{}, 100)
	note := func(what string) {
		calls = append(calls, goroutine()+" "+what)
		seen <- struct{}{}
	}
	c := n.listen(t, funcs{
		datagram:    func(*udp.Conn, udp.Datagram) { note("datagram") },
		undelivered: func(*udp.Conn, udp.Undelivered) { note("undelivered") },
		stop:        func(*udp.Conn, error) { note("stop") },
	})
	p := n.peer(t)
	p.send(t, n.reach(c), "x")
	wait(t, seen)
	check(t, c.Connect(n.dead(t)))
	check(t, second(c.Write([]byte("x"))))
	wait(t, seen)
	check(t, c.Disconnect())
	p.send(t, n.reach(c), "x")
	wait(t, seen)
	c.Close()
	check(t, c.Wait())

	id, _ := strings.CutSuffix(calls[0], " datagram")
	want := []string{id + " datagram", id + " undelivered", id + " datagram", id + " stop"}
	if !slices.Equal(calls, want) || id == goroutine() {
		t.Errorf("the calls are %q, want %q", calls, want)
	}
}

func testNilHandler(t *testing.T, n setup) {
	c := n.listen(t, nil)
	p := n.peer(t)
	p.send(t, n.reach(c), "one")
	p.send(t, n.reach(c), "")
	check(t, second(c.WriteTo([]byte("hello"), p.addr)))
	p.expect(t, "hello", n.reach(c))
	shutdown(t, c)
	if got := c.Stats().ReadDatagrams; got != 2 {
		t.Errorf("%d datagrams are read, want 2", got)
	}
}

// testBlockedHandler blocks one handler: the other socket works, and the
// blocked one's kernel drops what does not fit, and counts it.
func testBlockedHandler(t *testing.T, n setup) {
	const sent = 500
	small := n
	small.config.ReadBuffer = 10000
	entered, open := make(chan struct{}, sent), make(chan struct{})
	blocked := small.listen(t, funcs{datagram: func(*udp.Conn, udp.Datagram) {
		entered <- struct{}{}
		<-open
	}})
	p := n.peer(t)
	p.send(t, n.reach(blocked), "block")
	wait(t, entered)

	other := n.listen(t, echo(t))
	p.send(t, n.reach(other), "hello")
	p.expect(t, "hello", n.reach(other))

	for range sent {
		p.send(t, n.reach(blocked), text(500))
	}
	close(open)
	shutdown(t, blocked)
	s := blocked.Stats()
	if s.ReadDatagrams > sent/2 {
		t.Errorf("a buffer of 10000 bytes takes %d datagrams of 500", s.ReadDatagrams)
	}
	if s.ReadDatagrams+s.Dropped != sent+1 && n.counts {
		t.Errorf("%d read and %d dropped are not the %d sent", s.ReadDatagrams, s.Dropped, sent+1)
	}
}

// testBatches lets 200 datagrams wait, and wants them in order and whole,
// more than one at a time where the system can.
func testBatches(t *testing.T, n setup) {
	const sent = 200
	entered, open := make(chan struct{}, sent), make(chan struct{})
	var got []string
	longest := 0
	c := n.listen(t, batchFuncs{
		funcs: funcs{datagram: func(*udp.Conn, udp.Datagram) { t.Error("HandleDatagram is called") }},
		batch: func(_ *udp.Conn, ds []udp.Datagram) {
			entered <- struct{}{}
			<-open
			for _, d := range ds {
				got = append(got, string(d.Payload))
			}
			longest = max(longest, len(ds))
		},
	})
	var want []string
	for i := range sent {
		want = append(want, strconv.Itoa(i))
	}
	p := n.peer(t)
	p.send(t, n.reach(c), want[0])
	wait(t, entered)
	for _, payload := range want[1:] {
		p.send(t, n.reach(c), payload)
	}
	close(open)
	shutdown(t, c)
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if longest < 2 && n.batches {
		t.Error("one at a time, although many wait")
	}
	if s := c.Stats(); !n.batches && s.Reads != s.ReadDatagrams {
		t.Errorf("%d reads return %d datagrams", s.Reads, s.ReadDatagrams)
	}
}

// testAppend appends to each payload, of a batch whose datagrams may lie one
// behind the other in memory.
func testAppend(t *testing.T, n setup) {
	const sent = 60
	entered, open := make(chan struct{}, sent), make(chan struct{})
	total := 0
	c := n.listen(t, batchFuncs{batch: func(_ *udp.Conn, ds []udp.Datagram) {
		entered <- struct{}{}
		<-open
		for _, d := range ds {
			_ = append(d.Payload, text(300)...)
		}
		for _, d := range ds {
			if want := fmt.Sprintf("%0100d", total); string(d.Payload) != want {
				t.Errorf("%s is %q", want, d.Payload)
			}
			total++
		}
	}})
	var payloads []string
	for i := range sent {
		payloads = append(payloads, fmt.Sprintf("%0100d", i))
	}
	from := n.listen(t, nil)
	for _, ds := range [][]string{payloads[:1], payloads[1:]} {
		check(t, second(from.WriteBatch(batch(n.reach(c), ds...))))
		if len(ds) == 1 {
			wait(t, entered)
		}
	}
	close(open)
	shutdown(t, c)
	if total != sent {
		t.Errorf("%d of %d arrive", total, sent)
	}
}

// testPoison keeps payloads, as a handler must not: with the race detector,
// none of their bytes is what it was.
func testPoison(t *testing.T, n setup) {
	if !raceDetector() {
		t.Skip("payloads are overwritten only with the race detector: try -race")
	}
	var kept [][]byte
	c := n.listen(t, udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) { kept = append(kept, d.Payload) }))
	from := n.listen(t, nil)
	check(t, second(from.WriteBatch(batch(n.reach(c), text(20), text(20), text(20)))))
	check(t, second(from.WriteTo([]byte(text(1000)), n.reach(c))))
	shutdown(t, c)
	if len(kept) != 4 {
		t.Fatalf("%d of 4 arrive", len(kept))
	}
	for _, payload := range kept {
		checkPoisoned(t, payload)
	}
}

func testPoisonedBatch(t *testing.T, n setup) {
	if !raceDetector() {
		t.Skip("payloads are overwritten only with the race detector: try -race")
	}
	var kept [][]udp.Datagram
	var payloads [][]byte
	c := n.listen(t, batchFuncs{batch: func(_ *udp.Conn, ds []udp.Datagram) {
		kept = append(kept, ds)
		for _, d := range ds {
			payloads = append(payloads, d.Payload)
		}
	}})
	from := n.listen(t, nil)
	check(t, second(from.WriteBatch(batch(n.reach(c), text(20), text(20), text(20)))))
	shutdown(t, c)
	if len(payloads) != 3 {
		t.Fatalf("%d of 3 arrive", len(payloads))
	}
	for _, payload := range payloads {
		checkPoisoned(t, payload)
	}
	for _, ds := range kept {
		for _, d := range ds {
			if d.Addr == n.reach(from) {
				t.Errorf("the slice of HandleBatch still has %+v", d)
			}
		}
	}
}

// testRecover panics in each callback of the Conn's goroutine.
func testRecover(t *testing.T, n setup) {
	type recovered struct {
		c *udp.Conn
		v any
	}
	panics := make(chan recovered, 10)
	n.config.Recover = func(c *udp.Conn, v any) { panics <- recovered{c, v} }
	expect := func(c *udp.Conn, v string) {
		t.Helper()
		if r := wait(t, panics); r.c != c || r.v != any(v) {
			t.Errorf("recovered %v of %v, want %q of %v", r.v, r.c, v, c)
		}
	}
	each := funcs{
		datagram:    func(_ *udp.Conn, d udp.Datagram) { panic(string(d.Payload)) },
		undelivered: func(*udp.Conn, udp.Undelivered) { panic("undelivered") },
		stop:        func(*udp.Conn, error) { panic("stop") },
	}
	batches := batchFuncs{each, func(_ *udp.Conn, ds []udp.Datagram) { panic(string(ds[0].Payload)) }}
	for _, h := range []udp.Handler{each, batches} {
		c := n.listen(t, h)
		for _, payload := range []string{"one", "two"} {
			n.peer(t).send(t, n.reach(c), payload)
			expect(c, payload)
		}
		check(t, c.Connect(n.dead(t)))
		check(t, second(c.Write([]byte("x"))))
		expect(c, "undelivered")
		c.Close()
		expect(c, "stop")
		check(t, c.Wait())
		if got := c.Stats().Panics; got != 4 {
			t.Errorf("Stats.Panics is %d, want 4", got)
		}
	}
}

// TestPanic panics without Recover, in a process of its own.
func TestPanic(t *testing.T) {
	const variable, message = "UDP_TEST_PANIC", "the handler's own panic"
	if os.Getenv(variable) != "" {
		n := setup{bind: "127.0.0.1:0", host: loopback4}
		c := n.listen(t, udp.HandlerFunc(func(*udp.Conn, udp.Datagram) { panic(message) }))
		n.peer(t).send(t, n.reach(c), "x")
		c.Wait()
		return
	}
	self := again(t, "TestPanic")
	cmd := exec.CommandContext(t.Context(), self[0], self[1:]...)
	cmd.Env = append(os.Environ(), variable+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(string(out), "panic: "+message) {
		t.Errorf("the program ends with %v:\n%s", err, out)
	}
}

// testSameHandler serves two Conns and, later, a third with one Handler.
func testSameHandler(t *testing.T, n setup) {
	r := record()
	p := n.peer(t)
	a, b := n.listen(t, r), n.listen(t, r)
	p.send(t, n.reach(a), "a")
	r.expect(t, "a", p.addr)
	p.send(t, n.reach(b), "b")
	r.expect(t, "b", p.addr)
	a.Close()
	check(t, a.Wait())
	check(t, wait(t, r.stopped))

	again := n.listenAt(t, n.at(a.LocalAddr().Port()), r)
	p.send(t, n.reach(again), "again")
	r.expect(t, "again", p.addr)
	p.send(t, n.reach(b), "b")
	r.expect(t, "b", p.addr)
}

// checkPoisoned fails if one byte of payload, which was made by text, is left.
func checkPoisoned(t *testing.T, payload []byte) {
	t.Helper()
	left := 0
	for i, b := range []byte(text(len(payload))) {
		if payload[i] == b {
			left++
		}
	}
	// A pattern may happen to agree with the text in a place, not in many.
	if left > len(payload)/10 {
		t.Errorf("%d of %d bytes are what they were: %.40q", left, len(payload), payload)
	}
}

// Handlers that almost have an add-on.
type (
	plain            struct{}
	batchByValue     struct{ plain }
	startNoError     struct{ plain }
	stopNoError      struct{ plain }
	undeliveredError struct{ plain }
	groupsOne        struct{ plain }
	stopOfPointer    struct{ plain }
	aroundPointer    struct{ stopOfPointer }
	aroundRight      struct{ *stopOfPointer }
)

func (plain) HandleDatagram(*udp.Conn, udp.Datagram)            {}
func (batchByValue) HandleBatch(*udp.Conn, udp.Datagram)        {}
func (startNoError) HandleStart(*udp.Conn)                      {}
func (stopNoError) HandleStop(*udp.Conn)                        {}
func (undeliveredError) HandleUndelivered(*udp.Conn, error)     {}
func (groupsOne) HandleGroups(*udp.Conn, []udp.Group)           {}
func (*stopOfPointer) HandleStop(*udp.Conn, error)              {}
func (*aroundPointer) HandleGroups(*udp.Conn, ...udp.Group) int { return 0 }

// TestAddOnsChecked opens sockets with handlers whose add-ons would never be
// called: none is opened.
func TestAddOnsChecked(t *testing.T) {
	opened := 0
	lc := udp.ListenConfig{PacketListener: listenerFunc(func(ctx context.Context, network, address string) (net.PacketConn, error) {
		opened++
		return new(net.ListenConfig).ListenPacket(ctx, network, address)
	})}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	check(t, err)
	defer pc.Close()
	open := []func(h udp.Handler) (*udp.Conn, error){
		func(h udp.Handler) (*udp.Conn, error) { return lc.Listen(t.Context(), "127.0.0.1:0", h) },
		func(h udp.Handler) (*udp.Conn, error) { return lc.Dial(t.Context(), "127.0.0.1:9", h) },
		func(h udp.Handler) (*udp.Conn, error) { return lc.ListenMulticast(t.Context(), ":0", h) },
		func(h udp.Handler) (*udp.Conn, error) { return lc.NewConn(pc, h) },
	}
	for _, test := range []struct {
		h    udp.Handler
		want string
	}{
		{batchByValue{}, "handler udp_test.batchByValue: HandleBatch(*udp.Conn, udp.Datagram) is not the HandleBatch(*udp.Conn, []udp.Datagram) of udp.BatchHandler"},
		{startNoError{}, "handler udp_test.startNoError: HandleStart(*udp.Conn) is not the HandleStart(*udp.Conn) error of udp.StartHandler"},
		{&stopNoError{}, "handler *udp_test.stopNoError: HandleStop(*udp.Conn) is not the HandleStop(*udp.Conn, error) of udp.StopHandler"},
		{undeliveredError{}, "handler udp_test.undeliveredError: HandleUndelivered(*udp.Conn, error) is not the HandleUndelivered(*udp.Conn, udp.Undelivered) of udp.UndeliveredHandler"},
		{groupsOne{}, "handler udp_test.groupsOne: HandleGroups(*udp.Conn, []udp.Group) is not the HandleGroups(*udp.Conn, []udp.Group, []udp.Group) of udp.GroupHandler"},
		{stopOfPointer{}, "handler udp_test.stopOfPointer: only *udp_test.stopOfPointer has HandleStop: pass a pointer"},
		{aroundPointer{}, "handler udp_test.aroundPointer: only *udp_test.aroundPointer has HandleStop: pass a pointer"},
		{&aroundPointer{}, "handler *udp_test.aroundPointer: HandleGroups(*udp.Conn, ...udp.Group) int is not the HandleGroups(*udp.Conn, []udp.Group, []udp.Group) of udp.GroupHandler"},
		{struct{ udp.Handler }{udp.HandlerFunc(nil)}, ""}, // an interface hides the rest
		{aroundRight{new(stopOfPointer)}, ""},
		{&stopOfPointer{}, ""},
		{nil, ""},
	} {
		for i, open := range open {
			if test.want == "" && i > 0 {
				continue
			}
			c, err := open(test.h)
			if test.want == "" {
				check(t, err)
				closeAtEnd(t, c)
				opened = 0
				continue
			}
			if err == nil {
				c.Close()
				t.Errorf("%T is taken", test.h)
				continue
			}
			if op := checkOpError(t, err); op.Err.Error() != test.want {
				t.Errorf("the error is\n%v, want\n%v", op.Err, test.want)
			}
			if opened != 0 {
				t.Errorf("a socket is opened for %T", test.h)
			}
		}
	}
	// What was to be taken over is the caller's still.
	check(t, second(pc.WriteTo([]byte("x"), pc.LocalAddr())))
}

// testBatchHandlerFunc gives a function all that one read returns.
func testBatchHandlerFunc(t *testing.T, n setup) {
	got := make(chan string, 10)
	h := udp.BatchHandlerFunc(func(_ *udp.Conn, ds []udp.Datagram) {
		for _, d := range ds {
			got <- string(d.Payload)
		}
	})
	c := n.listen(t, h)
	n.peer(t).send(t, n.reach(c), "by the Conn")
	if s := wait(t, got); s != "by the Conn" {
		t.Errorf("the function gets %q", s)
	}
	h.HandleDatagram(c, udp.Datagram{Payload: []byte("alone")})
	if s := wait(t, got); s != "alone" {
		t.Errorf("the function gets %q", s)
	}
}

// TestUnusedMethods builds a program, from which the linker drops methods
// that nobody calls: checkAddOns must not keep it from that.
func TestUnusedMethods(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds a program: try without -short")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no Go: try with it in PATH")
	}
	bin := filepath.Join(t.TempDir(), "echo")
	if out, err := exec.Command("go", "build", "-o", bin, "./examples/echo").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	symbols, err := exec.Command("go", "tool", "nm", bin).Output()
	check(t, err)
	if !strings.Contains(string(symbols), "net/netip.(*Addr).String") {
		t.Fatal("there are no symbols")
	}
	if strings.Contains(string(symbols), "net/netip.(*Addr).Prev") {
		t.Error("netip.Addr.Prev is there, though nobody calls it")
	}
}
