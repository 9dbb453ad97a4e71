// Command multicast-server joins a group and answers each ping that is sent
// to it.
//
// It shows ListenMulticast, a group on a named interface, and a reply that
// goes to the client alone rather than to the group. By default the group is
// joined on the loopback interface, so only programs on this host reach it.
// Ctrl-C stops it.
//
//	go run ./examples/multicast-server -interface eth0
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
	ifname := flag.String("interface", "", "`name` of the interface to join on (default: the loopback interface)")
	flag.Parse()
	if err := run(group, *ifname); err != nil {
		fmt.Fprintln(os.Stderr, "multicast-server:", err)
		os.Exit(1)
	}
}

func run(group netip.AddrPort, ifname string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	ifi, err := interfaceByName(ifname)
	if err != nil {
		return err
	}
	// The port is the group's; the address is left open, as on most systems a
	// socket that is bound to one of the host's own hears no group.
	c, err := udp.ListenMulticast(fmt.Sprintf(":%d", group.Port()), udp.HandlerFunc(pong),
		udp.Group{Addr: group.Addr(), Interface: ifi})
	if err != nil {
		return err
	}
	fmt.Println("joined", c.Groups(), "port", group.Port())

	context.AfterFunc(ctx, func() { c.Close() })
	return c.Wait()
}

func pong(c *udp.Conn, d udp.Datagram) {
	fmt.Printf("received %q from %v\n", d.Payload, d.Addr)
	if string(d.Payload) != "Client: Ping" {
		return
	}
	// Reply sends to the client alone, from the interface's own address: a
	// group is never a source.
	if _, err := c.Reply(d, []byte("Server: Pong")); err != nil {
		fmt.Println("not sent:", err)
	}
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
