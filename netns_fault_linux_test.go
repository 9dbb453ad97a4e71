package udp_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"example.com/udp"
	"golang.org/x/sys/unix"
)

// What follows needs routers, firewalls and interfaces that fail: it happens
// in network namespaces. A socket stays in the namespace that it was opened
// in, so one process has sockets in all of them.

// enter calls f in the namespace of h.
func (h *host) enter(f func()) {
	h.t.Helper()
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	check(h.t, err)
	defer unix.Close(home)
	there, err := unix.Open("/run/netns/"+h.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	check(h.t, err)
	defer unix.Close(there)
	check(h.t, unix.Setns(there, unix.CLONE_NEWNET))
	defer func() {
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread() // otherwise the thread ends with the goroutine
		}
	}()
	f()
}

// listen opens a Conn in the namespace for the length of the test.
func (h *host) listen(lc udp.ListenConfig, address string, handler udp.Handler) (c *udp.Conn) {
	h.t.Helper()
	h.enter(func() {
		var err error
		c, err = lc.Listen(h.t.Context(), address, handler)
		check(h.t, err)
	})
	closeAtEnd(h.t, c)
	return c
}

// peer opens a bare socket in the namespace.
func (h *host) bare(address string) (s bare) {
	h.t.Helper()
	h.enter(func() {
		pc, err := net.ListenPacket("udp", address)
		check(h.t, err)
		h.t.Cleanup(func() { pc.Close() })
		s = bare{pc, addrPort(pc.LocalAddr())}
	})
	return s
}

