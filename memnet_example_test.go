package udp_test

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"example.com/udp"
)

// A server, and a client that asks it until it answers, on a network in memory
// that loses a third. In a bubble of testing/synctest it would take no time and
// have the same result on every run: examples/kv has such a test.
func ExampleMemNet() {
	network := &udp.MemNet{
		Link:  udp.Link{Latency: time.Millisecond, Loss: 0.33, Seed: 1},
		Names: map[string][]netip.Addr{"server": {netip.MustParseAddr("10.0.0.1")}},
	}
	ctx := context.Background()
	lc := &udp.ListenConfig{PacketListener: network}
	server, err := lc.Listen(ctx, "server:7", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		c.Reply(d, fmt.Appendf(nil, "%s: yes", d.Payload))
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	answers := make(chan string, 100)
	client, err := lc.Dial(ctx, "server:7", udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) {
		answers <- string(d.Payload)
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	for {
		client.Write([]byte("anybody?"))
		select {
		case answer := <-answers:
			fmt.Println(answer)
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	// Output: anybody?: yes
}
