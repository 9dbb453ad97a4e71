package udp_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"example.com/udp"
)

// A service on many networks joins its group on all of them, and follows them
// as they come and go. (On a MemNet, so that the example runs everywhere; on
// the system's network leave PacketListener nil.)
func ExampleConn_JoinAll() {
	lc := udp.ListenConfig{PacketListener: new(udp.MemNet)}
	group := netip.MustParseAddrPort("239.255.0.5:8005")
	received := make(chan string)
	member, err := lc.ListenMulticast(context.Background(), ":8005", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		received <- string(d.Payload)
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer member.Close()
	if err := member.JoinAll(group.Addr()); err != nil {
		log.Fatal(err)
	}

	sender, err := lc.Listen(context.Background(), ":0", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer sender.Close()
	if _, err := sender.WriteTo([]byte("hello, group"), group); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-received)
	// Output:
	// hello, group
}

// One source of a group is kept out, and let in again.
func ExampleConn_Block() {
	net := new(udp.MemNet)
	open := func(host string) *udp.ListenConfig {
		return &udp.ListenConfig{PacketListener: net.Host(netip.MustParseAddr(host))}
	}
	group := netip.MustParseAddrPort("239.255.0.5:8005")
	received := make(chan string, 10)
	member, err := open("10.0.0.1").ListenMulticast(context.Background(), ":8005", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		received <- string(d.Payload)
	}), udp.Group{Addr: group.Addr()})
	if err != nil {
		log.Fatal(err)
	}
	defer member.Close()

	noisy, err := open("10.0.0.66").Listen(context.Background(), ":0", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer noisy.Close()

	blocked := udp.Group{Addr: group.Addr(), Source: netip.MustParseAddr("10.0.0.66")}
	if err := member.Block(blocked); err != nil {
		log.Fatal(err)
	}
	if _, err := noisy.WriteTo([]byte("blocked"), group); err != nil {
		log.Fatal(err)
	}
	if err := member.Unblock(blocked); err != nil {
		log.Fatal(err)
	}
	if _, err := noisy.WriteTo([]byte("let in again"), group); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-received)
	// Output:
	// let in again
}
