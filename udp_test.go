package udp_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.com/udp"
)

// A scenario is what must work on every network alike, the kernel's and one in
// memory. It runs in the test's own goroutine, blocks on nothing but channels
// and sockets, and leaves nothing behind.
type scenario struct {
	name string
	run  func(*testing.T, setup)
}

// scenarios work with any net.PacketConn.
var scenarios = []scenario{
	{"Echo", testEcho},
	{"Fields", testFields},
	{"MaxDatagram", testMaxDatagram},
	{"Longest", testLongest},
	{"PortInUse", testPortInUse},
	{"Names", testNames},
	{"Stats", testStats},
	{"Log", testLog},

	{"HandleStart", testHandleStart},
	{"NilHandler", testNilHandler},
	{"Batches", testBatches},
	{"Append", testAppend},
	{"SameHandler", testSameHandler},
	{"BatchHandlerFunc", testBatchHandlerFunc},

	{"StartError", testStartError},
	{"StartPanic", testStartPanic},
	{"StartGoexit", testStartGoexit},
	{"CloseInStart", testCloseInStart},
	{"CloseInHandler", testCloseInHandler},
	{"CloseWhileDatagramsWait", testCloseWhileDatagramsWait},
	{"CloseUnderLoad", testCloseUnderLoad},
	{"CloseWhileInUse", testCloseWhileInUse},
	{"CloseFromTen", testCloseFromTen},
	{"Shutdown", testShutdown},
	{"ShutdownIdle", testShutdownIdle},
	{"ShutdownContext", testShutdownContext},
	{"ShutdownClosed", testShutdownClosed},
	{"Goexit", testGoexit},
	{"GoexitCounts", testGoexitCounts},

	{"Post", testPost},
	{"PostIdle", testPostIdle},
	{"PostFair", testPostFair},
	{"PostShutdown", testPostShutdown},
	{"PostClose", testPostClose},
	{"PostStartFails", testPostStartFails},
	{"PostPanic", testPostPanic},
	{"PostNil", testPostNil},
	{"Timers", testTimers},
	{"TimerIdle", testTimerIdle},
	{"TimerShutdown", testTimerShutdown},
	{"Done", testDone},

	{"Reply", testReply},
	{"ReplyBatch", testReplyBatch},
	{"WriteBatch", testWriteBatch},
	{"WriteBatchAdjacent", testWriteBatchAdjacent},
	{"WriteBatchUnchanged", testWriteBatchUnchanged},
	{"WriteBatchErrors", testWriteBatchErrors},
	{"WriteBatchOrder", testWriteBatchOrder},
	{"ConcurrentWrites", testConcurrentWrites},

	{"Dial", testDial},
	{"ConnectInStart", testConnectInStart},
	{"ConnectAgain", testConnectAgain},
	{"Disconnect", testDisconnect},
	{"QueuedBeforeConnect", testQueuedBeforeConnect},
	{"ConnectInHandler", testConnectInHandler},
	{"OnlyToThePeer", testOnlyToThePeer},
	{"ConnectUnderLoad", testConnectUnderLoad},
	{"WriteToUnderLoad", testWriteToUnderLoad},
}

// nativeScenarios ask for what a foreign net.PacketConn cannot tell or do:
// reports of refusals, sizes of buffers, groups.
var nativeScenarios = []scenario{
	{"OneGoroutine", testOneGoroutine},
	{"BlockedHandler", testBlockedHandler},
	{"Recover", testRecover},
	{"CloseInUndelivered", testCloseInUndelivered},
	{"GoexitAnywhere", testGoexitAnywhere},
	{"AfterClose", testAfterClose},
	{"ConnectFails", testConnectFails},
	{"Refused", testRefused},
	{"RefusedUnheard", testRefusedUnheard},
	{"WriteMeetsReport", testWriteMeetsReport},
	{"DeadThenLive", testDeadThenLive},
	{"ReportNamesItsPeer", testReportNamesItsPeer},
}

func TestScenarios(t *testing.T) {
	runScenarios(t, scenarios, append(kernelSetups(), foreignSetup()))
	runScenarios(t, nativeScenarios, kernelSetups())
}

// poisonScenarios look at memory that sockets of other tests may borrow, so
// that nothing runs beside them.
var poisonScenarios = []scenario{
	{"Poison", testPoison},
	{"PoisonedBatch", testPoisonedBatch},
}

