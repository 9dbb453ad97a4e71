package udp_test

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"example.com/udp"
	"golang.org/x/sys/unix"
)

// TestOnTheWire looks at the packets that arrive at the other end of a link, by
// a packet socket: their traffic class, their TTL, and whether a router may cut
// them.
func TestOnTheWire(t *testing.T) {
	hs := hosts(t, "a", "b")
	a, b := hs[0], hs[1]
	join(a, "eth0", []string{"10.1.0.1/24", "fd01::1/64"}, b, "eth0", []string{"10.1.0.2/24", "fd01::2/64"})
	wire := wireOf(t, b)
	for _, to := range []string{"10.1.0.2:9", "[fd01::2]:9"} {
		for _, fragment := range []bool{false, true} {
			for _, network := range []string{"udp", "udp46"} {
				lc := udp.ListenConfig{DontFragment: !fragment}
				if network != "udp" {
					lc.Network = "udp4"
					if netip.MustParseAddrPort(to).Addr().Is6() {
						lc.Network = "udp6"
					}
				}
				c := a.listen(lc, ":0", nil)
				check(t, c.SetTTL(33))
				check(t, c.SetTrafficClass(0x28))
				addr := netip.MustParseAddrPort(to)
				check(t, second(c.WriteBatch([]udp.Datagram{{Payload: []byte("first"), Addr: addr, TrafficClass: 0xb9}, {Payload: []byte("second"), Addr: addr}})))
				for _, class := range []byte{0xb9, 0x28} {
					p := wire.next(t)
					if p.class != class || p.ttl != 33 || p.v4 && !fragment && !p.dontFragment {
						t.Errorf("%s, DontFragment %v: %+v, want class %#x and a TTL of 33", to, !fragment, p, class)
					}
				}
				if !fragment {
					isError(t, second(c.WriteTo(make([]byte, 1500), addr)), syscall.EMSGSIZE)
					continue
				}
				check(t, second(c.WriteTo(make([]byte, 1500), addr)))
				for range 2 { // fragments
					wire.next(t)
				}
			}
		}
	}
}

// A wire is a packet socket at the end of a link.
type wire int

// A wirePacket is what a test wants to know of an IP packet.
type wirePacket struct {
	v4, dontFragment bool
	class, ttl       byte
}

func wireOf(t *testing.T, h *host) (w wire) {
	t.Helper()
	h.enter(func() {
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
		check(t, err)
		timeout := unix.NsecToTimeval(int64(10 * time.Second))
		check(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
		t.Cleanup(func() { unix.Close(fd) })
		w = wire(fd)
	})
	return w
}

// next returns the next packet of UDP, or fragment of one, that arrives.
func (w wire) next(t *testing.T) wirePacket {
	t.Helper()
	b := make([]byte, 2000)
	for {
		n, from, err := unix.Recvfrom(int(w), b, 0)
		check(t, err)
		if ll, ok := from.(*unix.SockaddrLinklayer); !ok || ll.Pkttype == unix.PACKET_OUTGOING || n < 20 {
			continue
		}
		const fragment = 44 // the extension header of IPv6
		switch {
		case b[0]>>4 == 4 && b[9] == unix.IPPROTO_UDP:
			return wirePacket{v4: true, dontFragment: b[6]&0x40 != 0, class: b[1], ttl: b[8]}
		case b[0]>>4 == 6 && (b[6] == unix.IPPROTO_UDP || b[6] == fragment):
			return wirePacket{class: b[0]<<4 | b[1]>>4, ttl: b[7]}
		}
	}
}
