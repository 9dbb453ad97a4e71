// Command resolve prints the address of a host and service.
//
// It shows how a name becomes an address before anything is sent: Connect and
// the Write methods take addresses only, so none of them can wait for DNS.
// The context bounds the wait, and Ctrl-C ends it.
//
//	go run ./examples/resolve -address localhost:domain
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/udp"
)

func main() {
	network := flag.String("network", "udp", "`udp`, udp4 or udp6")
	address := flag.String("address", "localhost:9999", "`host:port`, each a number or a name")
	timeout := flag.Duration("timeout", 5*time.Second, "longest `time` to wait")
	flag.Parse()
	if err := run(*network, *address, *timeout); err != nil {
		fmt.Fprintln(os.Stderr, "resolve:", err)
		os.Exit(1)
	}
}

func run(network, address string, timeout time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	ap, err := udp.Resolve(ctx, network, address)
	if err != nil {
		return err
	}
	fmt.Printf("the address of %s is %v\n", address, ap)
	return nil
}
