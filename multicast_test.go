package udp_test

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"example.com/udp"
)

// multicastScenarios are for setups with groups.
var multicastScenarios = []scenario{
	{"PingPong", testPingPong},
	{"SharedPort", testSharedPort},
	{"JoinAnyConn", testJoinAnyConn},
	{"LeaveWhileQueued", testLeaveWhileQueued},
	{"Isolation", testIsolation},
	{"ReplyToGroup", testReplyToGroup},
	{"SendByInterface", testSendByInterface},
	{"Source", testSource},
	{"Block", testBlock},
	{"MembershipErrors", testMembershipErrors},
	{"TTL", testTTL},
}

// TestMulticast runs on IPv4 only: groups of IPv6 have no route over lo.
func TestMulticast(t *testing.T) {
	setups := slices.DeleteFunc(kernelSetups(), func(n setup) bool { return !n.wildcard() || n.host.Is6() })
	runScenarios(t, multicastScenarios, setups)
}

// testPingPong is the howto's: the server answers the group's ping to the
// client alone.
func testPingPong(t *testing.T, n setup) {
	server := n.multicast(t, n.bind, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		if _, err := c.WriteTo([]byte("Server: Pong"), d.Addr); err != nil {
			t.Error(err)
		}
	}), n.any(1))
	check(t, server.SetMulticastTTL(5))
	r := record()
	client := n.sender(t, r)
	check(t, second(client.WriteTo([]byte("Client: Ping"), n.toGroup(1, server))))
	if d := wait(t, r.datagrams); string(d.Payload) != "Server: Pong" || d.Addr.Port() != server.LocalAddr().Port() {
		t.Errorf("got %+v", d)
	}
}

// testSharedPort listens twice on one port: both get what is sent to the
// group, with the group in Local.
func testSharedPort(t *testing.T, n setup) {
	a, b := record(), record()
	first := n.multicast(t, n.bind, a, n.any(1))
	second := n.multicast(t, n.at(first.LocalAddr().Port()), b, n.any(1))
	if first.LocalAddr().Port() != second.LocalAddr().Port() {
		t.Fatalf("%v and %v do not share a port", first, second)
	}
	from := n.sender(t, nil)
	write(t, from, n.toGroup(1, first), "all")
	for _, r := range []*recorder{a, b} {
		d := wait(t, r.datagrams)
		if string(d.Payload) != "all" || d.Addr != n.reach(from) || d.Local != n.group(1) || d.Interface != n.ifi.Index {
			t.Errorf("got %+v", d)
		}
	}
}

// testJoinAnyConn joins on a socket of Listen, later, and leaves.
func testJoinAnyConn(t *testing.T, n setup) {
	r := record()
	c := n.listen(t, r)
	from := n.sender(t, nil)
	if got := c.Groups(); len(got) != 0 {
		t.Errorf("Groups of a new socket is %v", got)
	}
	for range 3 {
		write(t, from, n.toGroup(1, c), "not yet")
		check(t, c.Join(n.any(1)))
		check(t, c.Join(n.any(2)))
		checkGroups(t, c, n.any(1), n.any(2))
		write(t, from, n.toGroup(1, c), "now")
		r.expect(t, "now", n.reach(from))
		check(t, c.Leave(n.any(1)))
		checkGroups(t, c, n.any(2))
		write(t, from, n.toGroup(1, c), "no more")
		write(t, from, n.toGroup(2, c), "other")
		r.expect(t, "other", n.reach(from))
		check(t, c.Leave(n.any(2)))
		checkGroups(t, c)
	}
}

// testLeaveWhileQueued leaves a group whose datagrams wait in the socket: they
// are not delivered.
func testLeaveWhileQueued(t *testing.T, n setup) {
	entered, open := make(chan struct{}), make(chan struct{})
	r := record()
	first := true
	c := n.multicast(t, n.bind, funcs{datagram: func(c *udp.Conn, d udp.Datagram) {
		if first {
			first = false
			close(entered)
			<-open
			return
		}
		r.HandleDatagram(c, d)
	}}, n.any(1), n.any(2))
	from := n.sender(t, nil)
	write(t, from, n.toGroup(1, c), "block")
	wait(t, entered)
	for range 10 {
		write(t, from, n.toGroup(1, c), "too late")
	}
	check(t, c.Leave(n.any(1)))
	write(t, from, n.toGroup(2, c), "hello")
	close(open)
	r.expect(t, "hello", n.reach(from))
	if got := c.Stats().Discarded; got != 10 {
		t.Errorf("Stats.Discarded is %d, want 10", got)
	}
}

