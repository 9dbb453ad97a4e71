//go:build linux

package udp_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"example.com/udp"
)

// A network is two hosts with two links between them, and a peer in each.
// The addresses are 10.1.<link>.<1 for a, 2 and 3 for b>, and fd00:1:<link>::
// likewise.
type network struct {
	t      *testing.T
	a, b   *host
	pa, pb *peer
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	hs := hosts(t, "a", "b")
	n := &network{t: t, a: hs[0], b: hs[1]}
	for link := range 2 {
		var addrs [2][]string
		for _, at := range []int{1, 2, 3} {
			end := min(at-1, 1)
			addrs[end] = append(addrs[end], fmt.Sprintf("10.1.%d.%d/24", link, at), fmt.Sprintf("fd00:1:%d::%d/64", link, at))
		}
		ifname := fmt.Sprintf("eth%d", link)
		join(n.a, ifname, addrs[0], n.b, ifname, addrs[1])
	}
	n.pa, n.pb = n.a.peer(), n.b.peer()
	return n
}

// A family is what the tests need of IPv4 or IPv6.
type family struct {
	name     string
	networks []string // of Conns that can join groups of it
	groups   [3]string
	prefix   string // of addresses, followed by the link
	middle   string // and by this, and the host
}

var families = []family{
	{"IPv4", []string{"udp4", "udp"}, [3]string{"239.1.2.3", "239.1.2.4", "232.1.2.3"}, "10.1.", "."},
	{"IPv6", []string{"udp6", "udp"}, [3]string{"ff15::3", "ff15::4", "ff35::3"}, "fd00:1:", "::"},
}

func (f family) addr(link, host int) string {
	return netip.MustParseAddr(fmt.Sprintf("%s%d%s%d", f.prefix, link, f.middle, host)).String()
}

// byFamily runs test for each family and network.
func byFamily(t *testing.T, test func(t *testing.T, f family, network string)) {
	for _, f := range families {
		for _, network := range f.networks {
			t.Run(f.name+" on "+network, func(t *testing.T) {
				t.Parallel()
				test(t, f, network)
			})
		}
	}
}

// to returns the address of a port in a group or of a host.
func to(addr string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
}

