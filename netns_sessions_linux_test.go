package udp_test

import (
	"fmt"
	"net/netip"
	"testing"

	"example.com/udp"
)

// TestSessionRenamed needs root and ip(8). The session of a link-local peer
// goes on when the interface gets another name, ends by its old address, and
// is not that of the peer of the same address on another link.
func TestSessionRenamed(t *testing.T) {
	t.Parallel()
	a, b := zoneHosts(t)
	zoneLink(a, "eth1", "fe80::1/64", b, "eth1", "fe80::2/64")
	var s *udp.Sessions
	var first netip.AddrPort // of the session on eth0
	sessions := 0
	s = &udp.Sessions{New: func(_ *udp.Conn, d udp.Datagram) udp.Handler {
		if sessions++; sessions == 1 {
			first = d.Addr
		}
		number := sessions
		return udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
			text := fmt.Sprint(number)
			if string(d.Payload) == "end" {
				text = fmt.Sprint("ended ", s.End(first))
			}
			if _, err := c.Reply(d, []byte(text)); err != nil {
				t.Error(err)
			}
		})
	}}
	server := a.listen(udp.ListenConfig{}, ":0", s)
	answers := record()
	client := b.listen(udp.ListenConfig{}, ":0", answers)
	ask := func(zone, question, want string) {
		t.Helper()
		to := netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(zone), server.LocalAddr().Port())
		check(t, second(client.WriteTo([]byte(question), to)))
		answers.expect(t, want, to)
	}
	ask("eth0", "x", "1")
	ask("eth1", "x", "2")
	ask("eth0", "x", "1")
	a.ip("link set eth0 down", "link set eth0 name wan")
	a.up("wan", "fe80::1/64")
	a.running("wan")
	ask("eth0", "x", "1")
	ask("eth1", "end", "ended true")
	ask("eth1", "x", "2")
	ask("eth0", "x", "3")
}
