package udp_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"example.com/udp"
)

// TestZones needs root and ip(8). A Conn in another namespace than the test's
// writes by zones of every kind; those that name nothing are errors, and what
// was written arrives nowhere.
func TestZones(t *testing.T) {
	t.Parallel()
	a, b := zoneHosts(t)
	// Interfaces of the test's namespace have other names for these indexes.
	zoneLink(a, "eth1", "fe80::1:1/64", b, "eth1", "fe80::1:2/64")
	index := a.index("eth1")
	for _, network := range []string{"udp", "udp6"} {
		t.Run(network, func(t *testing.T) {
			got := record()
			peer := b.listen(udp.ListenConfig{Network: network}, ":0", got)
			c := a.listen(udp.ListenConfig{Network: network}, ":0", nil)
			at := func(host, zone string) netip.AddrPort {
				return netip.AddrPortFrom(netip.MustParseAddr(host).WithZone(zone), peer.LocalAddr().Port())
			}
			var addrError *net.AddrError
			for _, zone := range []string{"nothing", "0", "-1", "+1", "77", fmt.Sprint(int64(1)<<32 + int64(index)), strings.Repeat("9", 40),
				"eth1:1", "eth", "eth1" + strings.Repeat("x", 20), "eth1\x00", " eth1"} {
				for _, host := range []string{"fe80::1:2", "ff02::5", "fd01::2"} {
					to := at(host, zone)
					_, err := c.WriteTo([]byte("lost"), to)
					_, batchErr := c.WriteBatch([]udp.Datagram{{Payload: []byte("lost"), Addr: to}, {Payload: []byte("lost"), Addr: to}})
					_, replyErr := c.Reply(udp.Datagram{Addr: to}, []byte("lost"))
					for what, err := range map[string]error{"WriteTo": err, "WriteBatch": batchErr, "Reply": replyErr, "Connect": c.Connect(to)} {
						if !errors.As(err, &addrError) {
							t.Errorf("%s to %v: %v, want a *net.AddrError", what, to, err)
						}
					}
				}
				if err := c.Join(udp.Group{Addr: netip.MustParseAddr("ff02::5").WithZone(zone)}); !errors.As(err, &addrError) {
					t.Errorf("Join in zone %q: %v, want a *net.AddrError", zone, err)
				}
			}
			if c.RemoteAddr().IsValid() {
				t.Errorf("connected to %v by an error", c.RemoteAddr())
			}
			n, err := c.WriteBatch([]udp.Datagram{
				{Payload: []byte("by no zone"), Addr: at("fe80::1:2", "nothing")},
				{Payload: []byte("by name"), Addr: at("fe80::1:2", "eth1")},
				{Payload: []byte("by number"), Addr: at("fe80::1:2", fmt.Sprint(index))},
			})
			if n != 2 || !errors.As(err, &addrError) {
				t.Errorf("two of three: %d, %v", n, err)
			}
			check(t, second(c.WriteTo([]byte("by leading zeros"), at("fe80::1:2", fmt.Sprintf("000%d", index)))))
			for _, want := range []string{"by name", "by number", "by leading zeros"} {
				d := wait(t, got.datagrams)
				if d.Addr.Addr().Zone() != "eth1" || string(d.Payload) != want {
					t.Errorf("%q from %v", d.Payload, d.Addr)
				}
				if d.Local != netip.MustParseAddr("fe80::1:2%eth1") {
					t.Errorf("Local is %v", d.Local)
				}
			}
		})
	}
}

// TestZoneOfNumber needs root and ip(8). Interfaces are called like numbers,
// one like the index of another. A zone of digits is an index where there is
// one.
func TestZoneOfNumber(t *testing.T) {
	t.Parallel()
	a, b := zoneHosts(t)
	eth0 := a.index("eth0")
	odd, digits := "4711", fmt.Sprint(eth0)
	zoneLink(a, odd, "fe80::1:1/64", b, "eth1", "fe80::1:2/64")
	zoneLink(a, digits, "fe80::2:1/64", b, "eth2", "fe80::2:2/64")
	got := record()
	c := a.listen(udp.ListenConfig{}, ":0", got)
	peer := b.listen(udp.ListenConfig{}, ":0", echo(t))
	port := peer.LocalAddr().Port()
	for i, zone := range []string{digits, odd, fmt.Sprint(a.index(digits))} {
		host := []string{"fe80::2", "fe80::1:2", "fe80::2:2"}[i]
		to := netip.AddrPortFrom(netip.MustParseAddr(host).WithZone(zone), port)
		check(t, second(c.WriteTo([]byte(host), to)))
		d := wait(t, got.datagrams)
		if d.Addr.Addr().WithZone("") != netip.MustParseAddr(host) {
			t.Errorf("from %v, want %v", d.Addr, host)
		}
		check(t, second(c.Reply(d, []byte("again"))))
		if d := wait(t, got.datagrams); string(d.Payload) != "again" {
			t.Errorf("%q comes back", d.Payload)
		}
	}
}

