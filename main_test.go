package udp_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/udp"
)

// TestMain fails if a test leaves a goroutine behind. More tests run at a time
// than there are processors, if -parallel does not say how many: those that may
// run beside others mostly wait for them.
func TestMain(m *testing.M) {
	flag.Parse()
	if p := flag.Lookup("test.parallel").Value; p.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		p.Set(strconv.Itoa(3 * runtime.GOMAXPROCS(0)))
	}
	before := stacks()
	code := m.Run()
	if left := leaked(before); left != "" {
		fmt.Fprintf(os.Stderr, "goroutines are left after all tests:\n%s\n", left)
		code = max(code, 1)
	}
	os.Exit(code)
}

// leaked returns the stacks of the goroutines that started after before was
// taken and do not end.
func leaked(before map[string]string) string {
	for start := time.Now(); ; runtime.Gosched() {
		var left strings.Builder
		for id, stack := range stacks() {
			// The one that waits for signals stays for good; fuzzing starts it.
			// So does the one that JavaScript calls back.
			_, known := before[id]
			if !known && !strings.Contains(stack, "os/signal.loop") && !strings.Contains(stack, "runtime.handleEvent") {
				left.WriteString(stack + "\n\n")
			}
		}
		if left.Len() == 0 || time.Since(start) > failSafe {
			return left.String()
		}
	}
}

// stacks returns the stack of each goroutine, by "goroutine 1" and so on.
func stacks() map[string]string {
	buf := make([]byte, 1<<20)
	all := make(map[string]string)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		id, _, _ := strings.Cut(stack, " [")
		all[id] = stack
	}
	return all
}

// again is the command that runs this test binary again, for one of its tests,
// and counts what that covers too, if this one was told where
// (-test.gocoverdir).
func again(t *testing.T, test string, args ...string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Skipf("%v: try a system that starts programs", err)
	}
	command := append([]string{self, "-test.run=^" + test + "$"}, args...)
	if dir := flag.Lookup("test.gocoverdir"); dir != nil && dir.Value.String() != "" {
		command = append(command, "-test.gocoverdir="+dir.Value.String())
	}
	return command
}

// goroutine returns the caller's "goroutine 1" or so.
func goroutine() string {
	buf := make([]byte, 64)
	id, _, _ := strings.Cut(string(buf[:runtime.Stack(buf, false)]), " [")
	return id
}

// What follows serves all tests of the package.

var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.MustParseAddr("::1")
)

// A setup is where a scenario runs: how sockets are opened there, and how
// they reach each other.
type setup struct {
	name    string
	config  udp.ListenConfig
	bind    string         // the address to listen on; its port is 0
	host    netip.Addr     // by which what listens there is reached, and where its peers are
	ifi     *net.Interface // where host is
	aliases []netip.Addr   // more addresses like host; multicast wants one

	kernel  bool // these are the kernel's own sockets
	batches bool // a read returns all that waits
	counts  bool // Stats.Dropped is right
}

// needTime skips under -short a test that takes long, or starts programs.
func needTime(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long: run without -short")
	}
}

// kernelSetups returns the kinds of real sockets that scenarios run on: one of
// each family, and a wildcard one, under -short.
func kernelSetups() []setup {
	all := []setup{
		{name: "udp 127.0.0.1", bind: "127.0.0.1:0", host: loopback4},
		{name: "udp wildcard", bind: ":0", host: loopback4},
		{name: "udp4 wildcard", config: udp.ListenConfig{Network: "udp4"}, bind: ":0", host: loopback4},
		{name: "udp4 plain", config: udp.ListenConfig{Network: "udp4", NoOffload: true}, bind: "127.0.0.1:0", host: loopback4},
	}
	if hasIPv6() {
		all = append(all,
			setup{name: "udp ::1", bind: "[::1]:0", host: loopback6},
			setup{name: "udp wildcard from ::1", bind: ":0", host: loopback6},
			setup{name: "udp6 wildcard", config: udp.ListenConfig{Network: "udp6"}, bind: ":0", host: loopback6},
		)
	}
	if testing.Short() {
		all = slices.DeleteFunc(all, func(n setup) bool {
			return n.name != "udp 127.0.0.1" && n.name != "udp wildcard" && n.name != "udp ::1"
		})
	}
	for i := range all {
		all[i].kernel = true
		if all[i].wildcard() && all[i].host.Is4() {
			all[i].aliases = []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.9.8.7")}
		}
		all[i].batches = !portable()
		all[i].counts = runtime.GOOS == "linux"
		all[i].ifi = loopback()
	}
	return all
}