func TestPoisoned(t *testing.T) {
	for _, n := range slices.Concat(kernelSetups(), []setup{foreignSetup()}, memSetups()) {
		for _, s := range poisonScenarios {
			t.Run(s.name+"/"+n.name, func(t *testing.T) { s.run(t, n) })
		}
	}
	runScenarios(t, inBubbles(poisonScenarios), memSetups())
}

func runScenarios(t *testing.T, scenarios []scenario, setups []setup) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			for _, n := range setups {
				t.Run(n.name, func(t *testing.T) {
					if n.kernel { // otherwise they may share a MemNet
						t.Parallel()
					}
					s.run(t, n)
				})
			}
		})
	}
}

func testEcho(t *testing.T, n setup) {
	c := n.listen(t, echo(t))
	p := n.peer(t)
	for _, payload := range []string{"one", "", "three", strings.Repeat("x", 4000)} {
		p.send(t, n.reach(c), payload)
		p.expect(t, payload, n.reach(c))
	}
}

func testFields(t *testing.T, n setup) {
	r := record()
	c := n.listen(t, r)
	p := n.peer(t)
	p.send(t, n.reach(c), "hello")
	d := wait(t, r.datagrams)
	if string(d.Payload) != "hello" || d.Addr != p.addr || d.Local != n.host || d.Truncated {
		t.Errorf("got %+v, want hello from %v to %v", d, p.addr, n.host)
	}
	if !n.kernel {
		return
	}
	if d.TTL < 1 || d.TTL > 255 {
		t.Errorf("TTL is %d", d.TTL)
	}
	if d.Interface != n.ifi.Index && (n.wildcard() || d.Interface != 0) {
		t.Errorf("Interface is %d, want %d", d.Interface, n.ifi.Index)
	}
}

func testMaxDatagram(t *testing.T, n setup) {
	n.config.MaxDatagram = 100
	r := record()
	c := n.listen(t, r)
	send := func(payloads ...string) {
		t.Helper()
		from := n.listen(t, nil)
		if _, err := from.WriteBatch(batch(n.reach(c), payloads...)); err != nil {
			t.Fatal(err)
		}
		for _, payload := range payloads {
			d := wait(t, r.datagrams)
			if want := payload[:min(len(payload), 100)]; string(d.Payload) != want || d.Truncated != (len(payload) > 100) {
				t.Errorf("%d bytes arrive as %d, Truncated %v", len(payload), len(d.Payload), d.Truncated)
			}
		}
	}
	send(text(99))
	send(text(100))
	send(text(101))
	send("")
	send(text(5000))
	send(text(100), text(100), text(40))
	send(text(101), text(101), text(101))
	send(text(500), text(500), text(99))
	if got := c.Stats().Truncated; got != 7 {
		t.Errorf("Stats.Truncated is %d, want 7", got)
	}
}

func testLongest(t *testing.T, n setup) {
	r := record()
	c := n.listen(t, r)
	from := n.listen(t, nil)
	long := text(65507)
	if size, err := from.WriteTo([]byte(long), n.reach(c)); size != len(long) || err != nil {
		t.Fatal(size, err)
	}
	if d := wait(t, r.datagrams); string(d.Payload) != long || d.Truncated {
		t.Errorf("%d bytes arrive, Truncated %v", len(d.Payload), d.Truncated)
	}
	size, err := from.WriteTo(make([]byte, 65536), n.reach(c))
	if size != 0 || !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("65536 bytes: %d, %v, want EMSGSIZE", size, err)
	}
}

func testPortInUse(t *testing.T, n setup) {
	c := n.listen(t, nil)
	again, err := n.config.Listen(t.Context(), n.at(c.LocalAddr().Port()), startMustNotRun(t))
	if again != nil || !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("Listen on %v, which is in use: %v, %v", c, again, err)
	}
	checkOpError(t, err)
	c.Close()
	c.Wait()
	n.listenAt(t, n.at(c.LocalAddr().Port()), nil)
}

