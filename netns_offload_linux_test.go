//go:build linux && !udpbasic

package udp_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"example.com/udp"
)

// TestOffloadManyNarrowPaths has more peers behind one narrow route than the
// socket keeps limits for: all that is sent arrives, each time, and what goes
// to a peer behind a wide one stays segmented.
func TestOffloadManyNarrowPaths(t *testing.T) {
	for _, network := range []string{"udp4", "udp6"} {
		t.Run(network, func(t *testing.T) {
			hs := hosts(t, "a", "b")
			a, b := hs[0], hs[1]
			wide, narrow, local := "10.1.0.2", "10.2.%d.%d", "10.1.0.1"
			if network == "udp4" {
				join(a, "eth0", []string{"10.1.0.1/24"}, b, "eth1", []string{"10.1.0.2/24"})
				a.ip("route add 10.2.0.0/16 via 10.1.0.2 mtu lock 700")
				b.ip("route add local 10.2.0.0/16 dev lo")
			} else {
				wide, narrow, local = "fd01::2", "fd02::%d:%d", "fd01::1"
				join(a, "eth0", []string{"fd01::1/64"}, b, "eth1", []string{"fd01::2/64"})
				b.ip("route add local fd02::/64 dev lo")
				a.ip("route add fd02::/64 via fd01::2 mtu 1280")
			}
			segment, peers := 1200, 400
			if network == "udp6" {
				segment = 1300 // the least that a path takes is 1280
			}
			var all, good *collector
			b.enter(func() {
				wildcard := netip.IPv4Unspecified()
				if network == "udp6" {
					wildcard = netip.IPv6Unspecified()
				}
				all, good = newCollectorAt(t, netip.AddrPortFrom(wildcard, 0)), newCollectorAt(t, netip.AddrPortFrom(netip.MustParseAddr(wide), 0))
			})
			c := a.listen(udp.ListenConfig{Network: network, WriteBuffer: 8 << 20}, net.JoinHostPort(local, "0"), nil)
			from := c.LocalAddr()
			var ds []udp.Datagram
			for i := range peers {
				to := netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf(narrow, i/200+1, i%200+1)), all.addr.Port())
				for range 2 {
					d := udp.Datagram{Addr: to, Payload: make([]byte, segment)}
					binary.BigEndian.PutUint32(d.Payload, uint32(len(ds)))
					ds = append(ds, d)
				}
			}
			for round := range 3 {
				if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
					t.Fatalf("round %d: WriteBatch sends %d of %d: %v", round, sent, len(ds), err)
				}
				for i, d := range ds {
					if err := all.want(t, d.Payload, from); err != nil {
						t.Fatalf("round %d, number %d: %v", round, i, err)
					}
				}
				d := udp.Datagram{Addr: good.addr, Payload: make([]byte, segment)}
				if sent, err := c.WriteBatch(slices.Repeat([]udp.Datagram{d}, 10)); sent != 10 || err != nil {
					t.Fatalf("round %d: WriteBatch sends %d of 10: %v", round, sent, err)
				}
				for range 10 {
					check(t, good.want(t, d.Payload, from))
				}
				var got int
				b.enter(func() { got = firstRead(t, c, netip.MustParseAddr(wide), segment) })
				if got != 10 {
					t.Errorf("round %d: 10 datagrams to another host are read as %d at first", round, got)
				}
			}
			if s := c.Stats(); s.WriteErrors != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}
