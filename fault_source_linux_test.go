package udp_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"example.com/udp"
	"golang.org/x/sys/unix"
)

// TestForgedSources needs root and ip(8): it makes a network namespace, and
// puts packets onto its loopback interface. Those that come over IPv6 with an
// IPv4 address for their source are delivered by no kind of socket, and
// counted; those that came over IPv4 are, right after.
func TestForgedSources(t *testing.T) {
	t.Parallel()
	h := hosts(t, "forged")[0]
	lo := -1
	h.enter(func() {
		var err error
		lo, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		check(t, err)
	})
	defer unix.Close(lo)
	mapped, real6 := netip.MustParseAddr("::ffff:127.0.0.1"), loopback6
	for _, network := range []string{"udp", "udp6"} {
		for _, address := range []string{":0", "[::]:0", "[::1]:0"} {
			for _, how := range []string{"each", "batch", "plain", "NewConn", "connected"} {
				r := record()
				var handler udp.Handler = r
				if how == "batch" {
					handler = batchFuncs{batch: func(c *udp.Conn, ds []udp.Datagram) {
						for _, d := range ds {
							r.HandleDatagram(c, d)
						}
					}}
				}
				lc := udp.ListenConfig{Network: network, NoOffload: how == "plain"}
				var c *udp.Conn
				if how == "NewConn" {
					h.enter(func() {
						pc, err := new(net.ListenConfig).ListenPacket(t.Context(), network, address)
						check(t, err)
						c, err = udp.NewConn(pc, handler)
						check(t, err)
					})
					closeAtEnd(t, c)
				} else {
					c = h.listen(lc, address, handler)
				}
				port := c.LocalAddr().Port()
				from := netip.AddrPortFrom(real6, 4444)
				if how == "connected" {
					check(t, c.Connect(from))
				}
				for range 20 {
					sendIPv6(t, lo, netip.AddrPortFrom(mapped, 4444), netip.AddrPortFrom(loopback6, port), "forged")
				}
				sendIPv6(t, lo, from, netip.AddrPortFrom(loopback6, port), "true")
				r.expect(t, "true", from)
				// The kernel keeps them from a socket that is connected.
				if s := c.Stats(); len(r.datagrams) != 0 || s.Discarded != 20 && how != "connected" {
					t.Errorf("%s %s, %s: %+v", network, address, how, s)
				}
				if network == "udp" && address != "[::1]:0" && how != "connected" {
					p := h.bare("127.0.0.1:0")
					p.send(t, netip.AddrPortFrom(loopback4, port), "IPv4")
					r.expect(t, "IPv4", p.addr)
				}
				c.Close()
			}
		}
	}
}

// sendIPv6 puts a datagram onto the loopback interface, by a packet socket.
func sendIPv6(t *testing.T, lo int, from, to netip.AddrPort, payload string) {
	t.Helper()
	src, dst := from.Addr().As16(), to.Addr().As16()
	udp := binary.BigEndian.AppendUint16(nil, from.Port())
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	pseudo := append(append(src[:len(src):len(src)], dst[:]...), 0, 0, 0, byte(len(udp)), 0, 0, 0, syscall.IPPROTO_UDP)
	sum := uint32(0)
	for b := append(append(pseudo, udp...), 0); len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], ^uint16(sum))
	frame := append(make([]byte, 12), 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(udp)), syscall.IPPROTO_UDP, 64)
	frame = append(append(append(frame, src[:]...), dst[:]...), udp...)

	check(t, unix.Sendto(lo, frame, 0, &unix.SockaddrLinklayer{Protocol: 0xdd86, Ifindex: 1, Halen: 6}))
}