// foreignSetup has sockets that show nothing but the methods of
// net.PacketConn.
func foreignSetup() setup {
	n := setup{name: "foreign", bind: "127.0.0.1:0", host: loopback4}
	n.config.PacketListener = listenerFunc(func(ctx context.Context, network, address string) (net.PacketConn, error) {
		pc, err := new(net.ListenConfig).ListenPacket(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return foreign{pc}, nil
	})
	return n
}

// portable reports that the package is built for its portable path, where a
// read returns one datagram and WriteBatch is a loop.
func portable() bool {
	return runtime.GOOS != "linux" || strings.Contains(buildSetting("-tags"), "udpbasic")
}

func raceDetector() bool { return buildSetting("-race") == "true" }

func buildSetting(key string) string {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

func hasIPv6() bool {
	pc, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		return false
	}
	pc.Close()
	return true
}

func needIPv6(t *testing.T) {
	t.Helper()
	if !hasIPv6() {
		t.Skip("no IPv6: try sysctl net.ipv6.conf.lo.disable_ipv6=0")
	}
}

func (n setup) wildcard() bool { return n.bind == ":0" }

// at returns the address to listen on with another port.
func (n setup) at(port uint16) string {
	return strings.TrimSuffix(n.bind, "0") + strconv.Itoa(int(port))
}

// reach returns the address by which the peers reach c.
func (n setup) reach(c *udp.Conn) netip.AddrPort {
	return netip.AddrPortFrom(n.host, c.LocalAddr().Port())
}

// hosts returns all addresses by which what listens on n is reached.
func (n setup) hosts() []netip.Addr { return append([]netip.Addr{n.host}, n.aliases...) }

// listen opens a Conn for the length of the test.
func (n setup) listen(t *testing.T, h udp.Handler) *udp.Conn {
	t.Helper()
	return n.listenAt(t, n.bind, h)
}

func (n setup) listenAt(t *testing.T, address string, h udp.Handler) *udp.Conn {
	t.Helper()
	c, err := n.config.Listen(t.Context(), address, h)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, c)
	return c
}

func (n setup) dial(t *testing.T, addr netip.AddrPort, h udp.Handler) *udp.Conn {
	t.Helper()
	c, err := n.config.Dial(t.Context(), addr.String(), h)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, c)
	return c
}

// peer opens a bare socket, which knows nothing of package udp.
func (n setup) peer(t *testing.T) bare {
	t.Helper()
	return n.peerAt(t, netip.AddrPortFrom(n.host, 0))
}

func (n setup) peerAt(t *testing.T, addr netip.AddrPort) bare {
	t.Helper()
	pc, err := n.listenBare(t, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return bare{pc, addrPort(pc.LocalAddr())}
}

func (n setup) listenBare(t *testing.T, addr netip.AddrPort) (net.PacketConn, error) {
	var listener udp.PacketListener = new(net.ListenConfig)
	if n.config.PacketListener != nil {
		listener = n.config.PacketListener
	}
	family := "udp6"
	if addr.Addr().Is4() {
		family = "udp4"
	}
	return listener.ListenPacket(t.Context(), family, addr.String())
}

// dead returns an address where nobody listens, and nobody else will: its port
// is none of those that systems choose.
func (n setup) dead(t *testing.T) netip.AddrPort {
	t.Helper()
	var err error
	for range 100 { // as some may be in use
		var pc net.PacketConn
		addr := netip.AddrPortFrom(n.host, uint16(2000+lastDead.Add(1)%8000))
		if pc, err = n.listenBare(t, addr); err == nil {
			pc.Close()
			return addr
		}
	}
	t.Fatal(err)
	panic("not reached")
}

var lastDead atomic.Uint32

// A bare socket knows nothing of package udp.
type bare struct {
	net.PacketConn
	addr netip.AddrPort
}

func (b bare) send(t *testing.T, to netip.AddrPort, payload string) {
	t.Helper()
	check(t, second(b.WriteTo([]byte(payload), net.UDPAddrFromAddrPort(to))))
}

func (b bare) receive(t *testing.T) (payload string, from netip.AddrPort) {
	t.Helper()
	check(t, b.SetReadDeadline(time.Now().Add(failSafe)))
	buf := make([]byte, 1<<16)
	size, addr, err := b.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:size]), addrPort(addr)
}

// expect fails unless the next datagram is payload, from there.
func (b bare) expect(t *testing.T, payload string, from netip.AddrPort) {
	t.Helper()
	if got, addr := b.receive(t); got != payload || addr != from {
		t.Fatalf("got %.40q from %v, want %.40q from %v", got, addr, payload, from)
	}
}

// A recorder is a Handler that keeps what it is called with.
type recorder struct {
	datagrams   chan udp.Datagram
	undelivered chan udp.Undelivered
	stopped     chan error
}

func record() *recorder {
	return &recorder{
		datagrams:   make(chan udp.Datagram, 2000),
		undelivered: make(chan udp.Undelivered, 2000),
		stopped:     make(chan error, 10),
	}
}

func (r *recorder) HandleDatagram(_ *udp.Conn, d udp.Datagram)       { r.datagrams <- d.Clone() }
func (r *recorder) HandleUndelivered(_ *udp.Conn, u udp.Undelivered) { r.undelivered <- u }
func (r *recorder) HandleStop(_ *udp.Conn, err error)                { r.stopped <- err }

// expect fails unless the next datagram is payload, from there.
func (r *recorder) expect(t *testing.T, payload string, from netip.AddrPort) {
	t.Helper()
	if d := wait(t, r.datagrams); string(d.Payload) != payload || d.Addr != from {
		t.Fatalf("got %.40q from %v, want %.40q from %v", d.Payload, d.Addr, payload, from)
	}
}