// testIsolation has two sockets on one port in different groups, and a third
// in none: each gets its own.
func testIsolation(t *testing.T, n setup) {
	a, b, none := record(), record(), record()
	inA := n.multicast(t, n.bind, a, n.any(1))
	inB := n.multicast(t, n.at(inA.LocalAddr().Port()), b, n.any(2))
	inNone := n.multicast(t, n.at(inA.LocalAddr().Port()), none)
	from := n.sender(t, nil)
	for range 3 {
		write(t, from, n.toGroup(1, inA), "to A")
		write(t, from, n.toGroup(2, inA), "to B")
	}
	for range 3 {
		a.expect(t, "to A", n.reach(from))
		b.expect(t, "to B", n.reach(from))
	}
	for _, c := range []*udp.Conn{inA, inB, inNone} {
		shutdown(t, c)
	}
	if len(a.datagrams)+len(b.datagrams)+len(none.datagrams) != 0 {
		t.Errorf("%d, %d and %d datagrams too many", len(a.datagrams), len(b.datagrams), len(none.datagrams))
	}
}

// testReplyToGroup answers a group's datagram: from the interface's address,
// not from the group's. Other answers leave as ever.
func testReplyToGroup(t *testing.T, n setup) {
	c := n.multicast(t, n.bind, echo(t), n.any(1))
	r := record()
	asker := n.sender(t, r)
	write(t, asker, n.toGroup(1, c), "to the group")
	r.expect(t, "to the group", n.reach(c))
	write(t, asker, n.reach(c), "directly")
	r.expect(t, "directly", n.reach(c))
}

// testSendByInterface names the interface in the datagram, on a socket that
// has none set.
func testSendByInterface(t *testing.T, n setup) {
	r := record()
	c := n.multicast(t, n.bind, r, n.any(1))
	from := n.listenAt(t, netip.AddrPortFrom(n.host, 0).String(), nil)
	ds := batch(n.toGroup(1, c), "one", "two", "three")
	for i := range ds {
		ds[i].Interface = n.ifi.Index
	}
	if size, err := from.WriteBatch(ds); size != 3 || err != nil {
		t.Fatal(size, err)
	}
	for _, payload := range []string{"one", "two", "three"} {
		r.expect(t, payload, n.reach(from))
	}
}

// testSource joins for one source: what another sends is not delivered.
func testSource(t *testing.T, n setup) {
	one, two := n.senderAt(t, n.hosts()[0]), n.senderAt(t, n.hosts()[1])
	r := record()
	c := n.multicast(t, n.bind, r)
	from := func(host netip.Addr) udp.Group { return udp.Group{Addr: n.group(1), Source: host, Interface: n.ifi} }
	addr1, addr2 := one.LocalAddr(), two.LocalAddr()
	both := func(payload string) {
		write(t, two, n.toGroup(1, c), payload)
		write(t, one, n.toGroup(1, c), payload)
	}

	check(t, c.Join(from(addr1.Addr())))
	checkGroups(t, c, from(addr1.Addr()))
	both("only one")
	r.expect(t, "only one", addr1)

	check(t, c.Join(from(addr2.Addr())))
	checkGroups(t, c, from(addr1.Addr()), from(addr2.Addr()))
	both("both")
	r.expect(t, "both", addr2)
	r.expect(t, "both", addr1)

	check(t, c.Leave(from(addr1.Addr())))
	both("only two")
	r.expect(t, "only two", addr2)
	check(t, c.Leave(from(addr2.Addr())))
	both("nobody")
	shutdown(t, c)
	if len(r.datagrams) != 0 {
		t.Errorf("%d datagrams too many", len(r.datagrams))
	}
}

// testBlock blocks one source of a group that is joined for all.
func testBlock(t *testing.T, n setup) {
	one, two := n.senderAt(t, n.hosts()[0]), n.senderAt(t, n.hosts()[1])
	r := record()
	c := n.multicast(t, n.bind, r, n.any(1))
	blocked := udp.Group{Addr: n.group(1), Source: two.LocalAddr().Addr(), Interface: n.ifi}
	for range 2 {
		check(t, c.Block(blocked))
		write(t, two, n.toGroup(1, c), "blocked")
		write(t, one, n.toGroup(1, c), "hello")
		r.expect(t, "hello", one.LocalAddr())
		check(t, c.Unblock(blocked))
		write(t, two, n.toGroup(1, c), "free")
		r.expect(t, "free", two.LocalAddr())
	}
	checkGroups(t, c, n.any(1))
}

