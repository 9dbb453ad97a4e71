// Command echo sends every datagram back to where it came from.
//
// It shows the smallest server: Listen, a handler, and a stop on Ctrl-C.
//
//	go run ./examples/echo
//	go run ./examples/helloer    (in another terminal)
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"example.com/udp"
)

func main() {
	address := flag.String("listen", "127.0.0.1:9999", "`address` to listen on")
	flag.Parse()
	if err := run(*address); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func run(address string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	c, err := udp.Listen(address, udp.HandlerFunc(echo))
	if err != nil {
		return err
	}
	fmt.Println("listening on", c.LocalAddr())

	context.AfterFunc(ctx, func() { c.Close() })
	return c.Wait()
}

func echo(c *udp.Conn, d udp.Datagram) {
	fmt.Printf("received %q from %v\n", d.Payload, d.Addr)
	// Reply rather than WriteTo: on a host with several addresses the answer
	// leaves from the one that was asked.
	if _, err := c.Reply(d, d.Payload); err != nil {
		fmt.Println("not sent:", err)
	}
}