// TestGroupsAreApart needs root and ip(8): it makes two network namespaces.
// Several Conns share a port; each gets what it joined, where it joined it,
// and from whom, and nothing else, although the host receives all of it.
func TestGroupsAreApart(t *testing.T) {
	t.Parallel()
	byFamily(t, func(t *testing.T, f family, network string) {
		n := newNetwork(t)
		g, h, special := f.groups[0], f.groups[1], f.groups[2]
		one, other := f.addr(0, 2), f.addr(0, 3)
		conns := []struct {
			name  string
			ops   []string
			wants []string
		}{
			{"g on eth0", []string{"join " + g + "%eth0"}, []string{"g eth0 one", "g eth0 other"}},
			{"g on eth1", []string{"join " + g + "%eth1"}, []string{"g eth1 one", "g eth1 other"}},
			{"h on eth0", []string{"join " + h + "%eth0"}, []string{"h eth0 one", "h eth0 other"}},
			{"g and h on both", []string{"join " + g + "%eth0", "join " + g + "%eth1", "join " + h + "%eth0", "join " + h + "%eth1"},
				[]string{"g eth0 one", "g eth0 other", "h eth0 one", "h eth0 other", "g eth1 one", "g eth1 other", "h eth1 one", "h eth1 other"}},
			{"special on eth0 from one", []string{"join " + special + "%eth0<" + one}, []string{"special eth0 one"}},
			{"special on eth0 from both", []string{"join " + special + "%eth0<" + one, "join " + special + "%eth0<" + other}, []string{"special eth0 one", "special eth0 other"}},
			{"g on eth0 without other", []string{"join " + g + "%eth0", "block " + g + "%eth0<" + other}, []string{"g eth0 one"}},
			{"g on eth0 with other again", []string{"join " + g + "%eth0", "block " + g + "%eth0<" + other, "unblock " + g + "%eth0<" + other}, []string{"g eth0 one", "g eth0 other"}},
			{"g on eth0, left on eth1", []string{"join " + g + "%eth1", "join " + g + "%eth0", "leave " + g + "%eth1"}, []string{"g eth0 one", "g eth0 other"}},
			// For IPv6 the kernel filters on all interfaces by the sources of
			// the one that was joined last, which is too little in the first
			// case, and too much in the second.
			{"g on both, without other on eth0", []string{"join " + g + "%eth0", "block " + g + "%eth0<" + other, "join " + g + "%eth1"},
				[]string{"g eth0 one", "g eth1 one", "g eth1 other"}},
			{"special on both, from one on eth0", []string{"join " + special + "%eth1<" + f.addr(1, 3), "join " + special + "%eth0<" + one},
				map[string][]string{"IPv4": {"special eth0 one", "special eth1 other"}, "IPv6": {"special eth0 one"}}[f.name]},
			{"special for any", []string{"join " + special + "%eth0"}, []string{"special eth0 one", "special eth0 other"}},
			{"special for any on eth1", []string{"join " + special + "%eth1"}, []string{"special eth1 one", "special eth1 other", "special eth1 stray"}},
			{"nothing", nil, nil},
		}
		port := uint16(5000)
		var remotes []*remote
		for _, c := range conns {
			r := n.pa.listenMulticast(network, fmt.Sprintf(":%d", port), "")
			for _, op := range c.ops {
				name, spec, _ := strings.Cut(op, " ")
				r.must(name, spec)
			}
			remotes = append(remotes, r)
		}
		sender := n.pb.listen(network, ":0", "")
		for _, kernelFilters := range []bool{true, false} {
			if !kernelFilters {
				for _, r := range remotes {
					r.do(message{Op: "allGroups"})
				}
			}
			send := func(payload, group string, link, host int) {
				sender.write(udp.Datagram{Payload: []byte(payload), Addr: to(group, port),
					Local: netip.MustParseAddr(f.addr(link, host)), Interface: n.b.index(fmt.Sprintf("eth%d", link))})
			}
			for link := range 2 {
				for i, name := range []string{"g", "h", "special"} {
					send(fmt.Sprintf("%s eth%d one", name, link), f.groups[i], link, 2)
					send(fmt.Sprintf("%s eth%d other", name, link), f.groups[i], link, 3)
				}
			}
			// The address of one, on the link where it is not.
			sender.write(udp.Datagram{Payload: []byte("special eth1 stray"), Addr: to(special, port),
				Local: netip.MustParseAddr(one), Interface: n.b.index("eth1")})
			// All of that has arrived when a datagram to a last group has.
			for i, r := range remotes {
				const last = "the last"
				r.must("join", f.groups[0][:len(f.groups[0])-1]+"9%eth0")
				send(last, f.groups[0][:len(f.groups[0])-1]+"9", 0, 2)
				for _, want := range conns[i].wants {
					d := r.next(want)
					if got := d.Local.String(); !strings.HasPrefix(want, "special") && got != g && got != h {
						t.Errorf("Local is %s", got)
					}
				}
				r.next(last)
				r.must("leave", f.groups[0][:len(f.groups[0])-1]+"9%eth0")
			}
			discarded := remotes[len(remotes)-1].do(message{Op: "stats"}).Stats.Discarded
			if kernelFilters != (discarded == 0) {
				t.Errorf("kernel filters: %t; a Conn without groups has discarded %d", kernelFilters, discarded)
			}
		}
	})
}

// TestGroupOnChosenInterface needs root and ip(8). A membership that leaves
// the interface to the system is one on that interface alone.
func TestGroupOnChosenInterface(t *testing.T) {
	t.Parallel()
	byFamily(t, func(t *testing.T, f family, network string) {
		n := newNetwork(t)
		g := f.groups[0]
		for _, ifname := range []string{"eth0", "eth1"} {
			if f.name == "IPv4" {
				n.a.ip("route replace 239.0.0.0/8 dev " + ifname)
			} else {
				n.a.ip("route replace multicast ff15::/16 dev " + ifname + " table local")
			}
			r := n.pa.listenMulticast(network, ":5000", "")
			r.must("join", g)
			for _, on := range []string{"eth0", "eth1"} {
				if n.a.member(on, g) != (on == ifname) {
					t.Errorf("with a route by %s, joined on %s: %t", ifname, on, on != ifname)
				}
			}
			both := n.pa.listenMulticast(network, ":5000", "")
			both.must("join", g+"%eth0")
			both.must("join", g+"%eth1")
			if got := fmt.Sprint(r.groups()); got != "["+g+"]" {
				t.Errorf("Groups are %s", got)
			}
			sender := n.pb.listen(network, ":0", "")
			send := func(by string) {
				sender.write(udp.Datagram{Payload: []byte(by), Addr: to(g, 5000), Interface: n.b.index(by)})
			}
			send("eth0")
			send("eth1")
			send("eth0")
			send("eth1")
			r.next(ifname)
			r.next(ifname)
			for range 2 {
				both.next("eth0")
				both.next("eth1")
			}

			// It is left where it was joined, whatever the routes say now.
			both.do(message{Op: "close"})
			if f.name == "IPv4" {
				n.a.ip("route delete 239.0.0.0/8")
			} else {
				n.a.ip("route delete multicast ff15::/16 table local")
			}
			r.must("leave", g)
			if n.a.member(ifname, g) {
				t.Errorf("still joined on %s after Leave", ifname)
			}
			r.do(message{Op: "close"})
		}
	})
}

