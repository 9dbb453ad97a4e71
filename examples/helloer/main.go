// Command helloer says hello to one server, and prints what it answers.
//
// It shows a connected socket: nobody but the server can send to it, writing
// needs no address, and if nobody listens at the other end, the handler is
// told. The socket lives on after that: start a server later, and the next
// hello arrives. Ctrl-C stops it.
//
//	go run ./examples/helloer -server 127.0.0.1:9999
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/udp"
)

func main() {
	server := netip.MustParseAddrPort("127.0.0.1:9999")
	flag.TextVar(&server, "server", server, "`address` to say hello to")
	every := flag.Duration("every", time.Second, "`time` between two hellos")
	flag.Parse()
	if err := run(server, *every); err != nil {
		fmt.Fprintln(os.Stderr, "helloer:", err)
		os.Exit(1)
	}
}

func run(server netip.AddrPort, every time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	c, err := udp.Listen(":0", helloer{server}) // port 0: any that is free
	if err != nil {
		return err
	}
	defer c.Wait() // runs after Close
	defer c.Close()

	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if _, err := c.Write([]byte("hello")); err != nil { // no address needed
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

type helloer struct{ server netip.AddrPort }

// HandleStart runs before anything is read, so the socket never delivers a
// datagram from anyone but the server.
func (h helloer) HandleStart(c *udp.Conn) error {
	if err := c.Connect(h.server); err != nil {
		return err
	}
	fmt.Println("now we can only send to", h.server)
	return nil
}

func (h helloer) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	fmt.Printf("received %q from %v\n", d.Payload, d.Addr)
}

// HandleUndelivered is called if the other host, or a router on the way,
// reports that a datagram did not arrive. Not all of them do.
func (h helloer) HandleUndelivered(c *udp.Conn, u udp.Undelivered) {
	if errors.Is(u.Err, syscall.ECONNREFUSED) {
		fmt.Println("no one listens at", u.Addr)
		return
	}
	fmt.Printf("not delivered to %v: %v\n", u.Addr, u.Err)
}
