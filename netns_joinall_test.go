//go:build linux

package udp_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/udp"
)

// TestJoinAllFollows needs root and ip(8): it makes two network namespaces.
// One host has joined a group on all interfaces while they come, go, and come
// back; the other sends by each of them.
func TestJoinAllFollows(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ network, group string }{
		{"udp4", "239.1.2.3"},
		{"udp", "239.1.2.3"},
		{"udp6", "ff12::123"},
		{"udp", "ff12::123"},
	} {
		t.Run(test.network+" "+test.group, func(t *testing.T) {
			t.Parallel()
			f := newFollowed(t, test.network, test.group)

			f.c.must("joinAll", f.group)
			f.holds("eth0")
			f.receives("eth0")
			if err := f.c.on("joinAll", f.group); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("a second JoinAll: %v, want EADDRINUSE", err)
			}

			f.add("eth1")
			f.joined("eth1")
			f.holds("eth0", "eth1")
			f.receives("eth1")

			f.a.ip("link set eth1 down")
			f.left("eth1")
			f.holds("eth0")
			f.a.ip("link set eth1 up")
			f.joined("eth1")
			f.a.ready("eth1")
			f.receives("eth1")

			f.a.ip("link delete eth1")
			f.left("eth1")
			f.holds("eth0")

			// With a limit of three, a stale membership would be in the way.
			for range 3 {
				f.add("eth1")
				f.joined("eth1")
				f.receives("eth1")
				f.a.ip("link delete eth1") // and at once again under the same name
			}
			f.add("eth1")
			f.joined("eth1")
			f.receives("eth1")
			f.receives("eth0")
			f.holds("eth0", "eth1")

			f.c.must("leave", f.group)
			f.holds()
			if f.a.member("eth0", f.group) || f.a.member("eth1", f.group) {
				t.Error("the kernel still has memberships after Leave")
			}
			if err := f.c.on("leave", f.group); !errors.Is(err, syscall.EADDRNOTAVAIL) {
				t.Errorf("a second Leave: %v, want EADDRNOTAVAIL", err)
			}
		})
	}
}

// TestJoinAllLimit needs root and ip(8). A host has more interfaces than a
// socket may have memberships.
func TestJoinAllLimit(t *testing.T) {
	t.Parallel()
	f := newFollowed(t, "udp4", "239.1.2.3") // three memberships
	f.add("eth1")
	f.add("eth2")
	for i := range 3 { // without an address
		f.a.ip(fmt.Sprintf("link add port%d up type veth peer name end%d", i, i), fmt.Sprintf("link set end%d up", i))
	}
	f.c.must("joinAll", f.group)
	f.holds("eth0", "eth1", "eth2")
	f.c.log(patience, "cannot join", "port", "igmp_max_memberships")

	// Those without an address make way, whichever comes first.
	f.c.must("leave", f.group)
	f.a.ip("link delete eth2")
	f.c.must("joinAll", f.group)
	if got := f.c.groups(); len(got) != 3 {
		t.Errorf("Groups are %v, want eth0, eth1 and one more", got)
	}
	f.add("eth2")
	f.joined("eth2")
	f.holds("eth0", "eth1", "eth2")
	f.a.ip("link delete eth2")
	f.left("eth2")

	// A first address, of which nothing but its own notice tells.
	f.c.log(patience, "udp: joined")
	port := "port0"
	if slices.Contains(f.c.groups(), f.group+"%"+port) {
		port = "port1"
	}
	f.a.ip("address add 10.9.0.1/24 dev " + port)
	f.joined(port)
	f.holds("eth0", "eth1", port)
	f.a.ip("link delete " + port)

	f.c.must("leave", f.group)
	f.add("eth2")
	f.add("eth3")
	err := f.c.on("joinAll", f.group)
	if !errors.Is(err, syscall.ENOBUFS) || !strings.Contains(err.Error(), "igmp_max_memberships") {
		t.Errorf("JoinAll on four interfaces with room for three: %v, want ENOBUFS and the limit's name", err)
	}
	f.holds()
	if f.a.member("eth0", f.group) {
		t.Error("a failed JoinAll leaves a membership behind")
	}

	for i := range 3 {
		f.c.must("join", fmt.Sprintf("239.1.3.%d%%eth0", i))
	}
	err = f.c.on("join", "239.1.3.3%eth0")
	if !errors.Is(err, syscall.ENOBUFS) || !strings.Contains(err.Error(), "igmp_max_memberships") {
		t.Errorf("one Join too many: %v, want ENOBUFS and the limit's name", err)
	}
}

