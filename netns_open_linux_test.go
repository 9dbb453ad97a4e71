package udp_test

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"example.com/udp"
)

// TestInterface binds to one of two links that lead to the same address. The
// Conn sends by it through Connect and Disconnect, and when it comes back.
func TestInterface(t *testing.T) {
	t.Parallel()
	hs := hosts(t, "a", "b", "c")
	a, b, c := hs[0], hs[1], hs[2]
	join(a, "eth0", []string{"10.8.1.1/24"}, b, "eth0", []string{"10.8.1.2/24", "192.0.2.9/32"})
	link := func() {
		join(a, "tun0", []string{"10.8.2.1/24"}, c, "eth0", []string{"10.8.2.2/24", "192.0.2.9/32"})
		a.ip("route add 192.0.2.9 via 10.8.2.2 dev tun0 metric 500")
	}
	link()
	a.ip("route add 192.0.2.9 via 10.8.1.2")
	open, tunnel := b.bare("192.0.2.9:53"), c.bare("192.0.2.9:53")
	lc := udp.ListenConfig{Interface: &net.Interface{Index: a.index("tun0"), Name: "tun0"}}
	s := a.listen(lc, ":0", nil)
	port := s.LocalAddr().Port()
	from := netip.AddrPortFrom(netip.MustParseAddr("10.8.2.1"), port)
	works := func() {
		t.Helper()
		check(t, second(s.WriteTo([]byte("hello"), tunnel.addr)))
		tunnel.expect(t, "hello", from)
	}
	works()
	for range 2 {
		check(t, s.Connect(tunnel.addr))
		works()
		check(t, s.Connect(netip.MustParseAddrPort("10.8.2.2:9")))
		check(t, s.Disconnect())
		if s.LocalAddr().Port() != port {
			t.Fatalf("the port is %d, was %d", s.LocalAddr().Port(), port)
		}
		works()
	}
	a.ip("link delete tun0")
	if _, err := s.WriteTo([]byte("x"), open.addr); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("without the interface, WriteTo returns %v", err)
	}
	link()
	eventually(t, "it sends again", func() bool { _, err := s.WriteTo([]byte("again"), tunnel.addr); return err == nil })
	tunnel.expect(t, "again", from)
	a.enter(func() {
		none := udp.ListenConfig{Interface: &net.Interface{Index: 1 << 20}}
		if _, err := none.Listen(t.Context(), ":0", nil); !errors.Is(err, syscall.ENODEV) {
			t.Errorf("with an interface that is not there, Listen returns %v", err)
		}
	})
}

// TestLinkDown fails to connect again while the link is down: writes go to the
// old peer as soon as it is up, from the same port.
func TestLinkDown(t *testing.T) {
	t.Parallel()
	hs := hosts(t, "a", "b")
	a, b := hs[0], hs[1]
	join(a, "eth0", []string{"10.8.1.1/24"}, b, "eth0", []string{"10.8.1.2/24"})
	p := b.bare("10.8.1.2:0")
	c := a.listen(udp.ListenConfig{}, ":0", nil)
	from := netip.AddrPortFrom(netip.MustParseAddr("10.8.1.1"), c.LocalAddr().Port())
	check(t, c.Connect(p.addr))
	for range 2 {
		a.ip("link set eth0 down")
		if err := c.Connect(netip.MustParseAddrPort("10.8.1.2:9")); err == nil || c.RemoteAddr() != p.addr {
			t.Fatalf("Connect returns %v; it is %v", err, c)
		}
		a.ip("link set eth0 up")
		a.ready("eth0")
		check(t, second(c.Write([]byte("hello"))))
		p.expect(t, "hello", from)
	}
	check(t, c.Disconnect())
	check(t, second(c.WriteTo([]byte("free"), p.addr)))
	p.expect(t, "free", from)
}

// TestInterfaceBefore adopts a socket in which datagrams wait that came by
// another interface, and by none that anybody knows: they are discarded, and
// what comes by the interface is not.
func TestInterfaceBefore(t *testing.T) {
	if portable() {
		t.Skip("package net does not say when nothing waits: run on Linux without the tag udpbasic")
	}
	hs := hosts(t, "a", "b", "c")
	a, b, c := hs[0], hs[1], hs[2]
	join(a, "eth0", []string{"10.8.1.1/24"}, b, "eth0", []string{"10.8.1.2/24"})
	join(a, "tun0", []string{"10.8.2.1/24"}, c, "eth0", []string{"10.8.2.2/24"})
	open, tunnel := b.bare("10.8.1.2:0"), c.bare("10.8.2.2:0")
	var pc net.PacketConn
	a.enter(func() {
		var err error
		pc, err = net.ListenPacket("udp4", ":0")
		check(t, err)
	})
	port := addrPort(pc.LocalAddr()).Port()
	open.send(t, netip.AddrPortFrom(netip.MustParseAddr("10.8.1.1"), port), "before")
	r := record()
	lc := udp.ListenConfig{Interface: &net.Interface{Index: a.index("tun0"), Name: "tun0"}}
	conn, err := lc.NewConn(pc, r)
	check(t, err)
	closeAtEnd(t, conn)
	eventually(t, "what came before is discarded", func() bool { return conn.Stats().Discarded == 1 })
	for _, payload := range []string{"one", "two"} {
		tunnel.send(t, netip.AddrPortFrom(netip.MustParseAddr("10.8.2.1"), port), payload)
		r.expect(t, payload, tunnel.addr)
	}
}