// TestSendByInterface needs root and ip(8). What is sent to a group leaves by
// the interface that the datagram, the zone, or the Conn names, from that
// interface's own address.
func TestSendByInterface(t *testing.T) {
	t.Parallel()
	byFamily(t, func(t *testing.T, f family, network string) {
		n := newNetwork(t)
		g := f.groups[0]
		listener := n.pb.listen(network, ":0", "")
		listener.must("joinAll", g)
		sender := n.pa.listen(network, ":0", "")
		arrives := func(payload string, link int) {
			t.Helper()
			d := listener.next(payload)
			if want := n.b.index(fmt.Sprintf("eth%d", link)); d.Interface != want {
				t.Errorf("%s came by %d, want %d", payload, d.Interface, want)
			}
			if got, want := d.Addr.Addr().String(), f.addr(link, 1); got != want {
				t.Errorf("%s came from %s, want %s", payload, got, want)
			}
			if d.TTL != 1 || d.Local.String() != g {
				t.Errorf("%s came with TTL %d to %v", payload, d.TTL, d.Local)
			}
		}
		for round := range 2 {
			for link := range 2 {
				sender.write(udp.Datagram{Payload: fmt.Appendf(nil, "datagram %d", round), Addr: to(g, listener.port),
					Interface: n.a.index(fmt.Sprintf("eth%d", link))})
				arrives(fmt.Sprintf("datagram %d", round), link)
			}
		}
		for link := range 2 {
			sender.do(message{Op: "interface", Text: fmt.Sprintf("eth%d", link)})
			sender.write(udp.Datagram{Payload: []byte("default"), Addr: to(g, listener.port)})
			arrives("default", link)
			sender.write(udp.Datagram{Payload: []byte("exception"), Addr: to(g, listener.port),
				Interface: n.a.index(fmt.Sprintf("eth%d", 1-link))})
			arrives("exception", 1-link)
			sender.write(udp.Datagram{Payload: []byte("default again"), Addr: to(g, listener.port)})
			arrives("default again", link)
		}
		if f.name != "IPv6" {
			return
		}
		listener.must("joinAll", "ff12::3")
		for link := range 2 {
			ifname := fmt.Sprintf("eth%d", link)
			sender.write(udp.Datagram{Payload: []byte("link-local"), Addr: to("ff12::3%"+ifname, listener.port)})
			d := listener.next("link-local")
			if want := to(n.a.linkLocal(ifname).WithZone(ifname).String(), sender.port); d.Addr != want || d.Interface != n.b.index(ifname) {
				t.Errorf("came from %v by %d, want %v by %d", d.Addr, d.Interface, want, n.b.index(ifname))
			}
		}
	})
}

