package udp_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"syscall"
	"time"

	"example.com/udp"
)

// A server that sends each datagram back, and a client that prints what it
// gets. The client's handler keeps the datagram, so it clones it.
func Example() {
	server, err := udp.Listen("127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		c.Reply(d, d.Payload)
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	answers := make(chan udp.Datagram)
	client, err := udp.Listen("127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		answers <- d.Clone()
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	if _, err := client.WriteTo([]byte("hello"), server.LocalAddr()); err != nil {
		log.Fatal(err)
	}
	d := <-answers
	fmt.Printf("received %q from the server: %v\n", d.Payload, d.Addr == server.LocalAddr())
	// Output:
	// received "hello" from the server: true
}

// dialer is told of answers, and of datagrams that nobody took.
type dialer struct{ events chan string }

func (h dialer) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	h.events <- fmt.Sprintf("received %q", d.Payload)
}

func (h dialer) HandleUndelivered(c *udp.Conn, u udp.Undelivered) {
	if errors.Is(u.Err, syscall.ECONNREFUSED) {
		h.events <- "nobody listens there"
	}
}

// A connected socket is told that nobody listens at the other end, and goes
// on working when somebody does.
func ExampleDial() {
	// A port where nobody listens: one that has just been closed.
	server, err := udp.Listen("127.0.0.1:0", nil)
	if err != nil {
		log.Fatal(err)
	}
	addr := server.LocalAddr()
	server.Close()
	server.Wait()

	h := dialer{events: make(chan string)}
	client, err := udp.Dial(context.Background(), addr.String(), h)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("hello")); err != nil { // sent, as far as anybody knows yet
		log.Fatal(err)
	}
	fmt.Println(<-h.events)

	server, err = udp.Listen(addr.String(), udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		c.Reply(d, []byte("welcome"))
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	if _, err := client.Write([]byte("hello again")); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-h.events)
	// Output:
	// nobody listens there
	// received "welcome"
}

// A socket is connected to one server, then to another, then to none. It
// keeps its port through all of it.
func ExampleConn_Connect() {
	named := func(name string) *udp.Conn {
		c, err := udp.Listen("127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
			c.Reply(d, []byte("this is "+name))
		}))
		if err != nil {
			log.Fatal(err)
		}
		return c
	}
	first, second := named("the first"), named("the second")
	defer first.Close()
	defer second.Close()

	answers := make(chan string)
	client, err := udp.Listen("127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		answers <- string(d.Payload)
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	port := client.LocalAddr().Port()

	for _, server := range []*udp.Conn{first, second} {
		if err := client.Connect(server.LocalAddr()); err != nil {
			log.Fatal(err)
		}
		if _, err := client.Write([]byte("who is there?")); err != nil {
			log.Fatal(err)
		}
		fmt.Println(<-answers)
	}

	if err := client.Disconnect(); err != nil {
		log.Fatal(err)
	}
	// Anybody may send to it again.
	if _, err := first.WriteTo([]byte("hello from the first"), client.LocalAddr()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-answers)
	fmt.Println("connected:", client.RemoteAddr().IsValid())
	fmt.Println("same port:", client.LocalAddr().Port() == port)
	// Output:
	// this is the first
	// this is the second
	// hello from the first
	// connected: false
	// same port: true
}

// loopback returns the loopback interface, whatever its name is here.
func loopback() *net.Interface {
	ifis, err := net.Interfaces()
	if err != nil {
		log.Fatal(err)
	}
	for _, ifi := range ifis {
		if ifi.Flags&net.FlagLoopback != 0 && ifi.Flags&net.FlagUp != 0 {
			return &ifi
		}
	}
	log.Fatal("no loopback interface")
	return nil
}

// A server joins a group; a client, which has not, pings the group and is
// answered by the server alone. Both name the interface, as a host has many,
// and the system's choice is seldom the one that was meant.
func ExampleListenMulticast() {
	group := udp.Group{Addr: netip.MustParseAddr("239.255.0.5"), Interface: loopback()}

	server, err := udp.ListenMulticast(":0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		fmt.Printf("the server received %q\n", d.Payload)
		c.Reply(d, []byte("Server: Pong")) // to the client, not to the group
	}), group)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	answers := make(chan string)
	client, err := udp.Listen("127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		answers <- string(d.Payload)
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if err := client.SetMulticastInterface(group.Interface); err != nil {
		log.Fatal(err)
	}
	to := netip.AddrPortFrom(group.Addr, server.LocalAddr().Port())
	if _, err := client.WriteTo([]byte("Client: Ping"), to); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("the client received %q\n", <-answers)
	// Output:
	// the server received "Client: Ping"
	// the client received "Server: Pong"
}

// echoBatches sends back all that one read returned, with one call.
type echoBatches struct{}

func (echoBatches) HandleBatch(c *udp.Conn, ds []udp.Datagram) {
	// Addr of a received datagram is its source, of one to send its
	// destination: a batch can go back as it is.
	if n, err := c.WriteBatch(ds); err != nil {
		log.Printf("sent %d of %d: %v", n, len(ds), err)
	}
}

// HandleDatagram makes echoBatches a Handler; HandleBatch is called instead.
func (echoBatches) HandleDatagram(c *udp.Conn, d udp.Datagram) {}

