package udp_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// testReply asks at every address that the socket has: each answer leaves
// from the address that was asked.
func testReply(t *testing.T, n setup) {
	c := n.listen(t, echo(t))
	p := n.peer(t)
	for _, host := range n.hosts() {
		asked := netip.AddrPortFrom(host, c.LocalAddr().Port())
		p.send(t, asked, host.String())
		p.expect(t, host.String(), asked)
	}
}

// testReplyBatch hands what HandleBatch got to WriteBatch, as it is.
func testReplyBatch(t *testing.T, n setup) {
	c := n.listen(t, batchFuncs{batch: func(c *udp.Conn, ds []udp.Datagram) {
		if size, err := c.WriteBatch(ds); size != len(ds) || err != nil {
			t.Errorf("WriteBatch sends %d of %d: %v", size, len(ds), err)
		}
	}})
	p := n.peer(t)
	for _, host := range n.hosts() {
		asked := netip.AddrPortFrom(host, c.LocalAddr().Port())
		for i := range 5 {
			p.send(t, asked, strconv.Itoa(i))
		}
		for i := range 5 {
			p.expect(t, strconv.Itoa(i), asked)
		}
	}
}

// TestReplyToBroadcast asks at the broadcast address of lo: the answer leaves
// from the interface's own.
func TestReplyToBroadcast(t *testing.T) {
	for _, n := range kernelSetups() {
		if !n.wildcard() || !n.host.Is4() {
			continue
		}
		t.Run(n.name, func(t *testing.T) {
			h := record()
			c := n.listen(t, funcs{datagram: func(c *udp.Conn, d udp.Datagram) {
				h.HandleDatagram(c, d)
				echo(t).HandleDatagram(c, d)
			}})
			p := n.peer(t)
			broadcast := netip.MustParseAddr("127.255.255.255")
			if runtime.GOOS != "linux" {
				// Not every system takes it for one, or delivers it.
				probe := n.peerAt(t, netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
				_, err := p.WriteTo(nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(broadcast, probe.addr.Port())))
				probe.SetReadDeadline(time.Now().Add(time.Second))
				if _, _, errRead := probe.ReadFrom(make([]byte, 1)); err != nil || errRead != nil {
					t.Skipf("nothing arrives at %v: %v, %v: try Linux", broadcast, err, errRead)
				}
			}
			p.send(t, netip.AddrPortFrom(broadcast, c.LocalAddr().Port()), "anybody?")
			want := broadcast
			if runtime.GOOS == "linux" {
				want = netip.AddrFrom4([4]byte{255, 255, 255, 255})
			}
			if d := wait(t, h.datagrams); d.Local != want {
				t.Errorf("Local is %v, want %v", d.Local, want)
			}
			p.expect(t, "anybody?", n.reach(c))
		})
	}
}

// testWriteBatch sends one batch of all lengths to several peers.
func testWriteBatch(t *testing.T, n setup) {
	c := n.listen(t, nil)
	if size, err := c.WriteBatch(nil); size != 0 || err != nil {
		t.Errorf("an empty batch: %d, %v", size, err)
	}
	peers := []bare{n.peer(t), n.peer(t), n.peer(t)}
	var ds []udp.Datagram
	for _, size := range []int{0, 1, 1, 1, 0, 1200, 1200, 1200, 7, 1200, 9000, 0, 0, 20000} {
		for _, p := range peers {
			ds = append(ds, batch(p.addr, text(size))...)
		}
	}
	if size, err := c.WriteBatch(ds); size != len(ds) || err != nil {
		t.Errorf("WriteBatch sends %d of %d: %v", size, len(ds), err)
	}
	for _, d := range ds {
		for _, p := range peers {
			if p.addr == d.Addr {
				p.expect(t, string(d.Payload), n.reach(c))
			}
		}
	}
}