// funcs is a Handler with all add-ons but HandleBatch. A nil function does
// nothing.
type funcs struct {
	start       func(*udp.Conn) error
	datagram    func(*udp.Conn, udp.Datagram)
	undelivered func(*udp.Conn, udp.Undelivered)
	stop        func(*udp.Conn, error)
}

func (f funcs) HandleStart(c *udp.Conn) error {
	if f.start == nil {
		return nil
	}
	return f.start(c)
}

func (f funcs) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	if f.datagram != nil {
		f.datagram(c, d)
	}
}

func (f funcs) HandleUndelivered(c *udp.Conn, u udp.Undelivered) {
	if f.undelivered != nil {
		f.undelivered(c, u)
	}
}

func (f funcs) HandleStop(c *udp.Conn, err error) {
	if f.stop != nil {
		f.stop(c, err)
	}
}

// batchFuncs is a Handler with all add-ons.
type batchFuncs struct {
	funcs
	batch func(*udp.Conn, []udp.Datagram)
}

func (f batchFuncs) HandleBatch(c *udp.Conn, ds []udp.Datagram) { f.batch(c, ds) }

// echo is a Handler that answers each datagram with its payload.
func echo(t *testing.T) udp.Handler {
	return udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		if size, err := c.Reply(d, d.Payload); size != len(d.Payload) || err != nil {
			t.Errorf("Reply to %v returns %d, %v", d.Addr, size, err)
		}
	})
}

func startMustNotRun(t *testing.T) udp.Handler {
	return funcs{
		start: func(*udp.Conn) error { t.Error("HandleStart is called"); return nil },
		stop:  func(*udp.Conn, error) { t.Error("HandleStop is called") },
	}
}

// foreign hides all but the methods of net.PacketConn.
type foreign struct{ net.PacketConn }

// throughFile makes a new PacketConn of a duplicate of pc's descriptor.
func throughFile(t *testing.T, pc *net.UDPConn) net.PacketConn {
	f, err := pc.File()
	if err != nil {
		t.Skipf("%v: try a system that can duplicate sockets", err)
	}
	defer f.Close()
	pc.Close()
	again, err := net.FilePacketConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

type listenerFunc func(ctx context.Context, network, address string) (net.PacketConn, error)

func (f listenerFunc) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return f(ctx, network, address)
}

// A logBuffer may be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// wait returns what ch has, or the zero value when it is closed.
func wait[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(failSafe):
		t.Fatalf("nothing happens in %v", failSafe)
		panic("not reached")
	}
}

// eventually waits for what has no event of its own.
func eventually(t *testing.T, what string, happens func() bool) {
	t.Helper()
	for start := time.Now(); !happens(); runtime.Gosched() {
		if time.Since(start) > failSafe {
			t.Fatalf("%s: not in %v", what, failSafe)
		}
	}
}

// async calls f in a goroutine, and returns where its result will be.
func async[T any](f func() T) <-chan T {
	ch := make(chan T, 1)
	go func() { ch <- f() }()
	return ch
}

func closeAtEnd(t *testing.T, c *udp.Conn) {
	t.Cleanup(func() {
		c.Close()
		wait(t, async(c.Wait))
	})
}

// shutdown shuts c down, and fails if that fails.
func shutdown(t *testing.T, c *udp.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), failSafe)
	defer cancel()
	if err := c.Shutdown(ctx); err != nil {
		t.Fatal("Shutdown:", err)
	}
}

// flood sends count datagrams from one socket; each is its number.
func flood(t *testing.T, n setup, to netip.AddrPort, count int) {
	t.Helper()
	p := n.peer(t)
	for i := range count {
		p.send(t, to, strconv.Itoa(i))
	}
}

// batch makes a batch of payloads to one address.
func batch(to netip.AddrPort, payloads ...string) []udp.Datagram {
	var ds []udp.Datagram
	for _, payload := range payloads {
		ds = append(ds, udp.Datagram{Addr: to, Payload: []byte(payload)})
	}
	return ds
}

// text returns that many different-looking bytes.
func text(size int) string {
	return strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz", size/36+1)[:size]
}

func addrPort(addr net.Addr) netip.AddrPort {
	a := addr.(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// second drops the first of two results.
func second[T any](_ T, err error) error { return err }

// checkOpError fails unless err has the shape of all errors of the package.
func checkOpError(t *testing.T, err error) *net.OpError {
	t.Helper()
	op, ok := err.(*net.OpError)
	if !ok {
		t.Errorf("%T is no *net.OpError: %v", err, err)
		return new(net.OpError)
	}
	var inner *net.OpError
	if op.Net != "udp" || op.Op == "" || strings.HasPrefix(op.Op, "raw-") || op.Err == nil || errors.As(op.Err, &inner) {
		t.Errorf("the error is %#v: %v", op, err)
	}
	return op
}

// descriptors returns how many the process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("%v: try a system that has it", err)
	}
	return len(all)
}