func testMembershipErrors(t *testing.T, n setup) {
	c := n.listen(t, nil)
	check(t, c.Join(n.any(1)))
	other := udp.Group{Addr: n.group(2), Source: n.host, Interface: n.ifi}
	joined := udp.Group{Addr: n.group(1), Source: n.host, Interface: n.ifi}
	for name, err := range map[string]error{
		"no group":                    c.Join(udp.Group{Addr: n.host, Interface: n.ifi}),
		"nothing":                     c.Join(udp.Group{Interface: n.ifi}),
		"no such interface":           c.Join(udp.Group{Addr: n.group(2), Interface: &net.Interface{Index: 99999, Name: "none"}}),
		"a group as source":           c.Join(udp.Group{Addr: n.group(2), Source: n.group(3), Interface: n.ifi}),
		"again":                       c.Join(n.any(1)),
		"leave, not joined":           c.Leave(n.any(2)),
		"leave, not for this source":  c.Leave(other),
		"leave, no group":             c.Leave(udp.Group{Addr: n.host, Interface: n.ifi}),
		"block, not joined":           c.Block(other),
		"block, no source":            c.Block(n.any(1)),
		"unblock, not blocked":        c.Unblock(joined),
		"unblock, no source":          c.Unblock(n.any(1)),
		"JoinAll of nothing":          c.JoinAll(netip.Addr{}),
		"JoinAll of no group":         c.JoinAll(n.host),
		"source of the other family":  c.Join(udp.Group{Addr: n.group(2), Source: otherFamily(n.host), Interface: n.ifi}),
		"SetMulticastInterface: none": c.SetMulticastInterface(&net.Interface{Index: 99999, Name: "none"}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		checkOpError(t, err)
	}
	if err := c.Join(n.any(1)); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second Join returns %v", err)
	}
	if err := c.Leave(n.any(2)); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("Leave of what was not joined returns %v", err)
	}
	checkGroups(t, c, n.any(1))
}

// testTTL sends with the TTL that is set, and checks the defaults.
func testTTL(t *testing.T, n setup) {
	c := n.listen(t, nil)
	if ttl, err := c.MulticastTTL(); ttl != 1 || err != nil {
		t.Errorf("the TTL is %d, %v, want 1", ttl, err)
	}
	if on, err := c.MulticastLoopback(); !on || err != nil {
		t.Errorf("the loopback is %v, %v, want on", on, err)
	}
	if ifi, err := c.MulticastInterface(); ifi != nil || err != nil {
		t.Errorf("the interface is %v, %v, want the system's choice", ifi, err)
	}
	for _, ttl := range []int{0, 5, 255} {
		check(t, c.SetMulticastTTL(ttl))
		if got, err := c.MulticastTTL(); got != ttl || err != nil {
			t.Errorf("the TTL is %d, %v, want %d", got, err, ttl)
		}
	}
	for _, ttl := range []int{-1, 256, 300} {
		err := c.SetMulticastTTL(ttl)
		checkOpError(t, err)
		if got, _ := c.MulticastTTL(); got != 255 {
			t.Errorf("after a failure to set %d, the TTL is %d", ttl, got)
		}
	}
	for _, on := range []bool{false, true} {
		check(t, c.SetMulticastLoopback(on))
		if got, err := c.MulticastLoopback(); got != on || err != nil {
			t.Errorf("the loopback is %v, %v, want %v", got, err, on)
		}
	}
	for _, want := range []*net.Interface{n.ifi, nil} {
		check(t, c.SetMulticastInterface(want))
		got, err := c.MulticastInterface()
		if err != nil || (got == nil) != (want == nil) || got != nil && got.Index != want.Index {
			t.Errorf("the interface is %v, %v, want %v", got, err, want)
		}
	}
	if !n.kernel {
		return
	}
	r := record()
	to := n.multicast(t, n.bind, r, n.any(1))
	from := n.sender(t, nil)
	for _, ttl := range []int{1, 5} {
		check(t, from.SetMulticastTTL(ttl))
		write(t, from, n.toGroup(1, to), "x")
		if d := wait(t, r.datagrams); d.TTL != ttl {
			t.Errorf("sent with TTL %d, it arrives with %d", ttl, d.TTL)
		}
	}
}

// TestMulticastOptions6 sets and reads the options of sockets that have IPv6.
func TestMulticastOptions6(t *testing.T) {
	needIPv6(t)
	for _, family := range []string{"udp", "udp6"} {
		n := setup{config: udp.ListenConfig{Network: family}, bind: ":0", host: loopback6, ifi: loopback()}
		t.Run(family, func(t *testing.T) { testTTL(t, n) })
	}
}