func testNames(t *testing.T, n setup) {
	c := n.listen(t, nil)
	local := c.LocalAddr()
	if local.Port() == 0 || local.Addr().Is4In6() || !n.wildcard() && local.Addr() != n.host {
		t.Errorf("LocalAddr is %v on %s", local, n.name)
	}
	if got, want := c.String(), "udp "+local.String(); got != want {
		t.Errorf("String is %q, want %q", got, want)
	}
	p := n.peer(t)
	if err := c.Connect(p.addr); err != nil {
		t.Fatal(err)
	}
	if got, want := c.String(), "udp "+c.LocalAddr().String()+"->"+p.addr.String(); got != want {
		t.Errorf("connected, String is %q, want %q", got, want)
	}
	if err := c.Disconnect(); err != nil {
		t.Fatal(err)
	}
	c.Close()
	c.Wait()
	if c.LocalAddr() != local || c.String() != "udp "+local.String() {
		t.Errorf("closed, it is %v, at %v; was at %v", c, c.LocalAddr(), local)
	}
}

func testStats(t *testing.T, n setup) {
	to := n.listen(t, nil)
	from := n.listen(t, nil)
	addr := n.reach(to)
	if s := from.Stats(); s != (udp.Stats{}) {
		t.Errorf("a new socket has %+v", s)
	}
	for range 3 {
		check(t, second(from.WriteTo([]byte("four"), addr)))
	}
	check(t, second(from.WriteBatch(batch(addr, "", "12345", "123"))))
	from.WriteTo(make([]byte, 70000), addr)
	from.WriteBatch(batch(addr, text(70000), "1"))
	shutdown(t, to)

	s := from.Stats()
	if s.WriteDatagrams != 7 || s.WriteBytes != 21 || s.WriteErrors != 2 || s.Writes < 1 || s.Writes > 9 {
		t.Errorf("the sender has %+v, want 7 datagrams, 21 bytes, 2 errors", s)
	}
	s = to.Stats()
	if s.ReadDatagrams != 7 || s.ReadBytes != 21 || s.ReadErrors != 0 || s.Reads < 1 || s.Reads > 7 {
		t.Errorf("the receiver has %+v, want 7 datagrams, 21 bytes", s)
	}
	if to.Stats() != s {
		t.Error("reading the totals changes them")
	}
}

func testLog(t *testing.T, n setup) {
	var log logBuffer
	n.config.Logger = slog.New(slog.NewTextHandler(&log, nil))
	r := record()
	c := n.listen(t, r)
	atStart := log.String()
	if !strings.Contains(atStart, c.LocalAddr().String()) {
		t.Errorf("the log at the start does not name %v: %q", c.LocalAddr(), atStart)
	}
	n.peer(t).send(t, n.reach(c), "a secret")
	wait(t, r.datagrams)
	c.Close()
	c.Wait()
	atStop := log.String()[len(atStart):]
	if !strings.Contains(atStop, c.LocalAddr().String()) {
		t.Errorf("the log at the end does not name %v: %q", c.LocalAddr(), atStop)
	}
	if strings.Contains(log.String(), "secret") {
		t.Errorf("the log has a payload: %q", log.String())
	}
}

func TestDualStack(t *testing.T) {
	dual := setup{name: "udp", bind: ":0", host: loopback4, kernel: true}
	needIPv6(t)
	testDualStack(t, dual)
}

// testDualStack wants a setup whose wildcard has both families.
func testDualStack(t *testing.T, n setup) {
	c := n.listen(t, echo(t))
	for _, host := range []netip.Addr{loopback4, loopback6} {
		n.host = host
		p := n.peer(t)
		p.send(t, n.reach(c), host.String())
		p.expect(t, host.String(), n.reach(c))
	}
}

func TestOneFamily(t *testing.T) {
	needIPv6(t)
	four := setup{config: udp.ListenConfig{Network: "udp4"}, bind: ":0", host: loopback4}
	six := setup{config: udp.ListenConfig{Network: "udp6"}, bind: ":0", host: loopback6}
	c4 := four.listen(t, echo(t))
	c6 := six.listenAt(t, six.at(c4.LocalAddr().Port()), echo(t))
	if !c4.LocalAddr().Addr().Is4() || !c6.LocalAddr().Addr().Is6() {
		t.Errorf("udp4 listens on %v, udp6 on %v", c4.LocalAddr(), c6.LocalAddr())
	}
	for _, n := range []setup{four, six} {
		p := n.peer(t)
		p.send(t, n.reach(c4), "hello")
		p.expect(t, "hello", n.reach(c6))
	}
}

