package main

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// An inbox is a Handler that keeps what it gets as text.
type inbox chan string

func (in inbox) HandleDatagram(_ *udp.Conn, d udp.Datagram) {
	in <- fmt.Sprintf("%s from %v", d.Payload, d.Addr)
}

// TestProxy has two clients, each of which the server takes for another, a
// silence after which they are new, and a server that is away for a while.
func TestProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lc := &udp.ListenConfig{PacketListener: new(udp.MemNet)}
		open := func(address string, h udp.Handler) *udp.Conn {
			c, err := lc.Listen(t.Context(), address, h)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return c
		}
		serve := udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
			c.Reply(d, fmt.Appendf(nil, "%s of %v", d.Payload, d.Addr))
		})
		server := open("10.0.0.1:53", serve)

		p := newProxy(lc, time.Minute)
		c, err := p.start(t.Context(), "10.0.0.2:53", "10.0.0.1:53")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(); c.Wait() })
		front := netip.MustParseAddrPort("10.0.0.2:53")

		in := make(inbox, 10)
		ask := func(client *udp.Conn, question string) (seen netip.AddrPort) {
			t.Helper()
			if _, err := client.WriteTo([]byte(question), front); err != nil {
				t.Fatal(err)
			}
			var payload, of, from, by string
			fmt.Sscan(<-in, &payload, &of, &from, &by, &by)
			if payload != question || by != front.String() {
				t.Errorf("the answer is %s %s %s from %s", payload, of, from, by)
			}
			return netip.MustParseAddrPort(from)
		}
		alice, bob := open("10.0.0.3:0", in), open("10.0.0.4:0", in)
		a, b := ask(alice, "a"), ask(bob, "b")
		if a == b || ask(alice, "again") != a || ask(bob, "again") != b || p.sessions.Len() != 2 {
			t.Errorf("the server sees %v and %v; %d sessions", a, b, p.sessions.Len())
		}

		time.Sleep(2 * time.Minute)
		if p.sessions.Len() != 0 {
			t.Errorf("%d sessions after a silence", p.sessions.Len())
		}
		ask(alice, "after-a-silence")

		server.Close()
		if _, err := alice.WriteTo([]byte("lost"), front); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if p.sessions.Len() != 0 {
			t.Errorf("%d sessions while nobody listens", p.sessions.Len())
		}
		open("10.0.0.1:53", serve)
		ask(alice, "after-it-was-away")
	})
}
