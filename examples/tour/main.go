// Command tour shows the package at work: in one process, on the loopback
// interface, it says what it does and why, and checks that it happens.
//
//	go run ./examples/tour
//
// Each chapter names the function of this file to read. The program exits with
// status 1, and says what went wrong, if anything did not happen as said.
// Nothing leaves the machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"

	"example.com/udp"
)

func main() {
	// Nothing here takes long. The deadline is for a datagram that is lost.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	for _, chapter := range []struct {
		title, function string
		run             func(context.Context) error
	}{
		{"One socket, one handler", "echo", echo},
		{"Connected: a refusal is an event, not an end", "refusal", refusal},
		{"Connected again, and disconnected", "reconnect", reconnect},
		{"Timers: a request is sent again until it is answered", "timers", timers},
		{"Sessions: a handler for each peer", "sessions", sessions},
		{"Multicast: one datagram for all who joined", "multicast", multicast},
		{"Batches: many datagrams, few system calls", "batch", batch},
		{"Names: resolved before anything is sent", "resolve", resolve},
		{"Shutdown: a clean end", "shutdown", shutdown},
	} {
		fmt.Printf("%s (func %s)\n", chapter.title, chapter.function)
		if err := chapter.run(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "tour: this did not happen as said: %v\n", err)
			os.Exit(1)
		}
		fmt.Println()
	}
	fmt.Println("All of it happened as said.")
}

func say(format string, a ...any) { fmt.Printf("  "+format+"\n", a...) }

// An inbox is a Handler that hands each datagram to whoever receives from it.
type inbox chan udp.Datagram

func (in inbox) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	in <- d.Clone() // the payload is lent: it is read into again after this call
}

func (in inbox) expect(ctx context.Context, payload string) (udp.Datagram, error) {
	select {
	case d := <-in:
		if string(d.Payload) != payload {
			return d, fmt.Errorf("received %q, not %q", d.Payload, payload)
		}
		return d, nil
	case <-ctx.Done():
		return udp.Datagram{}, fmt.Errorf("waited for %q: %w", payload, ctx.Err())
	}
}

// answer is a Handler that replies with the same text to every datagram.
func answer(text string) udp.Handler {
	return udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) { c.Reply(d, []byte(text)) })
}

func echo(ctx context.Context) error {
	server, err := udp.Listen("127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		c.Reply(d, d.Payload)
	}))
	if err != nil {
		return err
	}
	defer server.Close()
	say("A server listens on %v and replies to each datagram,", server.LocalAddr())
	say("from the address that it was sent to.")

	in := make(inbox, 1)
	client, err := udp.Listen("127.0.0.1:0", in)
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.WriteTo([]byte("hello"), server.LocalAddr()); err != nil {
		return err
	}
	d, err := in.expect(ctx, "hello")
	if err != nil {
		return err
	}
	if d.Addr != server.LocalAddr() {
		return fmt.Errorf("the answer came from %v", d.Addr)
	}
	say("%v sent %q there, and received it from %v.", client.LocalAddr(), d.Payload, d.Addr)
	return nil
}

// A caller is an inbox that is also told of what did not arrive.
type caller struct {
	inbox
	undelivered chan udp.Undelivered
}

func (h caller) HandleUndelivered(c *udp.Conn, u udp.Undelivered) { h.undelivered <- u }

func refusal(ctx context.Context) error {
	server, err := udp.Listen("127.0.0.1:0", nil)
	if err != nil {
		return err
	}
	addr := server.LocalAddr()
	server.Close()
	server.Wait() // the port is free now

	h := caller{make(inbox, 1), make(chan udp.Undelivered, 8)}
	client, err := udp.Dial(ctx, addr.String(), h)
	if err != nil {
		return err
	}
	defer client.Close()
	say("%v is connected to a port where nobody listens.", client)
	if _, err := client.Write([]byte("hello")); err != nil {
		return err
	}
	if err := refused(ctx, h, addr); err != nil {
		return err
	}

	server, err = udp.Listen(addr.String(), answer("welcome"))
	if err != nil {
		return err
	}
	defer server.Close()
	if _, err := client.Write([]byte("hello again")); err != nil {
		return err
	}
	if _, err := h.expect(ctx, "welcome"); err != nil {
		return err
	}
	say("Then somebody listens there. The same socket writes again, and is answered.")
	return nil
}

func refused(ctx context.Context, h caller, addr netip.AddrPort) error {
	wait := ctx.Done()
	if runtime.GOOS == "windows" {
		// The firewall may swallow the report there, even on this interface.
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		wait = short.Done()
	}
	select {
	case u := <-h.undelivered:
		if u.Addr != addr || !errors.Is(u.Err, syscall.ECONNREFUSED) {
			return fmt.Errorf("the report is %v about %v", u.Err, u.Addr)
		}
		say("One write, and HandleUndelivered is told: %v, %v.", u.Addr, u.Err)
	case <-wait:
		if ctx.Err() != nil {
			return fmt.Errorf("waited for the refusal: %w", ctx.Err())
		}
		say("This system does not report that. Networks need not either.")
	}
	return nil
}