// testWriteBatchAdjacent sends payloads that lie one behind the other in
// memory, as those of a coalesced read do.
func testWriteBatchAdjacent(t *testing.T, n setup) {
	c := n.listen(t, nil)
	p := n.peer(t)
	memory := []byte(text(2000))
	var ds []udp.Datagram
	for _, size := range []int{100, 100, 100, 0, 0, 50, 100, 1, 500, 500, 49, 500} {
		ds = append(ds, udp.Datagram{Addr: p.addr, Payload: memory[:size]})
		memory = memory[size:]
	}
	if size, err := c.WriteBatch(ds); size != len(ds) || err != nil || len(memory) != 0 {
		t.Errorf("WriteBatch sends %d of %d: %v; %d bytes are left", size, len(ds), err, len(memory))
	}
	for _, d := range ds {
		p.expect(t, string(d.Payload), n.reach(c))
	}
}

// TestWriteBatchFamilies mixes IPv4 and IPv6 in one batch.
func TestWriteBatchFamilies(t *testing.T) {
	needIPv6(t)
	n := setup{bind: ":0", host: loopback4}
	c := n.listen(t, nil)
	p4 := n.peer(t)
	n.host = loopback6
	p6 := n.peer(t)
	var ds []udp.Datagram
	for range 3 {
		ds = append(ds, batch(p4.addr, "four", "four")...)
		ds = append(ds, batch(p6.addr, "six", "six")...)
	}
	if size, err := c.WriteBatch(ds); size != len(ds) || err != nil {
		t.Errorf("WriteBatch sends %d of %d: %v", size, len(ds), err)
	}
	for range 6 {
		p4.expect(t, "four", netip.AddrPortFrom(loopback4, c.LocalAddr().Port()))
		p6.expect(t, "six", netip.AddrPortFrom(loopback6, c.LocalAddr().Port()))
	}
}

func testWriteBatchUnchanged(t *testing.T, n setup) {
	c := n.listen(t, nil)
	a, b := n.peer(t), n.peer(t)
	var ds []udp.Datagram
	for i := range 20 {
		ds = append(ds, batch(a.addr, strconv.Itoa(i), text(50))...)
		ds = append(ds, batch(b.addr, text(i))...)
	}
	before := append([]udp.Datagram(nil), ds...)
	payload := bytes.Clone(ds[1].Payload)
	check(t, second(c.WriteBatch(ds)))
	if !reflect.DeepEqual(ds, before) || !bytes.Equal(ds[1].Payload, payload) {
		t.Errorf("WriteBatch changes its argument")
	}
}

// testWriteBatchErrors puts datagrams that cannot be sent into each place of
// a batch: the others are sent, and the error is that of the first.
func testWriteBatchErrors(t *testing.T, n setup) {
	c := n.listen(t, nil)
	p := n.peer(t)
	good := batch(p.addr, "good")[0]
	long := batch(p.addr, text(65536))[0]
	nowhere := udp.Datagram{Payload: []byte("x")}
	isLong := func(err error) bool { return errors.Is(err, syscall.EMSGSIZE) }
	isNowhere := func(err error) bool { return err != nil && !errors.Is(err, syscall.EMSGSIZE) }
	for _, test := range []struct {
		name string
		ds   []udp.Datagram
		n    int
		is   func(error) bool
	}{
		{"long first", []udp.Datagram{long, good, good}, 2, isLong},
		{"long in the middle", []udp.Datagram{good, good, long, good}, 3, isLong},
		{"long last", []udp.Datagram{good, long}, 1, isLong},
		{"nothing else", []udp.Datagram{long}, 0, isLong},
		{"nowhere first", []udp.Datagram{nowhere, good, good}, 2, isNowhere},
		{"nowhere last", []udp.Datagram{good, good, nowhere}, 2, isNowhere},
		{"long, then nowhere", []udp.Datagram{good, long, good, nowhere, good}, 3, isLong},
		{"nowhere, then long", []udp.Datagram{nowhere, good, long, good}, 2, isNowhere},
		{"more bad than good", []udp.Datagram{long, nowhere, long, good, long, nowhere}, 1, isLong},
	} {
		size, err := c.WriteBatch(test.ds)
		if size != test.n || !test.is(err) {
			t.Errorf("%s: %d, %v, want %d", test.name, size, err, test.n)
			continue
		}
		checkOpError(t, err)
		for range test.n {
			p.expect(t, "good", n.reach(c))
		}
	}
	// Nothing was sent twice: the next that arrives is the next that is sent.
	check(t, second(c.WriteTo([]byte("last"), p.addr)))
	p.expect(t, "last", n.reach(c))
}