// TestJoinAllChanges needs root and ip(8): what else there is to JoinAll.
func TestJoinAllChanges(t *testing.T) {
	t.Parallel()
	f := newFollowed(t, "udp4", "239.1.2.3")
	f.a.sysctl("net/ipv4/igmp_max_memberships=20")
	f.c.must("joinAll", f.group)
	f.c.log(patience, "udp: joined", "eth0")

	// An interface that comes up before it has an address.
	f.a.ip("link add eth1 type veth peer name eth1 netns "+f.b.name, "link set eth1 up")
	f.b.up("eth1", "10.2.0.2/24")
	f.joined("eth1")
	f.a.up("eth1", "10.2.0.1/24")
	f.a.ready("eth1")
	f.b.ready("eth1")
	f.receives("eth1")

	// One that gets another name.
	f.a.ip("link set eth1 down", "link set eth1 name wan", "link set wan up")
	for end := time.Now().Add(patience); !slices.Contains(f.c.groups(), f.group+"%wan") && time.Now().Before(end); {
	}
	f.holds("eth0", "wan")

	// Blocked everywhere, also where it is joined later.
	f.c.must("block", f.group+"<10.3.0.2")
	if err := f.c.on("block", f.group+"<10.3.0.2"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("blocked twice: %v, want EADDRINUSE", err)
	}
	join(f.a, "eth2", []string{"10.3.0.1/24"}, f.b, "eth2", []string{"10.3.0.2/24"})
	f.joined("eth2")
	sender := f.peer.listen("udp4", ":0", "")
	sender.write(udp.Datagram{
		Payload:   []byte("blocked"),
		Addr:      netip.AddrPortFrom(netip.MustParseAddr(f.group), f.c.port),
		Interface: f.b.index("eth2"),
	})
	f.receives("eth0")
	f.c.must("unblock", f.group+"<10.3.0.2")
	f.receives("eth2")

	// Left on one interface, as long as that exists.
	f.c.must("leave", f.group+"%eth2")
	f.a.ip("link set eth0 down")
	f.left("eth0")
	f.a.ip("link set eth0 up")
	f.joined("eth0")
	f.holds("eth0", "wan")
	f.a.ip("link delete eth2")
	f.add("eth2")
	f.joined("eth2")

	// Joined by name before: JoinAll takes it as it is.
	f.c.must("join", "239.9.9.9%eth0")
	f.c.must("joinAll", "239.9.9.9")
	f.c.must("leave", "239.9.9.9")
	if got := f.c.groups(); !slices.Contains(got, "239.9.9.9%eth0") || len(got) != 4 {
		t.Errorf("Groups are %v, want those of the first group and 239.9.9.9%%eth0", got)
	}

	// A burst of changes is one.
	var burst []string
	for i := range 10 {
		burst = append(burst, fmt.Sprintf("link add v%d up type veth peer name w%d", i, i), fmt.Sprintf("link set v%d down", i), fmt.Sprintf("link set v%d up", i))
	}
	f.a.ip(burst...)
	for i := range 10 {
		if line := f.c.log(patience, fmt.Sprintf("on v%d", i)); !strings.Contains(line, "udp: joined") {
			t.Errorf("in a burst: %s, want one line: joined", line)
		}
	}
}