func reconnect(ctx context.Context) error {
	first, err := udp.Listen("127.0.0.1:0", answer("first"))
	if err != nil {
		return err
	}
	defer first.Close()
	second, err := udp.Listen("127.0.0.1:0", answer("second"))
	if err != nil {
		return err
	}
	defer second.Close()

	in := make(inbox, 2)
	client, err := udp.Dial(ctx, first.LocalAddr().String(), in)
	if err != nil {
		return err
	}
	defer client.Close()
	own := client.LocalAddr()
	if _, err := client.Write([]byte("who is there?")); err != nil {
		return err
	}
	if _, err := in.expect(ctx, "first"); err != nil {
		return err
	}
	say("%v is answered by the first server.", client)

	if err := client.Connect(second.LocalAddr()); err != nil {
		return err
	}
	if _, err := first.WriteTo([]byte("stray"), own); err != nil {
		return err
	}
	if _, err := client.Write([]byte("who is there?")); err != nil {
		return err
	}
	if _, err := in.expect(ctx, "second"); err != nil {
		return err
	}
	say("%v is answered by the second; what the first sends now is not delivered.", client)

	if err := client.Disconnect(); err != nil {
		return err
	}
	if got := client.LocalAddr().Port(); got != own.Port() {
		return fmt.Errorf("the port was %d, and is %d", own.Port(), got)
	}
	if _, err := first.WriteTo([]byte("still there?"), own); err != nil {
		return err
	}
	if _, err := in.expect(ctx, "still there?"); err != nil {
		return err
	}
	say("Disconnected, it hears anybody again, on the same port %d.", own.Port())
	return nil
}

// A pinger sends pings until one is answered. All of its methods run in its
// Conn's goroutine, so that its fields need no lock.
type pinger struct {
	conn  *udp.Conn
	pings int
	timer *udp.Timer
	pongs chan int
}

func (p *pinger) HandleStart(c *udp.Conn) error {
	p.conn = c
	p.ping()
	return nil
}

func (p *pinger) ping() {
	p.pings++
	p.conn.Write([]byte("ping"))
	p.timer = p.conn.AfterFunc(20*time.Millisecond, p.ping)
}

func (p *pinger) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	if p.timer.Stop() { // only the first pong finds it running
		p.pongs <- p.pings
	}
}

func timers(ctx context.Context) error {
	heard := 0
	server, err := udp.Listen("127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		if heard++; heard == 3 {
			c.Reply(d, []byte("pong"))
		}
	}))
	if err != nil {
		return err
	}
	defer server.Close()

	p := &pinger{pongs: make(chan int, 1)}
	client, err := udp.Dial(ctx, server.LocalAddr().String(), p)
	if err != nil {
		return err
	}
	defer client.Close()
	say("A client pings a server that answers the third ping only. A timer of its Conn")
	say("(AfterFunc) sends the next; it runs where the handler runs, without a lock.")
	select {
	case pings := <-p.pongs:
		if pings < 3 {
			return fmt.Errorf("there was a pong after %d", pings)
		}
		say("After %d pings there is a pong, and the timer is stopped.", pings)
	case <-ctx.Done():
		return fmt.Errorf("waited for the pong: %w", ctx.Err())
	}

	state := make(chan int, 1)
	if err := client.Post(func() { state <- p.pings }); err != nil {
		return err
	}
	say("Any other goroutine asks the handler by Post: it says %d.", <-state)
	return nil
}

// A visit is the session of one peer.
type visit struct {
	datagrams int
	ended     chan int
}

func (v *visit) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	v.datagrams++
	c.Reply(d, fmt.Appendf(nil, "%s %d", d.Payload, v.datagrams))
}

func (v *visit) HandleStop(c *udp.Conn, err error) { v.ended <- v.datagrams }

func sessions(ctx context.Context) error {
	ended := make(chan int, 2)
	s := &udp.Sessions{
		Idle: 500 * time.Millisecond,
		New:  func(c *udp.Conn, d udp.Datagram) udp.Handler { return &visit{ended: ended} },
	}
	server, err := udp.Listen("127.0.0.1:0", s)
	if err != nil {
		return err
	}
	defer server.Close()

	for _, name := range []string{"one", "two"} {
		in := make(inbox, 2)
		client, err := udp.Dial(ctx, server.LocalAddr().String(), in)
		if err != nil {
			return err
		}
		defer client.Close()
		for i := range 2 {
			if _, err := client.Write([]byte(name)); err != nil {
				return err
			}
			if _, err := in.expect(ctx, fmt.Sprint(name, " ", i+1)); err != nil {
				return err
			}
		}
	}
	say("A server keeps a handler for each peer: each of two clients has its own count.")
	for range 2 {
		select {
		case datagrams := <-ended:
			if datagrams != 2 {
				return fmt.Errorf("a session ended after %d datagrams", datagrams)
			}
		case <-ctx.Done():
			return fmt.Errorf("waited for the end of a session: %w", ctx.Err())
		}
	}
	say("Neither says more, so both sessions end by themselves; %d are left.", s.Len())
	return nil
}