// TestMemberships reads the kernel's own lists: joining, leaving and closing
// show there, on the interface that was named.
func TestMemberships(t *testing.T) {
	four := setup{bind: ":0", host: loopback4, ifi: loopback(), config: udp.ListenConfig{Network: "udp4"}}
	dual := setup{bind: ":0", host: loopback4, ifi: loopback()}
	six := setup{bind: ":0", host: loopback6, ifi: loopback(), config: udp.ListenConfig{Network: "udp6"}}
	for _, n := range []setup{four, dual, six} {
		if n.host.Is6() && !hasIPv6() {
			continue
		}
		group := n.group(9)
		joined := func() bool { return slices.Contains(memberships(t, n.ifi.Name), group) }
		if joined() {
			t.Fatalf("something else is in %v on %s", group, n.ifi.Name)
		}
		c := n.multicast(t, n.bind, nil)
		for range 2 {
			check(t, c.Join(n.any(9)))
			if !joined() {
				t.Errorf("after Join, %v is not in %v", c, group)
			}
			check(t, c.Leave(n.any(9)))
			if joined() {
				t.Errorf("after Leave, %v is in %v", c, group)
			}
		}
		check(t, c.Join(n.any(9)))
		c.Close()
		c.Wait()
		if joined() {
			t.Errorf("after Close, %v is in %v", c, group)
		}
	}
}

// TestZoneNamesInterface joins a group whose zone is the interface.
func TestZoneNamesInterface(t *testing.T) {
	needIPv6(t)
	ifi := loopback()
	group := netip.MustParseAddr("ff02::77:1")
	for _, zone := range []string{ifi.Name, strconv.Itoa(ifi.Index)} {
		c := setup{bind: "[::]:0"}.listen(t, nil)
		check(t, c.Join(udp.Group{Addr: group.WithZone(zone)}))
		if !slices.Contains(memberships(t, ifi.Name), group) {
			t.Errorf("%v%%%s is not joined on %s", group, zone, ifi.Name)
		}
		if got := c.Groups(); len(got) != 1 || got[0].Interface == nil || got[0].Interface.Index != ifi.Index {
			t.Errorf("Groups is %v", got)
		}
		check(t, c.Leave(udp.Group{Addr: group.WithZone(zone)}))
		checkGroups(t, c)
	}
	c := setup{bind: "[::]:0"}.listen(t, nil)
	checkOpError(t, c.Join(udp.Group{Addr: group.WithZone("nosuchzone")}))
	checkGroups(t, c)
}

// TestMembershipLimit joins one group more than a socket may.
func TestMembershipLimit(t *testing.T) {
	const sysctl = "igmp_max_memberships"
	text, err := os.ReadFile("/proc/sys/net/ipv4/" + sysctl)
	if err != nil {
		t.Skipf("%v: try Linux", err)
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	check(t, err)
	if limit > 200 {
		t.Skipf("the limit is %d: try sysctl net.ipv4.%s=20", limit, sysctl)
	}
	n := setup{bind: ":0", host: loopback4, ifi: loopback()}
	c := n.listen(t, nil)
	for i := range limit {
		check(t, c.Join(n.any(i)))
	}
	err = c.Join(n.any(limit))
	if !errors.Is(err, syscall.ENOBUFS) || !strings.Contains(fmt.Sprint(err), sysctl) {
		t.Errorf("joining %d groups returns %v", limit+1, err)
	}
	checkOpError(t, err)
	if got := len(c.Groups()); got != limit {
		t.Errorf("Groups has %d", got)
	}
	check(t, c.Leave(n.any(0)))
	check(t, c.Join(n.any(limit)))
}

func TestListenMulticastFails(t *testing.T) {
	n := setup{host: loopback4, ifi: loopback(), config: udp.ListenConfig{Network: "udp4"}}
	taken := setup{bind: ":0", host: loopback4, config: n.config}.listen(t, nil)
	bad := udp.Group{Addr: loopback4}
	for _, test := range []struct {
		name, address string
		groups        []udp.Group
	}{
		{"no address", "", nil},
		{"port", ":70000", nil},
		{"no group", ":0", []udp.Group{n.any(1), bad}},
		{"the zero Group", ":0", []udp.Group{{}}},
		{"twice", ":0", []udp.Group{n.any(1), n.any(1)}},
		{"other family", ":0", []udp.Group{{Addr: netip.MustParseAddr("ff02::1"), Interface: n.ifi}}},
		{"not shared", taken.LocalAddr().String(), nil},
	} {
		c, err := n.config.ListenMulticast(t.Context(), test.address, startMustNotRun(t), test.groups...)
		if c != nil || err == nil {
			t.Errorf("%s: %v, %v", test.name, c, err)
			continue
		}
		checkOpError(t, err)
	}
	if slices.Contains(memberships(t, n.ifi.Name), n.group(1)) {
		t.Errorf("%v is still joined", n.group(1))
	}
}

func TestGroupString(t *testing.T) {
	g := udp.Group{
		Addr:      netip.MustParseAddr("232.1.2.3"),
		Source:    netip.MustParseAddr("192.0.2.1"),
		Interface: &net.Interface{Index: 7, Name: "eth7"},
	}
	for _, part := range []string{"232.1.2.3", "192.0.2.1", "eth7"} {
		if !strings.Contains(g.String(), part) {
			t.Errorf("%q does not name %s", g, part)
		}
	}
	if got := (udp.Group{Addr: g.Addr}).String(); got != "232.1.2.3" {
		t.Errorf("without more, it is %q", got)
	}
	_ = udp.Group{}.String()
}

// group returns the i-th of the groups that the tests use.
func (n setup) group(i int) netip.Addr {
	if n.host.Is4() {
		return netip.AddrFrom4([4]byte{239, 255, 77, byte(i)})
	}
	return netip.MustParseAddr(fmt.Sprintf("ff15::77:%x", i))
}

// any returns the membership in the i-th group, for any source.
func (n setup) any(i int) udp.Group {
	return udp.Group{Addr: n.group(i), Interface: n.ifi}
}

// toGroup returns the i-th group, at the port of c.
func (n setup) toGroup(i int, c *udp.Conn) netip.AddrPort {
	return netip.AddrPortFrom(n.group(i), c.LocalAddr().Port())
}

func (n setup) multicast(t *testing.T, address string, h udp.Handler, groups ...udp.Group) *udp.Conn {
	t.Helper()
	c, err := n.config.ListenMulticast(t.Context(), address, h, groups...)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, c)
	return c
}