// TestJoinAllEnds needs root and ip(8). What watches the interfaces is there
// from the first JoinAll on, and goes with the Conn.
func TestJoinAllEnds(t *testing.T) {
	t.Parallel()
	f := newFollowed(t, "udp4", "239.1.2.3")
	f.c.must("join", "239.1.2.4%eth0")
	before := f.c.p.do(message{Op: "resources"})
	if strings.Contains(before.Text, "watchInterfaces") {
		t.Errorf("something watches the interfaces before JoinAll:\n%s", before.Text)
	}
	other := f.c.p.listen("udp4", ":0", "")
	other.must("joinAll", f.group)
	during := f.c.p.do(message{Op: "resources"})
	if !strings.Contains(during.Text, "watchInterfaces") {
		t.Errorf("nothing watches the interfaces after JoinAll:\n%s", during.Text)
	}
	other.do(message{Op: "close"})
	var after message // a goroutine is still there when it has said that it ends
	eventually(t, "nothing watches the interfaces after Wait", func() bool {
		after = f.c.p.do(message{Op: "resources"})
		return !strings.Contains(after.Text, "watchInterfaces")
	})
	if after.Int != before.Int {
		t.Errorf("%d descriptors before JoinAll, %d after Wait", before.Int, after.Int)
	}
	if got := other.groups(); len(got) != 0 {
		t.Errorf("a closed Conn has the groups %v", got)
	}
	if err := other.on("joinAll", f.group); !strings.Contains(fmt.Sprint(err), "use of closed") {
		t.Errorf("JoinAll after Close: %v, want net.ErrClosed", err)
	}
}