func multicast(ctx context.Context) error {
	err := pingPong(ctx)
	if err != nil && runtime.GOOS != "linux" {
		say("This system does not do that over its loopback interface: %v", err)
		return nil
	}
	return err
}

func pingPong(ctx context.Context) error {
	lo, err := loopback()
	if err != nil {
		return err
	}
	group := udp.Group{Addr: netip.MustParseAddr("239.255.0.5"), Interface: lo}
	server, err := udp.ListenMulticast(":0", answer("pong"), group)
	if err != nil {
		return err
	}
	defer server.Close()
	port := server.LocalAddr().Port()
	say("A server joins %v and listens on port %d.", group, port)

	in := make(inbox, 1)
	client, err := udp.Listen("127.0.0.1:0", in)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.SetMulticastInterface(lo); err != nil {
		return err
	}
	if _, err := client.WriteTo([]byte("ping"), netip.AddrPortFrom(group.Addr, port)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	d, err := in.expect(ctx, "pong")
	if err != nil {
		return err
	}
	say("A client that has not joined sends a ping to the group by %s,", lo.Name)
	say("and gets a pong from %v, the server's own address.", d.Addr)
	return nil
}

func loopback() (*net.Interface, error) {
	ifis, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, ifi := range ifis {
		if ifi.Flags&net.FlagLoopback != 0 && ifi.Flags&net.FlagUp != 0 {
			return &ifi, nil
		}
	}
	return nil, errors.New("there is no loopback interface")
}

func batch(ctx context.Context) error {
	// All that one read returned goes back as it is: the address that a datagram
	// came from is where one to send goes to.
	server, err := udp.Listen("127.0.0.1:0", udp.BatchHandlerFunc(func(c *udp.Conn, ds []udp.Datagram) {
		c.WriteBatch(ds)
	}))
	if err != nil {
		return err
	}
	defer server.Close()

	const n = 64
	in := make(inbox, n)
	client, err := udp.Listen("127.0.0.1:0", in)
	if err != nil {
		return err
	}
	defer client.Close()
	ds := make([]udp.Datagram, n)
	for i := range ds {
		ds[i] = udp.Datagram{Payload: fmt.Appendf(nil, "number %d", i), Addr: server.LocalAddr()}
	}
	if _, err := client.WriteBatch(ds); err != nil {
		return err
	}
	for i := range n {
		if _, err := in.expect(ctx, fmt.Sprintf("number %d", i)); err != nil {
			return err
		}
	}
	if err := server.Shutdown(ctx); err != nil {
		return err
	}
	say("A client sends %d datagrams with one WriteBatch; a server sends each batch", n)
	say("that it reads back as a batch. All %d return, in order.", n)
	s := server.Stats()
	if s.ReadDatagrams != n || s.WriteDatagrams != n {
		return fmt.Errorf("the server counted %d read and %d written", s.ReadDatagrams, s.WriteDatagrams)
	}
	say("The server read %d and wrote %d, in %d and %d system calls.", s.ReadDatagrams, s.WriteDatagrams, s.Reads, s.Writes)
	return nil
}

func resolve(ctx context.Context) error {
	for _, address := range []string{"127.0.0.1:domain", "[::1]:53", "localhost:53"} {
		ap, err := udp.Resolve(ctx, "udp", address)
		if err != nil {
			return err
		}
		if !ap.Addr().IsLoopback() || ap.Port() != 53 {
			return fmt.Errorf("%s is resolved to %v", address, ap)
		}
		say("%s is %v.", address, ap)
	}
	say("Writing takes addresses only, so no write can wait for DNS.")
	return nil
}

// polite remembers its last peer, and says goodbye to it.
type polite struct{ peer netip.AddrPort }

func (h *polite) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	h.peer = d.Addr
	c.Reply(d, d.Payload)
}

func (h *polite) HandleStop(c *udp.Conn, err error) { c.WriteTo([]byte("goodbye"), h.peer) }

func shutdown(ctx context.Context) error {
	server, err := udp.Listen("127.0.0.1:0", new(polite))
	if err != nil {
		return err
	}
	defer server.Close()

	in := make(inbox, 2)
	client, err := udp.Dial(ctx, server.LocalAddr().String(), in)
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.Write([]byte("hello")); err != nil {
		return err
	}
	if _, err := in.expect(ctx, "hello"); err != nil {
		return err
	}
	if err := server.Shutdown(ctx); err != nil {
		return err
	}
	if _, err := in.expect(ctx, "goodbye"); err != nil {
		return err
	}
	say("Shutdown handles what has arrived, and lets HandleStop say goodbye: it did.")
	if err := server.Wait(); err != nil {
		return err
	}
	if _, err := server.WriteTo([]byte("too late"), client.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("a write after that returned %v", err)
	}
	say("After that nothing runs, and a write says: %v.", net.ErrClosed)
	return nil
}
