package udp_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"example.com/udp"
)

var queueScenarios = []scenario{
	{"Queue", testQueue},
	{"QueueOutside", testQueueOutside},
	{"QueueLent", testQueueLent},
	{"QueueErrors", testQueueErrors},
	{"QueueNotSent", testQueueNotSent},
	{"QueueAfterPanic", testQueueAfterPanic},
	{"QueueAfterGoexit", testQueueAfterGoexit},
	{"QueueInPost", testQueueInPost},
	{"QueueGoodbye", testQueueGoodbye},
	{"QueueClosed", testQueueClosed},
	{"QueueConnected", testQueueConnected},
	{"QueueWorkers", testQueueWorkers},
	{"QueueByOthers", testQueueByOthers},
}

var nativeQueueScenarios = []scenario{{"QueueFull", testQueueFull}}

func TestQueue(t *testing.T) {
	runScenarios(t, nativeQueueScenarios, slices.Concat(kernelSetups(), memSetups()))
	runScenarios(t, queueScenarios, slices.Concat(kernelSetups(), []setup{foreignSetup()}, memSetups()))
	runScenarios(t, inBubbles(queueScenarios), memSetups())
}

// testQueue echoes: everything arrives, each peer's in its order, and nothing
// before the handler has returned.
func testQueue(t *testing.T, n setup) {
	var queued uint64
	c := n.listen(t, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		before := c.Stats().WriteDatagrams
		check(t, c.Queue(d))
		if after := c.Stats().WriteDatagrams; after != before {
			t.Errorf("%d are sent while the handler runs", after-before)
		}
		queued++
	}))
	peers := []bare{n.peer(t), n.peer(t)}
	for i := range 20 {
		for _, p := range peers {
			p.send(t, n.reach(c), strconv.Itoa(i))
		}
	}
	for _, p := range peers {
		for i := range 20 {
			p.expect(t, strconv.Itoa(i), n.reach(c))
		}
	}
}

// testQueueOutside has no callback under way: Queue sends at once, and says
// why it cannot.
func testQueueOutside(t *testing.T, n setup) {
	c := n.listen(t, nil)
	p := n.peer(t)
	check(t, c.Queue(udp.Datagram{Payload: []byte("now"), Addr: p.addr}))
	if s := c.Stats(); s.WriteDatagrams != 1 {
		t.Errorf("%d are sent when Queue has returned", s.WriteDatagrams)
	}
	p.expect(t, "now", n.reach(c))
	isError(t, c.Queue(udp.Datagram{Payload: make([]byte, 65536), Addr: p.addr}), syscall.EMSGSIZE)
}

// testQueueLent has the handler change what it queued.
func testQueueLent(t *testing.T, n setup) {
	c := n.listen(t, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		own := []byte("queued")
		check(t, c.Queue(udp.Datagram{Payload: own, Addr: d.Addr}))
		copy(own, "spoilt")
	}))
	p := n.peer(t)
	p.send(t, n.reach(c), "x")
	p.expect(t, "queued", n.reach(c))
}

// testQueueFull queues more than waits at most, in number and in bytes.
func testQueueFull(t *testing.T, n setup) {
	const many = 150
	all := make(chan []uint64, 1)
	c := n.listen(t, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		var sent []uint64
		for i := range many {
			check(t, c.Queue(udp.Datagram{Payload: []byte(strconv.Itoa(i)), Addr: d.Addr}))
			sent = append(sent, c.Stats().WriteDatagrams)
		}
		for range 5 {
			check(t, c.Queue(udp.Datagram{Payload: make([]byte, 60000), Addr: d.Addr}))
		}
		all <- append(sent, c.Stats().WriteDatagrams)
	}))
	p := n.peer(t)
	check(t, p.PacketConn.(interface{ SetReadBuffer(int) error }).SetReadBuffer(1<<20))
	p.send(t, n.reach(c), "x")
	for i := range many {
		p.expect(t, strconv.Itoa(i), n.reach(c))
	}
	for range 5 {
		p.expect(t, string(make([]byte, 60000)), n.reach(c))
	}
	sent := wait(t, all)
	if sent[63] != 0 || sent[64] != 64 || sent[127] != 64 || sent[128] != 128 || sent[many] != many+4 {
		t.Errorf("after 64, 65, 128, 129 and all, %d, %d, %d, %d and %d are sent", sent[63], sent[64], sent[127], sent[128], sent[many])
	}
}