// TestZoneOfListener needs root and ip(8). A Conn listens at a link-local address
// whose interface net has never heard of, or has another index by now.
func TestZoneOfListener(t *testing.T) {
	t.Parallel()
	a, b := zoneHosts(t)
	peer := b.listen(udp.ListenConfig{}, ":0", echo(t))
	for range 3 {
		got := record()
		c := a.listen(udp.ListenConfig{}, "[fe80::1%eth0]:0", got)
		if want := netip.MustParseAddr("fe80::1%eth0"); c.LocalAddr().Addr() != want {
			t.Errorf("LocalAddr is %v, want %v", c.LocalAddr(), want)
		}
		check(t, second(c.WriteTo([]byte("hello"), netip.AddrPortFrom(netip.MustParseAddr("fe80::2%eth0"), peer.LocalAddr().Port()))))
		if d := wait(t, got.datagrams); d.Local != c.LocalAddr().Addr() || d.Addr.Addr().Zone() != "eth0" {
			t.Errorf("from %v to %v", d.Addr, d.Local)
		}
		a.ip("link delete eth0")
		zoneLink(a, "eth0", "fe80::1/64", b, "eth0", "fe80::2/64")
	}
	a.enter(func() {
		var addrError *net.AddrError
		if _, err := udp.Listen("[fe80::1%nothing]:0", nil); !errors.As(err, &addrError) {
			t.Errorf("Listen in no zone: %v, want a *net.AddrError", err)
		}
	})
}

// TestZoneRenamed needs root and ip(8). The interface of a link-local peer gets
// another name, and comes back as another one under its old name.
func TestZoneRenamed(t *testing.T) {
	t.Parallel()
	a, b := zoneHosts(t)
	peer := b.listen(udp.ListenConfig{}, ":0", echo(t))
	port := peer.LocalAddr().Port()
	at := func(zone string) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("fe80::2").WithZone(zone), port)
	}
	got, gotConnected := record(), record()
	plain := a.listen(udp.ListenConfig{}, ":0", got)
	connected := a.listen(udp.ListenConfig{}, ":0", gotConnected)
	check(t, connected.Connect(at("eth0")))
	gotBound := record()
	bound := a.listen(udp.ListenConfig{}, "[fe80::1%eth0]:0", gotBound)
	expect := func(got *recorder, zone string) {
		t.Helper()
		d := wait(t, got.datagrams)
		if d.Addr != at(zone) || d.Local.Zone() != zone {
			t.Errorf("from %v to %v, want the zone %s", d.Addr, d.Local, zone)
		}
	}
	for _, zone := range []string{"eth0", "wan"} {
		if zone == "wan" {
			a.ip("link set eth0 down", "link set eth0 name wan")
			a.up("wan", "fe80::1/64")
			a.running("wan")
		}
		check(t, second(plain.WriteTo([]byte("plain"), at(zone))))
		expect(got, zone)
		check(t, second(connected.Write([]byte("connected"))))
		expect(gotConnected, zone)
		check(t, second(connected.WriteTo([]byte("by address"), at(zone))))
		expect(gotConnected, zone)
		for range 2 {
			if n, err := connected.WriteBatch([]udp.Datagram{{Payload: []byte("one")}, {Payload: []byte("two"), Addr: at(zone)}}); n != 2 {
				t.Errorf("WriteBatch: %d, %v", n, err)
			}
			expect(gotConnected, zone)
			expect(gotConnected, zone)
		}
		check(t, second(bound.WriteTo([]byte("bound"), at(zone))))
		expect(gotBound, zone)
		if connected.RemoteAddr() != at(zone) {
			t.Errorf("RemoteAddr is %v", connected.RemoteAddr())
		}
		for _, c := range []*udp.Conn{connected, bound} {
			if got, want := c.LocalAddr().Addr(), netip.MustParseAddr("fe80::1").WithZone(zone); got != want {
				t.Errorf("LocalAddr is %v, want %v", got, want)
			}
		}
	}
	if _, err := plain.WriteTo([]byte("old name"), at("eth0")); err == nil {
		t.Error("no error for the old name")
	}

	// The old name is another interface now, and the peer is not there.
	zoneLink(a, "eth0", "fe80::9:1/64", b, "eth9", "fe80::9:2/64")
	if _, err := connected.WriteTo([]byte("elsewhere"), at("eth0")); !errors.Is(err, net.ErrWriteToConnected) {
		t.Errorf("a write to the peer's address on another link: %v", err)
	}
	a.ip("link delete wan", "link set eth0 down", "link set eth0 name eth9")
	zoneLink(a, "eth0", "fe80::1/64", b, "eth0", "fe80::2/64")
	check(t, second(plain.WriteTo([]byte("back"), at("eth0"))))
	expect(got, "eth0")
	connected.Close()
	if connected.RemoteAddr().Addr().WithZone("") != at("").Addr() {
		t.Errorf("RemoteAddr of a closed Conn is %v", connected.RemoteAddr())
	}
}

