//go:build linux && !udpbasic

package udp

import (
	"net/netip"
	"testing"
)

// TestHash spreads peers that have much in common: ports of one host, hosts
// of one network.
func TestHash(t *testing.T) {
	for _, test := range []struct {
		name string
		peer func(i int) netip.AddrPort
	}{
		{"ports", func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), uint16(i+1))
		}},
		{"IPv4 hosts", func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 9)
		}},
		{"IPv6 hosts", func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 14: byte(i >> 8), 15: byte(i)}), 9)
		}},
		{"IPv6 networks", func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 6: byte(i >> 8), 7: byte(i)}), 9)
		}},
	} {
		b := sendBatches.Get().(*sendBatch)
		b.mask = flowTable - 1
		slots := map[uint]bool{}
		for i := range maxWindow {
			slots[b.hash(test.peer(i))] = true
		}
		sendBatches.Put(b)
		if len(slots) < maxWindow/2 { // by chance it would be 0.79 of them
			t.Errorf("%s: %d peers share %d slots", test.name, maxWindow, len(slots))
		}
	}
}