// TestWriteFamily writes to the family that the socket does not have.
func TestWriteFamily(t *testing.T) {
	needIPv6(t)
	four := setup{config: udp.ListenConfig{Network: "udp4"}, bind: ":0", host: loopback4}
	six := setup{config: udp.ListenConfig{Network: "udp6"}, bind: ":0", host: loopback6}
	bound := setup{bind: "127.0.0.1:0", host: loopback4}
	for _, test := range []struct{ own, other setup }{{four, six}, {six, four}, {bound, six}} {
		c := test.own.listen(t, nil)
		good, bad := test.own.peer(t), test.other.peer(t)
		_, err := c.WriteTo([]byte("x"), bad.addr)
		checkOpError(t, err)
		size, err := c.WriteBatch(append(batch(bad.addr, "x"), batch(good.addr, "hello")...))
		if size != 1 || err == nil {
			t.Errorf("WriteBatch from %v: %d, %v", c, size, err)
		}
		good.expect(t, "hello", test.own.reach(c))
		if got := c.Stats().WriteDatagrams; got != 1 {
			t.Errorf("%d datagrams are written", got)
		}
	}
}

// TestWriteToMapped writes to an IPv4 address that is mapped into IPv6: it
// is the IPv4 address.
func TestWriteToMapped(t *testing.T) {
	for _, n := range kernelSetups() {
		if !n.host.Is4() {
			continue
		}
		c := n.listen(t, nil)
		p := n.peer(t)
		mapped := netip.AddrPortFrom(netip.AddrFrom16(n.host.As16()), p.addr.Port())
		check(t, second(c.WriteTo([]byte("mapped"), mapped)))
		p.expect(t, "mapped", n.reach(c))
		check(t, c.Connect(mapped))
		if c.RemoteAddr() != p.addr {
			t.Errorf("connected to %v, it says %v", mapped, c.RemoteAddr())
		}
	}
}

// testWriteBatchOrder sends a thousand datagrams of changing lengths to four
// sockets: each gets its own in order.
func testWriteBatchOrder(t *testing.T, n setup) {
	const rounds, size = 10, 100
	c := n.listen(t, nil)
	var to []*recorder
	var addrs []netip.AddrPort
	for range 4 {
		r := record()
		to = append(to, r)
		addrs = append(addrs, n.reach(n.listen(t, r)))
	}
	next, expected := make([]int, 4), make([]int, 4)
	for round := range rounds {
		var ds []udp.Datagram
		for i := range size {
			// Runs of one peer and of one length, of all lengths.
			k := i / (round + 1) % 4
			length := 4 + (i/7%3)*(round*30)
			ds = append(ds, batch(addrs[k], fmt.Sprintf("%0*d", length, next[k]))...)
			next[k]++
		}
		if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
			t.Fatalf("WriteBatch sends %d of %d: %v", sent, len(ds), err)
		}
		for k, r := range to {
			for ; expected[k] < next[k]; expected[k]++ {
				d := wait(t, r.datagrams)
				if got, err := strconv.Atoi(string(d.Payload)); got != expected[k] || err != nil {
					t.Fatalf("socket %d gets %q, want %d", k, d.Payload, expected[k])
				}
			}
		}
	}
}

// testConcurrentWrites writes from eight goroutines, in all ways.
func testConcurrentWrites(t *testing.T, n setup) {
	const writers, rounds = 8, 10
	r := record()
	to := n.listen(t, r)
	addr := n.reach(to)
	c := n.listen(t, nil)
	for range rounds {
		var done sync.WaitGroup
		for i := range writers {
			payload := strconv.Itoa(i)
			done.Go(func() {
				_, err := c.WriteTo([]byte(payload), addr)
				_, err2 := c.Reply(udp.Datagram{Addr: addr}, []byte(payload))
				_, err3 := c.WriteBatch(batch(addr, payload, payload, payload))
				if err := errors.Join(err, err2, err3); err != nil {
					t.Error(err)
				}
			})
		}
		done.Wait()
		got := make(map[string]int)
		for range writers * 5 {
			got[string(wait(t, r.datagrams).Payload)]++
		}
		for i := range writers {
			if got[strconv.Itoa(i)] != 5 {
				t.Fatalf("the payloads are %v", got)
			}
		}
	}
}

