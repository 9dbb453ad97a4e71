package udp_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// TestConformance runs on a MemNet what TestScenarios and TestMulticast run on
// the kernel's sockets, by the system's clock.
func TestConformance(t *testing.T) {
	runScenarios(t, slices.Concat(scenarios, nativeScenarios), memSetups())
	runScenarios(t, multicastScenarios, memGroupSetups())
}

// TestConformanceInBubble does so by the clock of a bubble.
func TestConformanceInBubble(t *testing.T) {
	runScenarios(t, inBubbles(scenarios, nativeScenarios), memSetups())
	runScenarios(t, inBubbles(multicastScenarios), memGroupSetups())
}

// TestPacketConn uses sockets without this package, as they come from package
// net and from a MemNet.
func TestPacketConn(t *testing.T) {
	all := []scenario{
		{"Payload", testPacketConnPayload},
		{"Deadline", testPacketConnDeadline},
		{"Close", testPacketConnClose},
		{"Errors", testPacketConnErrors},
	}
	mem := setup{name: "mem 127.0.0.1", config: udp.ListenConfig{PacketListener: new(udp.MemNet)}, host: loopback4}
	runScenarios(t, all, []setup{{name: "127.0.0.1", host: loopback4}, mem})
	mem.name += " in a bubble"
	runScenarios(t, inBubbles(all), []setup{mem})
}

// testPacketConnPayload changes the memory of a payload when it has been sent,
// and reads into less than it needs.
func testPacketConnPayload(t *testing.T, n setup) {
	a, b := n.peer(t), n.peer(t)
	payload := []byte("hello")
	check(t, second(b.WriteTo(payload, a.LocalAddr())))
	check(t, second(b.WriteTo(nil, a.LocalAddr())))
	copy(payload, "XXXXX")
	check(t, second(b.WriteTo(payload, a.LocalAddr())))
	for _, want := range []string{"hel", "", "XXX"} {
		buf := []byte("___")
		size, from, err := a.ReadFrom(buf)
		if string(buf[:size]) != want || addrPort(from) != b.addr {
			t.Errorf("%q from %v", buf[:size], from)
		}
		if err != nil && !tooLong(err) {
			t.Error(err)
		}
		copy(buf, "YYY") // of no effect on what comes
	}
}

// testPacketConnDeadline reads and writes too late.
func testPacketConnDeadline(t *testing.T, n setup) {
	a, b := n.peer(t), n.peer(t)
	late := func(err error) {
		t.Helper()
		var timeout net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("got %v", err)
		}
		checkNetError(t, err)
	}
	read := func() error { _, _, err := a.ReadFrom(make([]byte, 100)); return err }

	b.send(t, a.addr, "waits")
	check(t, a.SetReadDeadline(time.Unix(1, 0)))
	late(read())
	late(read())
	check(t, a.SetReadDeadline(time.Time{}))
	a.expect(t, "waits", b.addr)

	start := time.Now()
	check(t, a.SetDeadline(start.Add(20*time.Millisecond)))
	late(read())
	if waited := time.Since(start); waited < 20*time.Millisecond {
		t.Errorf("the deadline of 20 ms is over after %v", waited)
	}
	late(second(a.WriteTo(nil, b.LocalAddr())))
	check(t, a.SetReadDeadline(time.Time{}))
	late(second(a.WriteTo(nil, b.LocalAddr())))

	reading := async(read)
	check(t, a.SetDeadline(start.Add(time.Hour)))
	check(t, a.SetDeadline(start))
	late(wait(t, reading))

	// A deadline that is put off before it is over does nothing.
	check(t, a.SetDeadline(time.Now().Add(20*time.Millisecond)))
	check(t, a.SetDeadline(time.Time{}))
	reading = async(read)
	check(t, b.SetReadDeadline(time.Now().Add(40*time.Millisecond)))
	b.ReadFrom(nil)
	a.send(t, a.addr, "hello")
	check(t, wait(t, reading))
}

// testPacketConnClose closes while some read, and uses what is closed.
func testPacketConnClose(t *testing.T, n setup) {
	a, b := n.peer(t), n.peer(t)
	b.send(t, a.addr, "waits")
	a.expect(t, "waits", b.addr)
	var reading []<-chan error
	for range 3 {
		reading = append(reading, async(func() error { _, _, err := a.ReadFrom(nil); return err }))
	}
	b.send(t, b.addr, "waits")
	check(t, a.Close())
	check(t, b.Close())
	for _, read := range reading {
		isClosed(t, wait(t, read))
	}
	for _, p := range []bare{a, b} {
		_, _, err := p.ReadFrom(make([]byte, 10))
		isClosed(t, err)
		isClosed(t, second(p.WriteTo(nil, b.LocalAddr())))
		isClosed(t, p.Close())
		isClosed(t, p.SetDeadline(time.Now()))
		isClosed(t, p.SetReadDeadline(time.Now()))
		isClosed(t, p.SetWriteDeadline(time.Now()))
		if addrPort(p.LocalAddr()) != p.addr {
			t.Errorf("LocalAddr is %v, was %v", p.LocalAddr(), p.addr)
		}
	}
}

func isClosed(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	checkNetError(t, err)
}