// testQueueErrors queues what cannot go anywhere.
func testQueueErrors(t *testing.T, n setup) {
	errs := make(chan error, 3)
	c := n.listen(t, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		errs <- c.Queue(udp.Datagram{})
		errs <- c.Queue(udp.Datagram{Addr: netip.AddrPortFrom(d.Addr.Addr(), 0)})
		errs <- c.Queue(udp.Datagram{Addr: d.Addr, Payload: make([]byte, 65536)})
	}))
	n.peer(t).send(t, n.reach(c), "x")
	for _, want := range []string{"missing address", "missing port", syscall.EMSGSIZE.Error()} {
		if err := wait(t, errs); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	eventually(t, "they are counted", func() bool { return c.Stats().WriteErrors == 3 })
}

// testQueueNotSent queues one that the system refuses among others that it
// sends: it is counted once, and the Logger is told.
func testQueueNotSent(t *testing.T, n setup) {
	var log logBuffer
	n.config.Logger = slog.New(slog.NewTextHandler(&log, nil))
	c := n.listen(t, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		check(t, c.Queue(udp.Datagram{Payload: []byte("first"), Addr: d.Addr}))
		check(t, c.Queue(udp.Datagram{Payload: make([]byte, 65527), Addr: netip.AddrPortFrom(loopback4, d.Addr.Port())}))
		check(t, c.Queue(udp.Datagram{Payload: []byte("last"), Addr: d.Addr}))
	}))
	if !n.host.Is4() {
		return // over IPv6 so much is sent
	}
	p := n.peer(t)
	p.send(t, n.reach(c), "x")
	p.expect(t, "first", n.reach(c))
	p.expect(t, "last", n.reach(c))
	eventually(t, "it is logged", func() bool { return strings.Contains(log.String(), "queued datagrams not sent") })
	if s := c.Stats(); s.WriteErrors != 1 || s.WriteDatagrams != 2 {
		t.Errorf("%+v", s)
	}
}

func testQueueAfterPanic(t *testing.T, n setup) {
	n.config.Recover = func(*udp.Conn, any) {}
	c := n.listen(t, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		check(t, c.Queue(d))
		panic("after Queue")
	}))
	p := n.peer(t)
	p.send(t, n.reach(c), "x")
	p.expect(t, "x", n.reach(c))
}

func testQueueAfterGoexit(t *testing.T, n setup) {
	c := n.listen(t, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		check(t, c.Queue(d))
		runtime.Goexit()
	}))
	p := n.peer(t)
	p.send(t, n.reach(c), "x")
	p.expect(t, "x", n.reach(c))
}

// testQueueInPost queues in what was posted, and in a timer.
func testQueueInPost(t *testing.T, n setup) {
	c := n.listen(t, nil)
	p := n.peer(t)
	check(t, c.Post(func() { check(t, c.Queue(udp.Datagram{Payload: []byte("post"), Addr: p.addr})) }))
	p.expect(t, "post", n.reach(c))
	c.AfterFunc(1, func() { check(t, c.Queue(udp.Datagram{Payload: []byte("timer"), Addr: p.addr})) })
	p.expect(t, "timer", n.reach(c))
}

// testQueueGoodbye queues the last words.
func testQueueGoodbye(t *testing.T, n setup) {
	p := n.peer(t)
	c, err := n.config.Listen(t.Context(), n.bind, funcs{stop: func(c *udp.Conn, err error) {
		check(t, c.Queue(udp.Datagram{Payload: []byte("goodbye"), Addr: p.addr}))
	}})
	check(t, err)
	from := n.reach(c)
	check(t, c.Shutdown(t.Context()))
	p.expect(t, "goodbye", from)
}