func TestListen(t *testing.T) {
	r := record()
	c, err := udp.Listen("127.0.0.1:0", r)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, c)
	n := setup{host: loopback4}
	n.peer(t).send(t, c.LocalAddr(), "hello")
	if d := wait(t, r.datagrams); string(d.Payload) != "hello" {
		t.Errorf("got %q", d.Payload)
	}
}

// TestReusePort opens two sockets on one port: together they get everything,
// and neither gets nothing.
func TestReusePort(t *testing.T) {
	n := setup{config: udp.ListenConfig{ReusePort: true}, bind: "127.0.0.1:0", host: loopback4}
	first := n.listen(t, nil)
	second := n.listenAt(t, first.LocalAddr().String(), nil)
	for range 64 {
		n.peer(t).send(t, first.LocalAddr(), "x")
	}
	shutdown(t, first)
	shutdown(t, second)
	a, b := first.Stats().ReadDatagrams, second.Stats().ReadDatagrams
	if a+b != 64 {
		t.Errorf("%d and %d of 64 arrive", a, b)
	}
	if runtime.GOOS == "linux" && (a == 0 || b == 0) {
		t.Errorf("the load is shared %d to %d", a, b)
	}
}

func TestConfigUnchanged(t *testing.T) {
	lc := udp.ListenConfig{MaxDatagram: 0}
	for _, open := range []func() (*udp.Conn, error){
		func() (*udp.Conn, error) { return lc.Listen(t.Context(), "127.0.0.1:0", nil) },
		func() (*udp.Conn, error) { return lc.Dial(t.Context(), "127.0.0.1:9", nil) },
		func() (*udp.Conn, error) { return lc.ListenMulticast(t.Context(), ":0", nil) },
	} {
		c, err := open()
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, c)
		if !reflect.DeepEqual(lc, udp.ListenConfig{}) {
			t.Fatalf("the configuration is now %+v", lc)
		}
	}
}

func TestPacketListener(t *testing.T) {
	var asked []string
	fail := errors.New("no sockets today")
	lc := udp.ListenConfig{
		Network: "udp4",
		PacketListener: listenerFunc(func(_ context.Context, network, address string) (net.PacketConn, error) {
			asked = append(asked, network+" "+address)
			return nil, fail
		}),
	}
	c, err := lc.Listen(t.Context(), "127.0.0.1:7", startMustNotRun(t))
	if c != nil || !errors.Is(err, fail) {
		t.Errorf("Listen returns %v, %v", c, err)
	}
	checkOpError(t, err)
	if !slices.Equal(asked, []string{"udp4 127.0.0.1:7"}) {
		t.Errorf("the listener is asked for %q", asked)
	}
}

func TestNewConn(t *testing.T) {
	n := setup{host: loopback4}
	for _, test := range []struct {
		name string
		wrap func(*testing.T, *net.UDPConn) net.PacketConn
	}{
		{"UDPConn", func(_ *testing.T, pc *net.UDPConn) net.PacketConn { return pc }},
		{"foreign", func(_ *testing.T, pc *net.UDPConn) net.PacketConn { return foreign{pc} }},
		{"FilePacketConn", throughFile},
	} {
		t.Run(test.name, func(t *testing.T) {
			pc := test.wrap(t, n.peer(t).PacketConn.(*net.UDPConn))
			c, err := udp.NewConn(pc, echo(t))
			if err != nil {
				t.Fatal(err)
			}
			closeAtEnd(t, c)
			if c.LocalAddr() != addrPort(pc.LocalAddr()) || c.RemoteAddr().IsValid() {
				t.Errorf("it is %v, made of %v", c, pc.LocalAddr())
			}
			p := n.peer(t)
			for _, payload := range []string{"", "hello"} {
				p.send(t, c.LocalAddr(), payload)
				p.expect(t, payload, c.LocalAddr())
			}
			check(t, second(c.WriteTo([]byte("to you"), p.addr)))
			p.expect(t, "to you", c.LocalAddr())
			check(t, second(c.WriteBatch(batch(p.addr, "a", "", "c"))))
			for _, payload := range []string{"a", "", "c"} {
				p.expect(t, payload, c.LocalAddr())
			}
			c.Close()
			if _, err := pc.WriteTo([]byte("x"), pc.LocalAddr()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the socket is not closed: %v", err)
			}
		})
	}
}