// A server reads and writes as many datagrams at a time as wait for it, and a
// client sends several with one call. Datagrams to one peer stay in order.
func ExampleBatchHandler() {
	server, err := udp.Listen("127.0.0.1:0", echoBatches{})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	answers := make(chan string)
	client, err := udp.Listen("127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		answers <- string(d.Payload)
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	n, err := client.WriteBatch([]udp.Datagram{
		{Payload: []byte("one"), Addr: server.LocalAddr()},
		{Payload: []byte("two"), Addr: server.LocalAddr()},
		{Payload: []byte("three"), Addr: server.LocalAddr()},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("sent", n)
	for range n {
		fmt.Println(<-answers)
	}
	// Output:
	// sent 3
	// one
	// two
	// three
}

// parting answers everybody, and says goodbye to the last who asked.
type parting struct{ last netip.AddrPort }

func (h *parting) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	h.last = d.Addr
	c.Reply(d, d.Payload)
}

// HandleStop needs no lock: one goroutine makes all calls of a Conn.
func (h *parting) HandleStop(c *udp.Conn, err error) {
	c.WriteTo([]byte("goodbye"), h.last)
}

// A server that stops when a context ends: what has arrived is handled, and
// the peer is told.
func ExampleConn_Shutdown() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	server, err := udp.Listen("127.0.0.1:0", new(parting))
	if err != nil {
		log.Fatal(err)
	}
	context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		server.Shutdown(ctx)
	})

	answers := make(chan string)
	client, err := udp.Dial(ctx, server.LocalAddr().String(), udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
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

	cancel()
	fmt.Println(<-answers)
	fmt.Println("the server stopped:", server.Wait())
	// Output:
	// hello
	// goodbye
	// the server stopped: <nil>
}

// A handler panics; Recover is told, and the next datagram is handled.
// Without Recover the program would end, as with any other panic.
func ExampleListenConfig_recover() {
	recovered := make(chan any, 1)
	lc := udp.ListenConfig{
		Recover: func(c *udp.Conn, v any) { recovered <- v },
	}
	server, err := lc.Listen(context.Background(), "127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		if len(d.Payload) == 0 {
			panic("an empty datagram")
		}
		c.Reply(d, d.Payload)
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
	for _, payload := range []string{"", "hello"} {
		if _, err := client.Write([]byte(payload)); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println("recovered:", <-recovered)
	fmt.Println("answered:", <-answers)
	fmt.Println("counted:", server.Stats().Panics)
	// Output:
	// recovered: an empty datagram
	// answered: hello
	// counted: 1
}

// One port is served by several sockets, each with a goroutine of its own.
// The kernel sends all datagrams of one peer to the same socket. A server
// would open one for each core, runtime.GOMAXPROCS(0) of them. Where sockets
// cannot share a port's load, the first Listen says errors.ErrUnsupported.
func ExampleListenConfig_reusePort() {
	lc := udp.ListenConfig{ReusePort: true}
	h := udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) { c.Reply(d, d.Payload) })

	address := "127.0.0.1:0" // the system chooses a port for the first socket
	for range 4 {
		c, err := lc.Listen(context.Background(), address, h)
		if errors.Is(err, errors.ErrUnsupported) {
			lc.ReusePort = false // one socket has to do
			c, err = lc.Listen(context.Background(), address, h)
		}
		if err != nil {
			log.Fatal(err)
		}
		defer c.Close()
		address = c.LocalAddr().String() // and the others share it
		if !lc.ReusePort {
			break
		}
	}

	answers := make(chan string)
	for range 32 {
		client, err := udp.Dial(context.Background(), address, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
			answers <- string(d.Payload)
		}))
		if err != nil {
			log.Fatal(err)
		}
		defer client.Close()
		if _, err := client.Write([]byte("hello")); err != nil {
			log.Fatal(err)
		}
	}
	count := 0
	for range 32 {
		<-answers
		count++
	}
	fmt.Println("answered", count, "clients")
	// Output:
	// answered 32 clients
}

// What other goroutines know comes into the Conn's goroutine by Post, so that
// the handler's state needs no lock.
func ExampleConn_Post() {
	greeting := "hello"
	c, err := udp.Listen("127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		c.Reply(d, []byte(greeting))
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Post(func() { greeting = "good evening" }); err != nil {
		log.Fatal(err)
	}

	answer := make(chan string)
	client, err := udp.Dial(context.Background(), c.LocalAddr().String(), udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) {
		answer <- string(d.Payload)
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	client.Write([]byte("?"))
	fmt.Println(<-answer)
	// Output:
	// good evening
}

// A client asks again until it is answered. The timer runs in the goroutine
// of the handler, and does not run any more once that has stopped it.
func ExampleConn_AfterFunc() {
	server, err := udp.Listen("127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		if string(d.Payload) != "try 1" { // as if that had been lost
			c.Reply(d, d.Payload)
		}
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	answer := make(chan string)
	var again *udp.Timer
	client, err := udp.Dial(context.Background(), server.LocalAddr().String(), udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		if again.Stop() {
			answer <- "answered: " + string(d.Payload)
		}
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	try := 0
	ask := func() {
		try++
		client.Write(fmt.Appendf(nil, "try %d", try))
		again.Reset(100 * time.Millisecond)
	}
	client.Post(func() {
		again = client.AfterFunc(time.Hour, ask)
		ask()
	})
	fmt.Println(<-answer)
	// Output:
	// answered: try 2
}