// TestReplyByInterface needs root and ip(8). An answer to what came to a group
// leaves by the interface that it came by, from that interface's own address,
// also where the routes would have it leave by another.
func TestReplyByInterface(t *testing.T) {
	t.Parallel()
	byFamily(t, func(t *testing.T, f family, network string) {
		hs := hosts(t, "a", "b")
		a, b := hs[0], hs[1]
		for link, ends := range [][2]string{{f.addr(1, 1), f.addr(1, 2)}, {f.addr(1, 3), f.addr(1, 4)}} {
			bits := map[string]string{"IPv4": "/24", "IPv6": "/64"}[f.name]
			ifname := fmt.Sprintf("eth%d", link)
			join(a, ifname, []string{ends[0] + bits}, b, ifname, []string{ends[1] + bits})
		}
		for _, h := range hs {
			// Each interface has its own addresses and no others.
			h.sysctl("net/ipv4/conf/all/arp_ignore=1", "net/ipv4/conf/all/arp_announce=2")
		}
		pa, pb := a.peer(), b.peer()
		for _, handler := range []string{"reply", "batch"} {
			server := pa.listen(network, ":0", handler)
			server.must("joinAll", f.groups[0])
			client := pb.listen(network, ":0", "")
			for range 2 {
				for link, own := range []string{f.addr(1, 1), f.addr(1, 3)} {
					ifname := fmt.Sprintf("eth%d", link)
					source := netip.MustParseAddr([]string{f.addr(1, 2), f.addr(1, 4)}[link])
					client.write(udp.Datagram{Payload: []byte(ifname), Addr: to(f.groups[0], server.port),
						Local: source, Interface: b.index(ifname)})
					server.next(ifname)
					d := client.next("re: " + ifname)
					if d.Addr != to(own, server.port) || d.Interface != b.index(ifname) || d.Local != source {
						t.Errorf("%s: the answer came from %v to %v by %d, want %s to %v by %d", handler,
							d.Addr, d.Local, d.Interface, own, source, b.index(ifname))
					}
				}
			}
		}
	})
}

// TestSameLinkLocalPeers needs root and ip(8). Two peers on two links have one
// link-local address; each gets its own answers.
func TestSameLinkLocalPeers(t *testing.T) {
	t.Parallel()
	hs := hosts(t, "a", "b", "c")
	a := hs[0]
	for i, h := range hs[1:] {
		join(a, fmt.Sprintf("eth%d", i), []string{"fe80::a/64"}, h, "eth0", []string{"fe80::1/64"})
	}
	pa := a.peer()
	clients := []*remote{hs[1].peer().listen("udp6", "[fe80::1%eth0]:5001", ""), hs[2].peer().listen("udp6", "[fe80::1%eth0]:5001", "")}
	for _, network := range []string{"udp", "udp6"} {
		for _, handler := range []string{"reply", "batch"} {
			server := pa.listen(network, ":0", handler)
			for range 2 {
				for i, client := range clients {
					payload := fmt.Sprintf("from %d", i)
					client.write(udp.Datagram{Payload: []byte(payload), Addr: to("fe80::a%eth0", server.port)})
					d := server.next(payload)
					zone := fmt.Sprintf("eth%d", i)
					if d.Addr != to("fe80::1%"+zone, 5001) || d.Local != netip.MustParseAddr("fe80::a%"+zone) {
						t.Errorf("received from %v to %v, want both on %s", d.Addr, d.Local, zone)
					}
					if d := client.next("re: " + payload); d.Addr != to("fe80::a%eth0", server.port) {
						t.Errorf("answered from %v", d.Addr)
					}
					// Not an answer, but sent to the same address.
					server.write(udp.Datagram{Payload: []byte("for " + zone), Addr: d.Addr})
					client.next("for " + zone)
				}
			}
		}
	}
}

// TestMulticastLoopback needs root and ip(8). With loopback off, what a Conn
// sends reaches other hosts, and no member on its own.
func TestMulticastLoopback(t *testing.T) {
	t.Parallel()
	byFamily(t, func(t *testing.T, f family, network string) {
		n := newNetwork(t)
		g := f.groups[0]
		sender := n.pa.listenMulticast(network, ":5000", "")
		beside := n.pa.listenMulticast(network, ":5000", "")
		there := n.pb.listenMulticast(network, ":5000", "")
		for _, r := range []*remote{sender, beside, there} {
			r.must("join", g+"%eth1")
		}
		sender.do(message{Op: "interface", Text: "eth1"})
		for _, s := range []struct {
			payload string
			on      int
		}{{"loops by default", 1}, {"does not loop", 0}, {"loops again", 1}} {
			sender.do(message{Op: "loopback", Int: s.on})
			sender.write(udp.Datagram{Payload: []byte(s.payload), Addr: to(g, 5000)})
			there.next(s.payload)
			if s.on == 1 {
				sender.next(s.payload)
				beside.next(s.payload)
			}
		}
	})
}