// testQueueClosed closes the Conn while datagrams are queued.
func testQueueClosed(t *testing.T, n setup) {
	errs := make(chan error, 1)
	c, err := n.config.Listen(t.Context(), n.bind, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		check(t, c.Queue(d))
		check(t, c.Queue(d))
		check(t, c.Close())
		errs <- c.Queue(d)
	}))
	check(t, err)
	n.peer(t).send(t, n.reach(c), "x")
	isError(t, wait(t, errs), net.ErrClosed)
	check(t, c.Wait())
	if s := c.Stats(); s.WriteErrors != 3 || s.WriteDatagrams != 0 {
		t.Errorf("%d errors, %d sent", s.WriteErrors, s.WriteDatagrams)
	}
	isError(t, c.Queue(udp.Datagram{Addr: n.reach(c)}), net.ErrClosed)
}

// testQueueConnected needs no address.
func testQueueConnected(t *testing.T, n setup) {
	p, other := n.peer(t), n.peer(t)
	errs := make(chan error, 1)
	c := n.dial(t, p.addr, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		check(t, c.Queue(udp.Datagram{Payload: []byte("to the peer")}))
		errs <- c.Queue(udp.Datagram{Addr: other.addr})
	}))
	p.send(t, n.reach(c), "x")
	isError(t, wait(t, errs), net.ErrWriteToConnected)
	p.expect(t, "to the peer", n.reach(c))
}

func testQueueWorkers(t *testing.T, n setup) {
	c := n.listen(t, &udp.Workers{N: 3, Handler: udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) { check(t, c.Queue(d)) })})
	for i := range 10 {
		p := n.peer(t)
		for j := range 5 {
			p.send(t, n.reach(c), strconv.Itoa(10*i+j))
		}
		for j := range 5 {
			p.expect(t, strconv.Itoa(10*i+j), n.reach(c))
		}
	}
}

// testQueueByOthers queues from other goroutines, while callbacks come and go:
// nothing is left behind.
func testQueueByOthers(t *testing.T, n setup) {
	const many = 200
	c := n.listen(t, udp.HandlerFunc(func(*udp.Conn, udp.Datagram) {}))
	p, busy := n.peer(t), n.peer(t)
	done := async(func() error {
		for range many {
			if err := c.Queue(udp.Datagram{Payload: []byte("x"), Addr: p.addr}); err != nil {
				return err
			}
		}
		return nil
	})
	for range many {
		busy.send(t, n.reach(c), "y")
	}
	check(t, wait(t, done))
	for range many {
		p.expect(t, "x", n.reach(c))
	}
}

// TestQueueBatches has what one read returned leave in few system calls.
func TestQueueBatches(t *testing.T) {
	n := kernelSetups()[0]
	if !n.batches {
		t.Skip("one datagram a call: run on Linux without the tag udpbasic")
	}
	entered, open := make(chan struct{}), make(chan struct{})
	first := true
	c := n.listen(t, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		if first {
			first = false
			close(entered)
			<-open
			return
		}
		check(t, c.Queue(d))
	}))
	p := n.peer(t)
	p.send(t, n.reach(c), "block")
	wait(t, entered)
	const many = 100
	for i := range many {
		p.send(t, n.reach(c), strconv.Itoa(i))
	}
	close(open)
	for i := range many {
		p.expect(t, strconv.Itoa(i), n.reach(c))
	}
	if s := c.Stats(); s.Writes > many/4 {
		t.Errorf("%d datagrams left in %d calls", s.WriteDatagrams, s.Writes)
	}
}

func ExampleConn_Queue() {
	// What the handler queues leaves in one batch, when all that one read
	// returned has been handled.
	server, err := udp.Listen("127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		d.Payload = bytes.ToUpper(d.Payload)
		c.Queue(d) // back to d.Addr, from d.Local
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	answers := make(chan string)
	client, err := udp.Dial(context.Background(), server.LocalAddr().String(), udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		answers <- string(d.Payload)
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("hello")); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-answers)
	// Output:
	// HELLO
}
