//go:build linux && !udpbasic

package udp

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestHash spreads peers that have much in common: ports of one host, hosts
// of one network, and those chosen to collide where the halves of an address
// are mixed without the seed.
func TestHash(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: run without -short")
	}
	const odd = 0x9E3779B97F4A7C15
	host6 := func(high, low uint64) netip.AddrPort {
		var a [16]byte
		binary.NativeEndian.PutUint64(a[:], high)
		binary.NativeEndian.PutUint64(a[8:], low)
		return netip.AddrPortFrom(netip.AddrFrom16(a), 9)
	}
	for name, peer := range map[string]func(i int) netip.AddrPort{
		"ports": func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), uint16(i+1))
		},
		"IPv4 hosts": func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 9)
		},
		"IPv6 hosts": func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 14: byte(i >> 8), 15: byte(i)}), 9)
		},
		"IPv6 networks": func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 6: byte(i >> 8), 7: byte(i)}), 9)
		},
		"chosen": func(i int) netip.AddrPort {
			high := uint64(i)<<48 | 0x0120
			return host6(high, high*odd)
		},
	} {
		least := maxWindow
		for range 1000 {
			b := &sendBatch{seed: rand.Uint64(), mask: flowTable - 1}
			slots := map[uint]bool{}
			for i := range maxWindow {
				slots[b.hash(peer(i))] = true
			}
			least = min(least, len(slots))
		}
		if least < maxWindow/2 { // by chance it would be 0.79 of them
			t.Errorf("%s: %d peers share %d slots", name, maxWindow, least)
		}
	}
}