// testPacketConnErrors writes to what cannot be, and compares what errors say.
// tooLong reports that err is Windows's word for a datagram that is longer than
// the buffer it is read into, or than may be sent: it has a number of its own,
// which is not syscall.EMSGSIZE. Elsewhere there is none.
func tooLong(err error) bool {
	const wsaEMSGSIZE = syscall.Errno(10040)
	return runtime.GOOS == "windows" && errors.Is(err, wsaEMSGSIZE)
}

func testPacketConnErrors(t *testing.T, n setup) {
	a, b := n.peer(t), n.peer(t)
	for _, addr := range []net.Addr{
		nil,
		(*net.UDPAddr)(nil),
		&net.UDPAddr{IP: net.IPv6loopback, Port: 7},
		&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)},
		&net.UnixAddr{Net: "unixgram", Name: "7"},
	} {
		size, err := a.WriteTo([]byte("x"), addr)
		if size != 0 || err == nil {
			t.Errorf("to %#v: %d, %v", addr, size, err)
		}
		checkNetError(t, err)
	}
	size, err := a.WriteTo(make([]byte, 65508), b.LocalAddr())
	if size != 0 || !errors.Is(err, syscall.EMSGSIZE) && !tooLong(err) {
		t.Errorf("65508 bytes: %d, %v", size, err)
	}
	check(t, second(a.WriteTo([]byte("hello"), b.LocalAddr())))
	b.expect(t, "hello", a.addr)

	check(t, b.Close())
	_, _, err = b.ReadFrom(make([]byte, 1)) // Windows does not look at the socket for nothing
	for _, test := range []struct {
		err          error
		op           string
		source, addr net.Addr
	}{
		{err, "read", b.LocalAddr(), nil},
		{second(b.WriteTo(nil, a.LocalAddr())), "write", b.LocalAddr(), a.LocalAddr()},
		{b.Close(), "close", b.LocalAddr(), nil},
		{b.SetDeadline(time.Now()), "set", nil, b.LocalAddr()},
	} {
		e := checkNetError(t, test.err)
		if e.Op != test.op || !sameAddr(e.Source, test.source) || !sameAddr(e.Addr, test.addr) {
			t.Errorf("%#v, want %q, %v, %v", e, test.op, test.source, test.addr)
		}
	}
}

// checkNetError fails unless err has the shape of the errors of package net.
func checkNetError(t *testing.T, err error) *net.OpError {
	t.Helper()
	e, ok := err.(*net.OpError)
	if !ok || e.Net != "udp4" {
		t.Errorf("the error is %#v: %v", err, err)
		return new(net.OpError)
	}
	return e
}

func sameAddr(a, b net.Addr) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Network() == b.Network() && a.String() == b.String()
}

// inBubbles returns scenarios that have a bubble each.
func inBubbles(lists ...[]scenario) (all []scenario) {
	for _, s := range slices.Concat(lists...) {
		all = append(all, scenario{s.name, func(t *testing.T, n setup) {
			synctest.Test(t, func(t *testing.T) { s.run(t, n) })
		}})
	}
	return all
}

// memSetups returns the kinds of sockets that a MemNet has, two of them under
// -short.
func memSetups() []setup {
	every := new(udp.MemNet)
	host := new(udp.MemNet).Host(addrs("10.1.2.3", "10.1.2.4", "10.1.2.5", "2001:db8::7", "2001:db8::8")...)
	all := []setup{
		{name: "mem 192.0.2.1", bind: "192.0.2.1:0", host: netip.MustParseAddr("192.0.2.1")},
		{name: "mem 2001:db8::1", bind: "[2001:db8::1]:0", host: netip.MustParseAddr("2001:db8::1")},
		{name: "mem 127.0.0.1", bind: "127.0.0.1:0", host: loopback4},
		{name: "mem wildcard", bind: ":0", host: loopback4, aliases: addrs("127.0.0.2", "10.9.9.9")},
		{name: "mem wildcard, IPv6", bind: ":0", host: loopback6, aliases: addrs("2001:db8::9")},
		{name: "mem udp4", config: udp.ListenConfig{Network: "udp4"}, bind: ":0", host: loopback4, aliases: addrs("10.9.9.9")},
		{name: "mem udp6", config: udp.ListenConfig{Network: "udp6"}, bind: ":0", host: loopback6, aliases: addrs("2001:db8::9")},
		{name: "mem Host", config: udp.ListenConfig{PacketListener: host}, bind: ":0",
			host: netip.MustParseAddr("10.1.2.3"), aliases: addrs("10.1.2.4", "10.1.2.5")},
		{name: "mem Host, IPv6", config: udp.ListenConfig{PacketListener: host}, bind: ":0",
			host: netip.MustParseAddr("2001:db8::7"), aliases: addrs("2001:db8::8")},
	}
	if testing.Short() {
		all = slices.DeleteFunc(all, func(n setup) bool { return n.name != "mem wildcard" && n.name != "mem 2001:db8::1" })
	}
	for i := range all {
		if all[i].config.PacketListener == nil {
			all[i].config.PacketListener = every
		}
		all[i].ifi = &net.Interface{Index: 7, Name: "mem7"}
		all[i].batches, all[i].counts = true, true
	}
	return all
}

func addrs(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// memGroupSetups returns those whose sockets can be members of groups.
func memGroupSetups() []setup {
	return slices.DeleteFunc(memSetups(), func(n setup) bool { return !n.wildcard() })
}