// run runs a command in the namespace.
func (h *host) run(name string, args ...string) {
	h.t.Helper()
	if out, err := h.command(name, args...).CombinedOutput(); err != nil {
		h.t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

// TestReportFromRouter has a router between two hosts refuse to forward, for
// all the reasons that it can have.
func TestReportFromRouter(t *testing.T) {
	for _, network := range []string{"udp", "udp4", "udp6"} {
		t.Run(network, func(t *testing.T) { testReportFromRouter(t, network) })
	}
}

func testReportFromRouter(t *testing.T, network string) {
	hs := hosts(t, "a", "r", "b")
	a, r, b := hs[0], hs[1], hs[2]
	join(a, "eth0", []string{"10.7.1.1/24", "fd07:1::1/64"}, r, "eth0", []string{"10.7.1.254/24", "fd07:1::254/64"})
	join(r, "eth1", []string{"10.7.2.254/24", "fd07:2::254/64"}, b, "eth0", []string{"10.7.2.1/24", "fd07:2::1/64"})
	r.sysctl("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1",
		"net/ipv4/neigh/eth1/retrans_time_ms=20", "net/ipv6/neigh/eth1/retrans_time_ms=20")
	r.ip("route add prohibit 10.7.3.0/24", "route add unreachable 10.7.4.0/24",
		"route add prohibit fd07:3::/64", "link set eth1 mtu 1400")
	b.ip("link set eth0 mtu 1400", "route add default via 10.7.2.254", "route add default via fd07:2::254")
	a.ip("route add default via 10.7.1.254", "route add default via fd07:1::254")

	h := record()
	lc := udp.ListenConfig{Network: network}
	c, near := a.listen(lc, ":0", h), a.listen(lc, ":0", h)
	setTTL(t, near, network, 1)
	far4, far6 := b.bare("10.7.2.1:0"), b.bare("[fd07:2::1]:0")
	router4, router6 := netip.MustParseAddr("10.7.1.254"), netip.MustParseAddr("fd07:1::254")
	for _, test := range []struct {
		c        *udp.Conn
		to       netip.AddrPort
		size     int
		offender netip.Addr
		errno    syscall.Errno
	}{
		{c, netip.MustParseAddrPort("10.7.3.1:9"), 1, router4, unix.EHOSTUNREACH},
		{c, netip.MustParseAddrPort("10.7.4.1:9"), 1, router4, unix.EHOSTUNREACH},
		{c, netip.MustParseAddrPort("10.7.5.1:9"), 1, router4, unix.ENETUNREACH},
		{c, netip.MustParseAddrPort("10.7.2.77:9"), 1, router4, unix.EHOSTUNREACH}, // on the link, but does not answer
		{c, netip.AddrPortFrom(far4.addr.Addr(), 9), 1, far4.addr.Addr(), unix.ECONNREFUSED},
		{near, far4.addr, 1, router4, unix.EHOSTUNREACH},
		{c, far4.addr, 1400, router4, unix.EMSGSIZE},
		{c, netip.MustParseAddrPort("[fd07:3::1]:9"), 1, router6, unix.EACCES},
		{c, netip.MustParseAddrPort("[fd07:5::1]:9"), 1, router6, unix.ENETUNREACH},
		{c, netip.MustParseAddrPort("[fd07:2::77]:9"), 1, router6, unix.EHOSTUNREACH},
		{c, netip.AddrPortFrom(far6.addr.Addr(), 9), 1, far6.addr.Addr(), unix.ECONNREFUSED},
		{near, far6.addr, 1, router6, unix.EHOSTUNREACH},
		{c, far6.addr, 1400, router6, unix.EMSGSIZE},
	} {
		if test.to.Addr().Is4() && network == "udp6" || test.to.Addr().Is6() && network == "udp4" {
			continue
		}
		check(t, second(test.c.WriteTo([]byte(text(test.size)), test.to)))
		checkReport(t, wait(t, h.undelivered), test.to, test.offender, test.errno)
	}

	// The kernel knows the way now, and cuts what is too long into fragments.
	if network != "udp6" {
		check(t, second(c.WriteTo([]byte(text(1400)), far4.addr)))
		far4.expect(t, text(1400), netip.AddrPortFrom(netip.MustParseAddr("10.7.1.1"), c.LocalAddr().Port()))
	}
	if network != "udp4" {
		check(t, second(c.WriteTo([]byte(text(1400)), far6.addr)))
		far6.expect(t, text(1400), netip.AddrPortFrom(netip.MustParseAddr("fd07:1::1"), c.LocalAddr().Port()))
	}
	shutdown(t, c)
	if s := c.Stats(); s.ReadErrors+s.WriteErrors != 0 || len(h.undelivered) != 0 {
		t.Errorf("%d more reports, %+v", len(h.undelivered), s)
	}
}

func setTTL(t *testing.T, c *udp.Conn, network string, ttl int) {
	t.Helper()
	raw, err := c.SyscallConn()
	check(t, err)
	check(t, raw.Control(func(fd uintptr) {
		if network != "udp6" {
			check(t, unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl))
		}
		if network != "udp4" {
			check(t, unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl))
		}
	}))
}

// TestReportWhileSendBufferIsFull has a report come when the socket has
// neither data nor room to write: Go's poller then calls it not pollable. The
// report is delivered, or counted where nobody wants it, and the socket goes on.
func TestReportWhileSendBufferIsFull(t *testing.T) {
	for _, unheard := range []bool{false, true} {
		t.Run(fmt.Sprintf("without HandleUndelivered: %v", unheard), func(t *testing.T) { testReportWhileSendBufferIsFull(t, unheard) })
	}
}