// TestNewConnConnected takes over a socket of net.Dial, as it is and by way
// of a file, which hides from the package net that it is connected.
func TestNewConnConnected(t *testing.T) {
	for _, test := range []struct {
		name string
		wrap func(*testing.T, *net.UDPConn) net.PacketConn
	}{
		{"UDPConn", func(_ *testing.T, pc *net.UDPConn) net.PacketConn { return pc }},
		{"FilePacketConn", throughFile},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := setup{host: loopback4}.peer(t)
			pc, err := net.Dial("udp", p.addr.String())
			check(t, err)
			r := record()
			c, err := udp.NewConn(test.wrap(t, pc.(*net.UDPConn)), r)
			check(t, err)
			closeAtEnd(t, c)
			checkConnected(t, c, p, r)
		})
	}
}

// checkConnected speaks to the peer p, then to another, then to anybody.
func checkConnected(t *testing.T, c *udp.Conn, p bare, r *recorder) {
	t.Helper()
	n := setup{host: loopback4}
	other := n.peer(t)
	if c.RemoteAddr() != p.addr {
		t.Errorf("RemoteAddr is %v, want %v", c.RemoteAddr(), p.addr)
	}
	check(t, second(c.Write([]byte("hello"))))
	p.expect(t, "hello", c.LocalAddr())
	check(t, second(c.WriteTo([]byte("you"), p.addr)))
	p.expect(t, "you", c.LocalAddr())
	if _, err := c.WriteTo([]byte("x"), other.addr); !errors.Is(err, net.ErrWriteToConnected) {
		t.Errorf("WriteTo another returns %v", err)
	}
	p.send(t, c.LocalAddr(), "answer")
	if d := wait(t, r.datagrams); string(d.Payload) != "answer" || d.Addr != p.addr {
		t.Errorf("got %+v", d)
	}
	check(t, c.Connect(other.addr))
	check(t, second(c.Write([]byte("now you"))))
	other.expect(t, "now you", c.LocalAddr())
	if err := c.Disconnect(); portable() && errors.Is(err, errors.ErrUnsupported) {
		return // by package net, a socket that it has dialled sends to its peer alone
	} else if err != nil {
		t.Fatal(err)
	}
	check(t, second(c.WriteTo([]byte("free"), p.addr)))
	p.expect(t, "free", n.reach(c))
}

func TestNewConnRefuses(t *testing.T) {
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, test := range []struct {
		name string
		pc   net.PacketConn
		want error // nil: any
	}{
		{"nil", nil, nil},
		{"nil UDPConn", (*net.UDPConn)(nil), nil},
		{"closed", closed, net.ErrClosed},
	} {
		c, err := udp.NewConn(test.pc, startMustNotRun(t))
		if c != nil || err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v, %v", test.name, c, err)
			continue
		}
		checkOpError(t, err)
	}
}

// TestNewConnUnix refuses a datagram socket that is not UDP's, and leaves it
// as it was.
func TestNewConnUnix(t *testing.T) {
	name := t.TempDir() + "/socket"
	pc, err := net.ListenPacket("unixgram", name)
	if err != nil {
		t.Skipf("%v: try a system with Unix datagram sockets", err)
	}
	defer pc.Close()
	c, err := udp.NewConn(pc, startMustNotRun(t))
	if c != nil || err == nil {
		t.Fatalf("%v, %v", c, err)
	}
	checkOpError(t, err)
	if _, err := pc.WriteTo([]byte("x"), pc.LocalAddr()); err != nil {
		t.Error("the refused socket:", err)
	}
}

func TestForeignUnsupported(t *testing.T) {
	c, err := udp.NewConn(foreign{setup{host: loopback4}.peer(t).PacketConn}, nil)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, c)
	_, syscallConn := c.SyscallConn()
	for name, err := range map[string]error{
		"SyscallConn":     syscallConn,
		"Join":            c.Join(udp.Group{Addr: netip.MustParseAddr("239.1.2.3")}),
		"SetMulticastTTL": c.SetMulticastTTL(2),
	} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s returns %v", name, err)
		}
		checkOpError(t, err)
	}
}

func TestSyscallConn(t *testing.T) {
	c := setup{bind: "127.0.0.1:0"}.listen(t, nil)
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	called := false
	check(t, raw.Control(func(uintptr) { called = true }))
	if !called {
		t.Error("Control does not call its function")
	}
}
