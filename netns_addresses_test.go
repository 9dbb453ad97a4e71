//go:build linux

package udp_test

import (
	"net/netip"
	"testing"

	"example.com/udp"
)

// TestAnswersFromTheAddressAsked needs root and ip(8): it makes two network
// namespaces. A host has three IPv4 and three IPv6 addresses, and answers
// from the one that it was asked at.
func TestAnswersFromTheAddressAsked(t *testing.T) {
	t.Parallel()
	hs := hosts(t, "a", "b")
	addrs := []string{"10.1.0.1", "10.1.0.11", "10.2.0.1", "fd00:1::1", "fd00:1::11", "fd00:2::1"}
	join(hs[0], "eth0", []string{"10.1.0.1/24", "10.1.0.11/24", "10.2.0.1/24", "fd00:1::1/64", "fd00:1::11/64", "fd00:2::1/64"},
		hs[1], "eth0", []string{"10.1.0.2/24", "fd00:1::2/64"})
	hs[1].ip("route add 10.2.0.0/24 via 10.1.0.1", "route add fd00:2::/64 via fd00:1::1")
	pa, pb := hs[0].peer(), hs[1].peer()
	link := hs[0].linkLocal("eth0").WithZone("eth0").String()
	for _, network := range []string{"udp", "udp4", "udp6"} {
		for _, handler := range []string{"reply", "batch"} {
			server := pa.listen(network, ":0", handler)
			client := pb.listen(network, ":0", "")
			for _, addr := range append(addrs, link) {
				asked := netip.MustParseAddr(addr)
				if asked.Is4() && network == "udp6" || asked.Is6() && network == "udp4" {
					continue
				}
				client.write(udp.Datagram{Payload: []byte("at " + addr), Addr: netip.AddrPortFrom(asked, server.port)})
				if d := server.next("at " + addr); d.Local != asked || d.TTL != 64 || d.Interface != hs[0].index("eth0") {
					t.Errorf("%s, %s: asked at %v: received to %v with TTL %d by %d", network, handler, asked, d.Local, d.TTL, d.Interface)
				}
				if d := client.next("re: at " + addr); d.Addr != netip.AddrPortFrom(asked, server.port) {
					t.Errorf("%s, %s: asked at %v: answered from %v", network, handler, asked, d.Addr)
				}
			}
			if network == "udp6" {
				continue
			}
			for _, broadcast := range []string{"10.1.0.255", "255.255.255.255"} {
				client.write(udp.Datagram{Payload: []byte("all"), Addr: to(broadcast, server.port), Interface: hs[1].index("eth0")})
				server.next("all")
				if d := client.next("re: all"); d.Addr != to("10.1.0.1", server.port) {
					t.Errorf("%s, %s: asked at %s: answered from %v, want 10.1.0.1", network, handler, broadcast, d.Addr)
				}
			}
		}
	}
}