func testReportWhileSendBufferIsFull(t *testing.T, unheard bool) {
	hs := hosts(t, "a", "b")
	a, b := hs[0], hs[1]
	join(a, "eth0", []string{"10.8.1.1/24"}, b, "eth0", []string{"10.8.1.2/24"})
	a.sysctl("net/ipv4/neigh/eth0/retrans_time_ms=200")
	r := record()
	var h udp.Handler = r
	if unheard {
		h = udp.HandlerFunc(r.HandleDatagram)
	}
	c := a.listen(udp.ListenConfig{Network: "udp4", WriteBuffer: 1, NoOffload: true}, ":0", h)
	p := a.bare("127.0.0.1:0")
	reported := func(count uint64, u udp.Undelivered) {
		t.Helper()
		eventually(t, "the report is counted", func() bool { return c.Stats().Undelivered == count })
		if !unheard {
			if got := wait(t, r.undelivered); got.Addr != u.Addr || got.Err != u.Err {
				t.Errorf("got %+v, want %+v", got, u)
			}
		}
	}
	dead := netip.MustParseAddrPort("127.0.0.1:9")

	// Nobody answers for this address, and until that is certain what is
	// sent there fills the send buffer, up to a little that is left.
	raw, err := c.SyscallConn()
	check(t, err)
	full := func() bool {
		events := []unix.PollFd{{Events: unix.POLLOUT}}
		check(t, raw.Control(func(fd uintptr) {
			events[0].Fd = int32(fd)
			_, err = unix.Poll(events, 0)
		}))
		check(t, err)
		return events[0].Revents&unix.POLLOUT == 0
	}
	silent := netip.MustParseAddrPort("10.8.1.77:9")
	for i := 0; !full(); i++ {
		if i == 1000 {
			t.Fatal("the send buffer is never full")
		}
		check(t, second(c.WriteTo([]byte("x"), silent)))
	}
	for i := range uint64(2) {
		check(t, second(c.WriteTo([]byte("x"), dead)))
		reported(i+1, udp.Undelivered{Addr: dead, Err: unix.ECONNREFUSED})
	}
	if !full() {
		t.Log("the send buffer has room again: the test has shown nothing")
	}
	for range 100 {
		p.send(t, netip.AddrPortFrom(loopback4, c.LocalAddr().Port()), "hello")
		r.expect(t, "hello", p.addr)
	}
	// In the end the kernel reports that nobody answers.
	if !unheard {
		if u := wait(t, r.undelivered); u.Addr != silent || u.Err != unix.EHOSTUNREACH {
			t.Errorf("%+v", u)
		}
	}
	if s := c.Stats(); s.ReadErrors != 0 {
		t.Errorf("%+v", s)
	}
}

// TestFirewall has a firewall drop what is sent to one port: the write says
// so, of that datagram alone, and it is no report.
func TestFirewall(t *testing.T) {
	needPrograms(t, "nftables", "nft")
	a := hosts(t, "a")[0]
	a.nft("add table inet t; add chain inet t out { type filter hook output priority 0; }; add rule inet t out udp dport 7 drop")
	for _, lc := range []udp.ListenConfig{{}, {Network: "udp4"}, {Network: "udp4", NoOffload: true}} {
		r := record()
		c := a.listen(lc, ":0", r)
		p := a.bare("127.0.0.1:0")
		from := netip.AddrPortFrom(loopback4, c.LocalAddr().Port())
		dropped := netip.MustParseAddrPort("127.0.0.1:7")
		for range 3 {
			for _, err := range []error{
				second(c.WriteTo([]byte("x"), dropped)),
				second(c.Reply(udp.Datagram{Addr: dropped}, []byte("x"))),
				second(c.WriteBatch(batch(dropped, "x", "y", "z"))),
			} {
				checkOpError(t, err)
				if !errors.Is(err, syscall.EPERM) {
					t.Errorf("%v, want EPERM", err)
				}
			}
			ds := append(batch(p.addr, "one"), batch(dropped, "x", "y")...)
			if sent, err := c.WriteBatch(append(ds, batch(p.addr, "two")...)); sent != 2 || !errors.Is(err, syscall.EPERM) {
				t.Errorf("%d, %v", sent, err)
			}
			p.expect(t, "one", from)
			p.expect(t, "two", from)
		}
		check(t, c.Connect(dropped))
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPERM) {
			t.Errorf("%v, want EPERM", err)
		}
		check(t, c.Disconnect())
		shutdown(t, c)
		if s := c.Stats(); s.WriteErrors != 3*7+1 || s.Undelivered != 0 {
			t.Errorf("%+v", s)
		}
	}
	r := record()
	c := a.listen(udp.ListenConfig{}, ":0", r)
	a.nft("flush chain inet t out; add rule inet t out udp dport 7 reject")
	to := netip.MustParseAddrPort("127.0.0.1:7")
	if _, err := c.WriteTo([]byte("x"), to); !errors.Is(err, syscall.EPERM) {
		t.Errorf("%v, want EPERM", err)
	}
	checkReport(t, wait(t, r.undelivered), to, loopback4, syscall.ECONNREFUSED)
	a.nft("delete table inet t")
	p := a.bare("127.0.0.1:7")
	check(t, second(c.WriteTo([]byte("through"), p.addr)))
	p.expect(t, "through", netip.AddrPortFrom(loopback4, c.LocalAddr().Port()))
}