// TestZoneOfGroup needs root and ip(8). What is written to a group leaves by the
// interface of its zone, also if routers forward the group.
func TestZoneOfGroup(t *testing.T) {
	t.Parallel()
	a, b := zoneHosts(t)
	zoneLink(a, "eth1", "fe80::1:1/64", b, "eth1", "fe80::1:2/64")
	got := record()
	peer := b.listen(udp.ListenConfig{}, ":0", got)
	c := a.listen(udp.ListenConfig{}, ":0", nil)
	for _, group := range []string{"ff01::123", "ff02::123", "ff05::123", "ff0e::123"} {
		for _, link := range []string{"eth0", "eth1"} {
			g := netip.MustParseAddr(group).WithZone(link)
			check(t, peer.Join(udp.Group{Addr: g}))
			if group == "ff01::123" {
				continue // does not leave the host
			}
			to := netip.AddrPortFrom(g, peer.LocalAddr().Port())
			check(t, second(c.WriteTo([]byte(to.String()), to)))
			if n, err := c.WriteBatch([]udp.Datagram{{Payload: []byte(to.String()), Addr: to}, {Payload: []byte(to.String()), Addr: to}}); n != 2 {
				t.Errorf("WriteBatch: %d, %v", n, err)
			}
			for range 3 {
				if d := wait(t, got.datagrams); string(d.Payload) != to.String() || d.Interface != b.index(link) {
					t.Errorf("%s comes by interface %d", d.Payload, d.Interface)
				}
			}
		}
	}
}

// TestZoneAllocations needs root and ip(8). What is written to a group by each
// of several links, and read from there, is no allocation.
func TestZoneAllocations(t *testing.T) {
	if raceDetector() {
		t.Skip("the race detector allocates: run without -race")
	}
	if portable() {
		t.Skip("package net looks zones up: run without the tag udpbasic")
	}
	a, b := zoneHosts(t)
	links := []string{"eth0", "eth1", "eth2", "eth3"}
	for i, link := range links[1:] {
		zoneLink(a, link, fmt.Sprintf("fe80::%d:1/64", i+1), b, link, fmt.Sprintf("fe80::%d:2/64", i+1))
	}
	c := a.listen(udp.ListenConfig{}, ":0", nil)
	read := make(chan string, 1000)
	peer := b.listen(udp.ListenConfig{}, ":0", udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) {
		read <- d.Addr.Addr().Zone()
	}))
	var ds []udp.Datagram
	group := netip.MustParseAddr("ff02::123")
	for _, link := range links {
		check(t, peer.Join(udp.Group{Addr: group.WithZone(link)}))
		ds = append(ds, udp.Datagram{Payload: []byte("announcement"), Addr: netip.AddrPortFrom(group.WithZone(link), peer.LocalAddr().Port())})
	}
	expired := time.After(patience)
	arrive := func() {
		for range ds {
			select {
			case <-read:
			case <-expired:
				t.Fatal("a datagram does not arrive")
			}
		}
	}
	for name, send := range map[string]func(){
		"WriteBatch": func() {
			if n, err := c.WriteBatch(ds); n != len(ds) {
				t.Error(n, err)
			}
		},
		"WriteTo": func() {
			for _, d := range ds {
				if _, err := c.WriteTo(d.Payload, d.Addr); err != nil {
					t.Error(err)
				}
			}
		},
	} {
		for range 20 {
			send()
			arrive()
		}
		if got := testing.AllocsPerRun(100, func() { send(); arrive() }); got != 0 {
			t.Errorf("%s by %d links: %v allocations", name, len(ds), got)
		}
	}
}

// zoneHosts makes two hosts with a link between them.
func zoneHosts(t *testing.T) (a, b *host) {
	hs := hosts(t, "a", "b")
	for _, h := range hs {
		h.sysctl("net/ipv6/conf/default/addr_gen_mode=1")
	}
	zoneLink(hs[0], "eth0", "fe80::1/64", hs[1], "eth0", "fe80::2/64")
	return hs[0], hs[1]
}

// zoneLink is join for links with these addresses alone.
func zoneLink(a *host, aname, aaddr string, b *host, bname, baddr string) {
	a.t.Helper()
	join(a, aname, []string{aaddr}, b, bname, []string{baddr})
	a.running(aname)
	b.running(bname)
}

// running waits until the system says that an interface is up at both ends.
func (h *host) running(ifname string) {
	h.t.Helper()
	eventually(h.t, ifname+" is up", func() bool { return h.read("/sys/class/net/"+ifname+"/operstate") == "up\n" })
}
