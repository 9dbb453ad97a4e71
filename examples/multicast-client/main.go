// Command multicast-client pings a group and prints who answers.
//
// It shows how to send to a group: no membership is needed for that, only an
// interface to send by. The client has a port of its own, so that the answers
// reach it and not another program that listens on the group's port. By
// default everything stays on the loopback interface. Ctrl-C stops it.
//
//	go run ./examples/multicast-client -interface eth0 -listen :0
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"example.com/udp"
)

func main() {
	group := netip.MustParseAddrPort("228.0.0.5:8005")
	flag.TextVar(&group, "group", group, "`address` of the group, with its port")
	listen := flag.String("listen", "127.0.0.1:0", "`address` to send from, one of the interface's, or :0 for the system's choice")
	ifname := flag.String("interface", "", "`name` of the interface to send by (default: the loopback interface)")
	ttl := flag.Int("ttl", 1, "how many `hops` the ping may go: 1 is this network, more crosses routers")
	flag.Parse()
	if err := run(group, *listen, *ifname, *ttl); err != nil {
		fmt.Fprintln(os.Stderr, "multicast-client:", err)
		os.Exit(1)
	}
}

func run(group netip.AddrPort, listen, ifname string, ttl int) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	ifi, err := interfaceByName(ifname)
	if err != nil {
		return err
	}
	c, err := udp.Listen(listen, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		fmt.Printf("received %q from %v\n", d.Payload, d.Addr)
	}))
	if err != nil {
		return err
	}
	defer c.Close()

	if err := c.SetMulticastInterface(ifi); err != nil {
		return err
	}
	if err := c.SetMulticastTTL(ttl); err != nil {
		return err
	}
	if _, err := c.WriteTo([]byte("Client: Ping"), group); err != nil {
		return err
	}
	fmt.Printf("sent a ping to %v by %s\n", group, ifi.Name)

	context.AfterFunc(ctx, func() { c.Close() })
	return c.Wait()
}

// interfaceByName returns the loopback interface for an empty name.
func interfaceByName(name string) (*net.Interface, error) {
	if name != "" {
		return net.InterfaceByName(name)
	}
	ifis, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, ifi := range ifis {
		if ifi.Flags&net.FlagLoopback != 0 && ifi.Flags&net.FlagUp != 0 {
			return &ifi, nil
		}
	}
	return nil, errors.New("no loopback interface: name one with -interface")
}
