package udp_test

import (
	"errors"
	"net"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"example.com/udp"
)

var optionScenarios = []scenario{
	{"TTL", testUnicastTTL},
	{"TTLBadInput", testUnicastTTLBadInput},
	{"TrafficClass", testTrafficClass},
	{"TrafficClassUnread", testTrafficClassUnread},
	{"TrafficClassOfSocket", testTrafficClassOfSocket},
	{"ReadTime", testReadTime},
	{"PathMTU", testPathMTU},
	{"DontFragment", testDontFragment},
	{"Queued", testQueued},
	{"OptionsAfterClose", testOptionsAfterClose},
}

// TestOptions runs on the kernel and on a MemNet what is set for a socket, and
// comes with its datagrams.
func TestOptions(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("what other systems have has been read, not run: try Linux")
	}
	runScenarios(t, optionScenarios, slices.Concat(kernelSetups(), memSetups()))
	runScenarios(t, inBubbles(optionScenarios), memSetups())
}

func testUnicastTTL(t *testing.T, n setup) {
	r := record()
	c, to := n.listen(t, nil), n.listen(t, r)
	if ttl, err := c.TTL(); err != nil || ttl != 64 {
		t.Errorf("TTL is %d, %v; want 64", ttl, err)
	}
	for _, ttl := range []int{1, 255, 7} {
		check(t, c.SetTTL(ttl))
		if got, err := c.TTL(); err != nil || got != ttl {
			t.Errorf("TTL is %d, %v; want %d", got, err, ttl)
		}
		write(t, c, n.reach(to), "x")
		if d := wait(t, r.datagrams); d.TTL != ttl {
			t.Errorf("it arrives with %d, want %d", d.TTL, ttl)
		}
	}
	if ttl, err := c.MulticastTTL(); err != nil || ttl != 1 {
		t.Errorf("MulticastTTL is %d, %v; want 1", ttl, err)
	}
}

func testUnicastTTLBadInput(t *testing.T, n setup) {
	c := n.listen(t, nil)
	for _, ttl := range []int{0, -1, 256, 300} {
		isError(t, c.SetTTL(ttl), syscall.EINVAL)
	}
	if ttl, err := c.TTL(); err != nil || ttl != 64 {
		t.Errorf("TTL is %d, %v; want 64", ttl, err)
	}
}

// testTrafficClass sends each datagram of a batch with a class of its own, and
// echoes them: they come back with it, but for those that Reply sent.
func testTrafficClass(t *testing.T, n setup) {
	n.config.ReadTrafficClass = true
	r := record()
	echo := n.listen(t, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		check(t, c.Queue(d))
		check(t, second(c.WriteBatch([]udp.Datagram{d})))
		check(t, second(c.Reply(d, d.Payload)))
	}))
	c := n.listen(t, r)
	var ds []udp.Datagram
	classes := []uint8{0, 0xb8, 0xb8, 1, 2, 3, 0x28, 0}
	for i, class := range classes {
		ds = append(ds, udp.Datagram{Payload: []byte{byte(i)}, Addr: n.reach(echo), TrafficClass: class})
	}
	if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
		t.Fatal(sent, err)
	}
	got := make(map[byte][]uint8)
	for range 3 * len(ds) {
		d := wait(t, r.datagrams)
		got[d.Payload[0]] = append(got[d.Payload[0]], d.TrafficClass)
	}
	for i, class := range classes {
		slices.Sort(got[byte(i)])
		if want := []uint8{0, class, class}; !slices.Equal(got[byte(i)], want) {
			t.Errorf("number %d comes back with %v, want %v", i, got[byte(i)], want)
		}
	}
}

// testTrafficClassUnread does not ask for the class.
func testTrafficClassUnread(t *testing.T, n setup) {
	r := record()
	c, to := n.listen(t, nil), n.listen(t, r)
	check(t, second(c.WriteBatch([]udp.Datagram{{Addr: n.reach(to), TrafficClass: 0xb8}})))
	if d := wait(t, r.datagrams); d.TrafficClass != 0 || !d.Time.IsZero() {
		t.Errorf("%+v", d)
	}
}

func testTrafficClassOfSocket(t *testing.T, n setup) {
	n.config.ReadTrafficClass = true
	r := record()
	c, to := n.listen(t, nil), n.listen(t, r)
	if class, err := c.TrafficClass(); err != nil || class != 0 {
		t.Errorf("the class is %d, %v", class, err)
	}
	check(t, c.SetTrafficClass(0xb8))
	if class, err := c.TrafficClass(); err != nil || class != 0xb8 {
		t.Errorf("the class is %#x, %v; want 0xb8", class, err)
	}
	write(t, c, n.reach(to), "socket's")
	check(t, second(c.WriteBatch([]udp.Datagram{{Addr: n.reach(to), Payload: []byte("own"), TrafficClass: 0x28}, {Addr: n.reach(to), Payload: []byte("none")}})))
	want := map[string]uint8{"socket's": 0xb8, "own": 0x28, "none": 0xb8}
	for range want {
		if d := wait(t, r.datagrams); d.TrafficClass != want[string(d.Payload)] {
			t.Errorf("%q has class %#x, want %#x", d.Payload, d.TrafficClass, want[string(d.Payload)])
		}
	}
}