// TestJoinAllInOtherNamespace needs root and ip(8). A Conn is in another network
// namespace than the goroutine that calls JoinAll, Groups and Join.
func TestJoinAllInOtherNamespace(t *testing.T) {
	t.Parallel()
	hs := hosts(t, "a", "b", "pads")
	a, b := hs[0], hs[1]
	for i := range 5 { // for indexes that this namespace may have for other interfaces
		join(a, fmt.Sprintf("pad%d", i), nil, hs[2], fmt.Sprintf("pad%d", i), nil)
	}
	for i := range 5 {
		a.ip(fmt.Sprintf("link set pad%d down", i))
	}
	join(a, "eth0", []string{"10.1.0.1/24"}, b, "eth0", []string{"10.1.0.2/24"})
	const group = "239.1.2.3"
	told := make(chan string, 10)
	c := a.listen(udp.ListenConfig{Network: "udp4"}, ":0", groupFuncs{groups: func(joined, left []udp.Group) {
		told <- fmt.Sprint("joined ", joined, " left ", left)
	}})
	expect := func(want string) {
		t.Helper()
		if got := wait(t, told); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	check(t, c.JoinAll(netip.MustParseAddr(group)))
	expect("joined [239.1.2.3 on eth0] left []")
	join(a, "eth1", []string{"10.2.0.1/24"}, b, "eth1", []string{"10.2.0.2/24"})
	expect("joined [239.1.2.3 on eth1] left []")
	if !a.member("eth0", group) || !a.member("eth1", group) {
		t.Error("no member")
	}
	if got, want := fmt.Sprint(c.Groups()), "[239.1.2.3 on eth0 239.1.2.3 on eth1]"; got != want {
		t.Errorf("Groups are %s, want %s", got, want)
	}
	a.ip("link delete eth1")
	expect("joined [] left [239.1.2.3 on eth1]")

	// The one that the system chooses, and one by zone.
	a.ip("route replace 239.0.0.0/8 dev eth0")
	check(t, c.Join(udp.Group{Addr: netip.MustParseAddr("239.1.2.4")}))
	if got, want := fmt.Sprint(c.Groups()), "[239.1.2.3 on eth0 239.1.2.4]"; got != want {
		t.Errorf("Groups are %s, want %s", got, want)
	}
	a.ip("link delete eth0")
	expect("joined [] left [239.1.2.3 on eth0]")
	if got := fmt.Sprint(c.Groups()); got != "[]" {
		t.Errorf("Groups are %s without interfaces", got)
	}

	// The index of an interface that Leave named goes to another one.
	a.ip("link add eth2 index 4711 type veth peer name eth2 netns "+b.name, "link set eth2 up")
	expect("joined [239.1.2.3 on eth2] left []")
	check(t, c.Leave(udp.Group{Addr: netip.MustParseAddr(group), Interface: &net.Interface{Index: 4711}}))
	a.ip("link delete eth2", "link add eth3 index 4711 type veth peer name eth3 netns "+b.name, "link set eth3 up")
	expect("joined [239.1.2.3 on eth3] left []")
	if !a.member("eth3", group) {
		t.Error("no member on eth3")
	}
	// At once, between two looks at the interfaces.
	a.ip("link delete eth3", "link add eth3 index 4711 type veth peer name eth3 netns "+b.name, "link set eth3 up")
	expect("joined [239.1.2.3 on eth3] left [239.1.2.3 on eth3]")
	if !a.member("eth3", group) {
		t.Error("no member on the next eth3")
	}
}

// groupFuncs is a GroupHandler.
type groupFuncs struct {
	funcs
	groups func(joined, left []udp.Group)
}

func (f groupFuncs) HandleGroups(_ *udp.Conn, joined, left []udp.Group) { f.groups(joined, left) }

// followed is a host a with a Conn that has joined a group on all interfaces,
// and a host b that sends to it.
type followed struct {
	t      *testing.T
	a, b   *host
	c      *remote
	peer   *peer // in b
	group  string
	subnet int
	sent   int
}

func newFollowed(t *testing.T, network, group string) *followed {
	t.Helper()
	hs := hosts(t, "a", "b")
	f := &followed{t: t, a: hs[0], b: hs[1], group: group}
	f.a.sysctl("net/ipv4/igmp_max_memberships=3")
	f.add("eth0")
	f.c = f.a.peer().listen(network, ":0", "")
	f.peer = f.b.peer()
	return f
}

// add makes an interface of the host a, with an address of its own and the
// same name in b.
func (f *followed) add(ifname string) {
	f.t.Helper()
	f.subnet++
	join(f.a, ifname, []string{fmt.Sprintf("10.1.%d.1/24", f.subnet)}, f.b, ifname, []string{fmt.Sprintf("10.1.%d.2/24", f.subnet)})
}

func (f *followed) joined(ifname string) {
	f.t.Helper()
	f.c.log(patience, "udp: joined", f.group+" on "+ifname)
	if !f.a.member(ifname, f.group) {
		f.t.Errorf("the kernel has no membership on %s", ifname)
	}
}

func (f *followed) left(ifname string) {
	f.t.Helper()
	f.c.log(patience, "udp: left", f.group+" on "+ifname)
}

// holds checks what Groups returns.
func (f *followed) holds(ifnames ...string) {
	f.t.Helper()
	var want []string
	for _, ifname := range ifnames {
		want = append(want, f.group+"%"+ifname)
	}
	got := f.c.groups()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		f.t.Errorf("Groups are %v, want %v", got, want)
	}
}

// receives checks that what b sends by an interface arrives.
func (f *followed) receives(ifname string) {
	f.t.Helper()
	network := "udp6"
	if strings.Contains(f.group, ".") {
		network = "udp4"
	}
	sender := f.peer.listen(network, ":0", "")
	f.sent++
	payload := fmt.Sprintf("number %d by %s", f.sent, ifname)
	sender.write(udp.Datagram{
		Payload:   []byte(payload),
		Addr:      netip.AddrPortFrom(netip.MustParseAddr(f.group), f.c.port),
		Interface: f.b.index(ifname),
	})
	d := f.c.next(payload)
	if want := f.a.index(ifname); d.Interface != want {
		f.t.Errorf("it came in by %d, want %d", d.Interface, want)
	}
}