// TestNoBufferSpace writes to a socket whose system says ENOBUFS: a few times,
// and always.
func TestNoBufferSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails := 0
		tries := 0
		pc := newFakeSocket()
		pc.write = func([]byte) error {
			tries++
			if tries <= fails {
				return syscall.ENOBUFS
			}
			return nil
		}
		c, err := udp.NewConn(pc, nil)
		check(t, err)
		closeAtEnd(t, c)
		to := netip.MustParseAddrPort("192.0.2.1:9")

		fails = 2
		start := time.Now()
		if size, err := c.WriteTo([]byte("hello"), to); size != 5 || err != nil {
			t.Errorf("after two failures: %d, %v", size, err)
		}
		if time.Since(start) == 0 {
			t.Error("it does not back off")
		}

		fails, tries = 1<<30, 0
		start = time.Now()
		if size, err := c.WriteTo([]byte("hello"), to); size != 0 || !errors.Is(err, syscall.ENOBUFS) {
			t.Errorf("for ever: %d, %v", size, err)
		} else {
			checkOpError(t, err)
		}
		if took := time.Since(start); took == 0 || took > time.Second || tries > 1000 {
			t.Errorf("it gives up after %v and %d tries", took, tries)
		}
	})
}

// A fakeSocket is a net.PacketConn of channels. Its functions may be nil:
// reading waits until it is closed, writing succeeds.
type fakeSocket struct {
	read   func(b []byte) (int, net.Addr, error)
	write  func(b []byte) error
	closed chan struct{}
	once   sync.Once
}

func newFakeSocket() *fakeSocket { return &fakeSocket{closed: make(chan struct{})} }

func (s *fakeSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case <-s.closed:
		return 0, nil, &net.OpError{Op: "read", Net: "udp", Source: s.LocalAddr(), Err: net.ErrClosed}
	default:
	}
	if s.read != nil {
		return s.read(b)
	}
	<-s.closed
	return s.ReadFrom(b)
}

func (s *fakeSocket) WriteTo(b []byte, addr net.Addr) (int, error) {
	if s.write != nil {
		if err := s.write(b); err != nil {
			return 0, &net.OpError{Op: "write", Net: "udp", Source: s.LocalAddr(), Addr: addr, Err: err}
		}
	}
	return len(b), nil
}

func (s *fakeSocket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *fakeSocket) LocalAddr() net.Addr {
	return net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.2:7"))
}
func (s *fakeSocket) SetDeadline(time.Time) error      { return nil }
func (s *fakeSocket) SetReadDeadline(time.Time) error  { return nil }
func (s *fakeSocket) SetWriteDeadline(time.Time) error { return nil }

// TestReplyToNobody has datagrams whose source no host has, which anybody can
// forge: nothing that was received is sent back there, on no path.
func TestReplyToNobody(t *testing.T) {
	for _, n := range kernelSetups() {
		t.Run(n.name, func(t *testing.T) {
			c := n.listen(t, nil)
			for _, source := range []string{"0.0.0.0", "::", "::ffff:0.0.0.0"} {
				d := udp.Datagram{Addr: netip.AddrPortFrom(netip.MustParseAddr(source), c.LocalAddr().Port()), Local: n.host, Payload: []byte("x")}
				for name, err := range map[string]error{
					"Reply":      second(c.Reply(d, []byte("x"))),
					"no Local":   second(c.Reply(udp.Datagram{Addr: d.Addr}, []byte("x"))),
					"WriteBatch": second(c.WriteBatch([]udp.Datagram{d})),
					"two":        second(c.WriteBatch([]udp.Datagram{d, d})),
					"Queue":      c.Queue(d),
				} {
					if err == nil {
						t.Errorf("%s to %s is sent", name, source)
					}
				}
			}
			if s := c.Stats(); s.WriteDatagrams != 0 || s.WriteErrors != 3*6 {
				t.Errorf("%+v", s)
			}
		})
	}
}