// testReadTime has a datagram wait: it has the time at which it came, not that
// at which it was read, and no monotonic reading.
func testReadTime(t *testing.T, n setup) {
	n.config.ReadTime = true
	r := record()
	c, to := n.listen(t, nil), n.listen(t, r)
	for range 10 { // the kernel begins to stamp a moment after it was asked
		before := time.Now().Round(0)
		write(t, c, n.reach(to), "x")
		after := time.Now().Round(0)
		d := wait(t, r.datagrams)
		if d.Time != d.Time.Round(0) {
			t.Errorf("%v has a monotonic reading", d.Time)
		}
		read := time.Now().Round(0)
		if d.Time.Before(before.Add(-time.Millisecond)) || d.Time.After(read.Add(time.Millisecond)) {
			t.Errorf("sent from %v to %v, received at %v, read by %v", before, after, d.Time, read)
		}
	}
}

func testPathMTU(t *testing.T, n setup) {
	c := n.listen(t, nil)
	_, err := c.PathMTU()
	isError(t, err, syscall.ENOTCONN)
	check(t, c.Connect(n.peer(t).addr))
	mtu, err := c.PathMTU()
	check(t, err)
	headers, most := 28, 65507
	if n.host.Is6() {
		headers, most = 48, 65527
	}
	if n.kernel {
		ifi, err := net.InterfaceByName(n.ifi.Name)
		check(t, err)
		want := ifi.MTU
		if n.host.Is4() {
			want = min(want, 65535) // an IPv4 packet cannot be longer
		}
		if mtu != want {
			t.Errorf("PathMTU is %d, want %d", mtu, want)
		}
	} else if mtu != most+headers {
		t.Errorf("PathMTU is %d, want %d", mtu, most+headers)
	}
	if mtu >= 65535 {
		return // any datagram fits
	}
	if _, err := c.Write(make([]byte, mtu-headers)); err != nil {
		t.Errorf("what fits is not sent: %v", err)
	}
}

func testDontFragment(t *testing.T, n setup) {
	n.config.DontFragment = true
	r := record()
	c, to := n.listen(t, nil), n.listen(t, r)
	write(t, c, n.reach(to), "short")
	wait(t, r.datagrams)
	isError(t, second(c.WriteTo(make([]byte, 65536), n.reach(to))), syscall.EMSGSIZE)
}

func testQueued(t *testing.T, n setup) {
	b := newBlocker()
	c := n.listen(t, b)
	p := n.peer(t)
	if q := c.Stats().Queued; q != 0 {
		t.Errorf("%d bytes wait in a new socket", q)
	}
	p.send(t, n.reach(c), "blocks")
	wait(t, b.entered)
	const size = 1000
	for range 10 {
		p.send(t, n.reach(c), text(size))
	}
	eventually(t, "they wait", func() bool { return c.Stats().Queued >= 10*size })
	close(b.release)
	eventually(t, "they are read", func() bool { return c.Stats().Queued == 0 && c.Stats().ReadDatagrams == 11 })
	check(t, c.Close())
	if q := c.Stats().Queued; q != 0 {
		t.Errorf("%d bytes wait in a closed socket", q)
	}
}

func testOptionsAfterClose(t *testing.T, n setup) {
	c := n.listen(t, nil)
	check(t, c.Connect(n.peer(t).addr))
	check(t, c.Close())
	_, errTTL := c.TTL()
	_, errClass := c.TrafficClass()
	_, errMTU := c.PathMTU()
	for _, err := range []error{c.SetTTL(5), c.SetTrafficClass(5), errTTL, errClass, errMTU} {
		isError(t, err, net.ErrClosed)
	}
}

// TestOptionsUnsupported asks a foreign socket for what it cannot do.
func TestOptionsUnsupported(t *testing.T) {
	n := foreignSetup()
	c := n.listen(t, nil)
	_, errTTL := c.TTL()
	_, errClass := c.TrafficClass()
	for _, err := range []error{c.SetTTL(5), c.SetTrafficClass(5), errTTL, errClass} {
		isError(t, err, errors.ErrUnsupported)
	}
	n.config.DontFragment = true
	_, err := n.config.Listen(t.Context(), n.bind, nil)
	isError(t, err, errors.ErrUnsupported)
}

// TestClassesDoNotMix sends segments of one length and several classes to one
// peer: none shares a message with another class, and none is joined with one.
func TestClassesDoNotMix(t *testing.T) {
	n := kernelSetups()[0]
	if !n.batches {
		t.Skip("nothing is segmented: run on Linux without the tag udpbasic")
	}
	n.config.ReadTrafficClass, n.config.ReadTime = true, true
	n.config.ReadBuffer = 1 << 20
	r := record()
	c, to := n.listen(t, nil), n.listen(t, r)
	var ds []udp.Datagram
	for i := range 60 {
		ds = append(ds, udp.Datagram{Payload: []byte{byte(i), 1, 2, 3}, Addr: n.reach(to), TrafficClass: uint8(i / 7 * 4)})
	}
	if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
		t.Fatal(sent, err)
	}
	for i, want := range ds {
		if d := wait(t, r.datagrams); d.Payload[0] != byte(i) || d.TrafficClass != want.TrafficClass {
			t.Errorf("number %d is %d with class %d, want %d", i, d.Payload[0], d.TrafficClass, want.TrafficClass)
		}
	}
	if s := c.Stats(); s.Writes > 2 {
		t.Errorf("%d calls for %d datagrams", s.Writes, s.WriteDatagrams)
	}
}