func (h *host) nft(rules string) {
	h.t.Helper()
	cmd := h.command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("nft: %v: %s", err, out)
	}
}

// TestNoRoute writes to where the host itself has no way: an error of that
// write, and nothing else.
func TestNoRoute(t *testing.T) {
	hs := hosts(t, "a", "b")
	a, b := hs[0], hs[1]
	join(a, "eth0", []string{"10.8.1.1/24", "fd08:1::1/64"}, b, "eth0", []string{"10.8.1.2/24", "fd08:1::2/64"})
	for _, kind := range []string{"prohibit 10.8.3.0/24", "unreachable 10.8.4.0/24", "blackhole 10.8.5.0/24",
		"prohibit fd08:3::/64", "unreachable fd08:4::/64", "blackhole fd08:5::/64"} {
		a.ip("route add " + kind)
	}
	for _, handler := range []udp.Handler{nil, record()} {
		c := a.listen(udp.ListenConfig{}, ":0", handler)
		p := b.bare("10.8.1.2:0")
		from := netip.AddrPortFrom(netip.MustParseAddr("10.8.1.1"), c.LocalAddr().Port())
		failed := uint64(0)
		for _, test := range []struct {
			to    string
			local string
			size  int
			errno syscall.Errno
		}{
			{"10.8.3.1:9", "", 1, unix.EACCES},
			{"10.8.4.1:9", "", 1, unix.EHOSTUNREACH},
			{"10.8.5.1:9", "", 1, unix.EINVAL},
			{"10.8.6.1:9", "", 1, unix.ENETUNREACH},
			{"[fd08:3::1]:9", "", 1, unix.EACCES},
			{"[fd08:4::1]:9", "", 1, unix.EHOSTUNREACH},
			{"[fd08:5::1]:9", "", 1, unix.EINVAL},
			{"[fd08:6::1]:9", "", 1, unix.ENETUNREACH},
			{"10.8.1.2:9", "10.8.1.99", 1, unix.EADDRNOTAVAIL},     // from no address of this host
			{"[fd08:1::2]:9", "fd08:1::99", 1, unix.EADDRNOTAVAIL}, // likewise
			{"10.8.1.2:9", "", 65508, unix.EMSGSIZE},               // longer than an IP packet
			{"[fd08:1::2]:9", "", 65528, unix.EMSGSIZE},            // likewise
		} {
			d := udp.Datagram{Addr: netip.MustParseAddrPort(test.to), Payload: []byte(text(test.size))}
			if test.local != "" {
				d.Local = netip.MustParseAddr(test.local)
			}
			ds := append(batch(p.addr, "before"), d, d)
			sent, err := c.WriteBatch(append(ds, batch(p.addr, "after")...))
			checkOpError(t, err)
			if sent != 2 || !errors.Is(err, test.errno) {
				t.Errorf("%v: %d, %v, want %v", test, sent, err, test.errno)
			}
			p.expect(t, "before", from)
			p.expect(t, "after", from)
			_, err = c.Reply(d, d.Payload)
			checkOpError(t, err)
			if !errors.Is(err, test.errno) {
				t.Errorf("%v: %v, want %v", test, err, test.errno)
			}
			failed += 3
		}
		shutdown(t, c)
		if s := c.Stats(); s.WriteErrors != failed || s.Undelivered != 0 || s.ReadErrors != 0 {
			t.Errorf("%d fail, %+v", failed, s)
		}
	}
}

