//go:build linux && !udpbasic

package udp

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzCut has any segment size come with a payload that the kernel has joined.
func FuzzCut(f *testing.F) {
	for _, segment := range []int{0, 1, 2, 3, 10, 11, 1000, -1, -1 << 31, 1<<31 - 1} {
		f.Add([]byte("0123456789"), segment, 65535, false)
		f.Add([]byte("0123456789"), segment, 2, true)
		f.Add([]byte{}, segment, 0, false)
	}
	f.Fuzz(func(t *testing.T, payload []byte, segment, limit int, truncated bool) {
		limit &= 0xffff
		payload = payload[:min(len(payload), readBuffer)]
		addr := netip.MustParseAddrPort("192.0.2.1:9")
		b := &readBatch{ds: []Datagram{{TTL: 1}, {Addr: addr, Payload: payload, Truncated: truncated, TTL: 2}}}
		b.cut(segment, limit)
		if len(b.ds) < 2 || b.ds[0].TTL != 1 {
			t.Fatalf("%d datagrams", len(b.ds))
		}
		rest := payload
		for i, d := range b.ds[1:] {
			size := len(rest)
			if segment > 0 {
				size = min(size, segment)
			}
			kept := min(size, limit)
			if d.Addr != addr || d.TTL != 2 || !bytes.Equal(d.Payload, rest[:kept]) {
				t.Fatalf("datagram %d is %+v", i, d)
			}
			if cap(d.Payload) != kept {
				t.Errorf("datagram %d can grow into the next", i)
			}
			if want := kept < size || truncated && i == 0; d.Truncated != want {
				t.Errorf("datagram %d: Truncated is %v", i, d.Truncated)
			}
			if rest = rest[size:]; len(rest) == 0 && i != len(b.ds)-2 {
				t.Fatalf("%d datagrams too many", len(b.ds)-2-i)
			}
		}
		if len(rest) != 0 {
			t.Errorf("%d bytes are left", len(rest))
		}
	})
}

// FuzzName turns addresses into what the kernel takes, and back.
func FuzzName(f *testing.F) {
	f.Add([]byte{192, 0, 2, 1}, uint16(9), true)
	f.Add([]byte{192, 0, 2, 1}, uint16(65535), false)
	f.Add(netip.MustParseAddr("fe80::1").AsSlice(), uint16(1), true)
	f.Fuzz(func(t *testing.T, host []byte, port uint16, is6 bool) {
		a, ok := netip.AddrFromSlice(host)
		if !ok || a.Is6() && !is6 || a.Is4In6() {
			return
		}
		s := &fastSocket{udpSocket: udpSocket{is6: is6}}
		var name rawName
		size := s.encodeName(&name, netip.AddrPortFrom(a, port), 7)
		if is6 != (name.Family == unix.AF_INET6) || is6 != (size == unix.SizeofSockaddrInet6) {
			t.Errorf("%v is %d bytes of family %d", a, size, name.Family)
		}
		back, scope := decodeName(&name)
		if back != netip.AddrPortFrom(a, port) || is6 != (scope == 7) {
			t.Errorf("%v port %d comes back as %v in zone %d", a, port, back, scope)
		}
	})
}