// sender opens a Conn that sends to groups by the interface of n.
func (n setup) sender(t *testing.T, h udp.Handler) *udp.Conn {
	t.Helper()
	c := n.listenAt(t, netip.AddrPortFrom(n.host, 0).String(), h)
	check(t, c.SetMulticastInterface(n.ifi))
	return c
}

func (n setup) senderAt(t *testing.T, host netip.Addr) *udp.Conn {
	t.Helper()
	n.host = host
	return n.sender(t, nil)
}

func write(t *testing.T, c *udp.Conn, to netip.AddrPort, payload string) {
	t.Helper()
	check(t, second(c.WriteTo([]byte(payload), to)))
}

func checkGroups(t *testing.T, c *udp.Conn, want ...udp.Group) {
	t.Helper()
	names := func(groups []udp.Group) []string {
		all := []string{}
		for _, g := range groups {
			name := ""
			if g.Interface != nil {
				name = g.Interface.Name
			}
			all = append(all, fmt.Sprintf("%v from %v on %q", g.Addr, g.Source, name))
		}
		slices.Sort(all)
		return all
	}
	if got, want := names(c.Groups()), names(want); !slices.Equal(got, want) {
		t.Errorf("Groups is %q, want %q", got, want)
	}
}

func otherFamily(host netip.Addr) netip.Addr {
	if host.Is4() {
		return loopback6
	}
	return loopback4
}

// memberships returns the groups of an interface, in the kernel's words.
func memberships(t *testing.T, ifi string) []netip.Addr {
	t.Helper()
	igmp, err := os.ReadFile("/proc/net/igmp")
	if err != nil {
		t.Skipf("%v: try Linux", err)
	}
	var all []netip.Addr
	name := ""
	for line := range strings.Lines(string(igmp)) {
		f := strings.Fields(line)
		if !strings.HasPrefix(line, "\t") { // "1	lo        :     1      V3"
			name = f[1]
		} else if name == ifi { // "				010000E0     1 0:00000000		0", the bytes in the host's order
			bits, err := strconv.ParseUint(f[0], 16, 32)
			check(t, err)
			var addr [4]byte
			binary.NativeEndian.PutUint32(addr[:], uint32(bits))
			all = append(all, netip.AddrFrom4(addr))
		}
	}
	igmp6, _ := os.ReadFile("/proc/net/igmp6") // Missing where there is no IPv6.
	for line := range strings.Lines(string(igmp6)) {
		// "1    lo              ff020000000000000000000000000001     1 0000000C 0"
		f := strings.Fields(line)
		if f[1] != ifi {
			continue
		}
		addr, err := hex.DecodeString(f[2])
		check(t, err)
		all = append(all, netip.AddrFrom16([16]byte(addr)))
	}
	return all
}