// TestInterfaceGoes takes the interface down and up, then deletes it, then
// makes it again, under a socket that is bound to its address and one that is
// not: both work again each time, without being opened again.
func TestInterfaceGoes(t *testing.T) {
	for _, connected := range []bool{false, true} {
		hs := hosts(t, "a", "b")
		a, b := hs[0], hs[1]
		link := func() {
			t.Helper()
			join(a, "eth0", []string{"10.8.1.1/24", "fd08:1::1/64"}, b, "eth0", []string{"10.8.1.2/24", "fd08:1::2/64"})
		}
		link()
		var cs []*udp.Conn
		var rs []*recorder
		for _, at := range []string{"10.8.1.1:0", "0.0.0.0:0", "[fd08:1::1]:0", ":0"} {
			r := record()
			cs, rs = append(cs, a.listen(udp.ListenConfig{}, at, r)), append(rs, r)
		}
		peers := []bare{b.bare("10.8.1.2:0"), b.bare("10.8.1.2:0"), b.bare("[fd08:1::2]:0"), b.bare("[fd08:1::2]:0")}
		if connected {
			for i, c := range cs {
				check(t, c.Connect(peers[i].addr))
			}
		}
		works := func(when string) {
			t.Helper()
			for i, c := range cs {
				p, r := peers[i], rs[i]
				from := netip.MustParseAddr("10.8.1.1")
				if i >= 2 {
					from = netip.MustParseAddr("fd08:1::1")
				}
				at := netip.AddrPortFrom(from, c.LocalAddr().Port())
				check(t, second(c.WriteTo([]byte("hello"), p.addr)))
				p.expect(t, "hello", at)
				p.send(t, at, "answer")
				r.expect(t, "answer", p.addr)
				if s := c.Stats(); s.ReadErrors != 0 {
					t.Errorf("%s: %v: %+v", when, c, s)
				}
			}
		}
		fails := func(when string) {
			t.Helper()
			for i, c := range cs {
				_, err := c.WriteTo([]byte("lost"), peers[i].addr)
				checkOpError(t, err)
				if !errors.Is(err, syscall.ENETUNREACH) {
					t.Errorf("%s: %v, want ENETUNREACH", when, err)
				}
			}
		}
		works("at first")
		a.ip("link set eth0 down")
		fails("down")
		a.ip("link set eth0 up", "address replace fd08:1::1/64 dev eth0")
		a.ready("eth0")
		works("up again")
		a.ip("link delete eth0")
		fails("deleted")
		link()
		works("made again")
	}
}

// TestQueueIsFull sends faster than the interface: the kernel says ENOBUFS,
// which Write returns when it has not passed in a moment, with and without
// HandleUndelivered.
func TestQueueIsFull(t *testing.T) {
	needPrograms(t, "iproute2", "tc")
	hs := hosts(t, "a", "b")
	a, b := hs[0], hs[1]
	join(a, "eth0", []string{"10.8.1.1/24"}, b, "eth0", []string{"10.8.1.2/24"})
	p := b.bare("10.8.1.2:0")
	a.run("tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", "8kbit", "burst", "2000", "limit", "3000")
	var c *udp.Conn
	for _, h := range []udp.Handler{nil, record()} {
		c = a.listen(udp.ListenConfig{}, ":0", h)
		failed := 0
		for range 8 {
			_, err := c.WriteTo([]byte(text(1000)), p.addr)
			if err != nil {
				failed++
				checkOpError(t, err)
				if !errors.Is(err, syscall.ENOBUFS) {
					t.Error(err)
				}
			}
		}
		if s := c.Stats(); failed == 0 || s.WriteErrors != uint64(failed) || s.Undelivered != 0 {
			t.Errorf("%d fail, %+v", failed, s)
		}
	}
	a.run("tc", "qdisc", "del", "dev", "eth0", "root")
	check(t, second(c.WriteTo([]byte("last"), p.addr)))
	for payload := ""; payload != "last"; {
		payload, _ = p.receive(t)
	}
}
