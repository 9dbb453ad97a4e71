package udp_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"example.com/udp"
	"golang.org/x/sys/unix"
)

// TestNoDescriptors opens sockets when the process may have no more files:
// EMFILE, nothing is left behind, and afterwards all works.
func TestNoDescriptors(t *testing.T) {
	n := setup{bind: "127.0.0.1:0", host: loopback4}
	p := n.peer(t)
	working := n.listen(t, echo(t))
	ifi := loopback()
	limit := descriptorLimit(t)
	before := descriptors(t)
	next, err := os.Open(os.DevNull) // gets the lowest descriptor that is free
	check(t, err)
	low := limit
	low.Cur = uint64(next.Fd())
	check(t, next.Close())
	check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low))
	for name, open := range map[string]func() (*udp.Conn, error){
		"Listen": func() (*udp.Conn, error) { return udp.Listen(n.bind, startMustNotRun(t)) },
		"Dial":   func() (*udp.Conn, error) { return udp.Dial(t.Context(), p.addr.String(), startMustNotRun(t)) },
		"ListenMulticast": func() (*udp.Conn, error) {
			return udp.ListenMulticast(":0", startMustNotRun(t), udp.Group{Addr: netip.MustParseAddr("239.255.77.9"), Interface: ifi})
		},
	} {
		c, err := open()
		checkOpError(t, err)
		if c != nil || !errors.Is(err, syscall.EMFILE) {
			t.Errorf("%s: %v, %v, want EMFILE", name, c, err)
		}
	}
	p.send(t, working.LocalAddr(), "hello")
	p.expect(t, "hello", working.LocalAddr())
	check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
	n.listen(t, nil).Close()
	if after := descriptors(t); after != before {
		t.Errorf("there were %d descriptors, there are %d", before, after)
	}
}

// TestManySockets has ten thousand sockets open at once, each with its
// goroutine, and each of them answers.
func TestManySockets(t *testing.T) {
	needTime(t)
	count := 10000
	if raceDetector() { // which allows 8128 goroutines
		count = 5000
	}
	limit := descriptorLimit(t)
	need := uint64(count + 1000)
	if limit.Cur < need {
		if limit.Max < need {
			t.Skipf("the process may open %d files: try ulimit -Hn %d", limit.Max, need)
		}
		more := limit
		more.Cur = limit.Max
		check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &more))
		defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
	before := descriptors(t)
	n := setup{bind: "127.0.0.1:0", host: loopback4}
	cs := make([]*udp.Conn, count)
	defer func() {
		for _, c := range cs {
			if c != nil {
				c.Close()
				c.Wait()
			}
		}
		if after := descriptors(t); after > before+1 {
			t.Errorf("there were %d descriptors, there are %d", before, after)
		}
	}()
	h := udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) { c.Reply(d, d.Payload) })
	for i := range cs {
		c, err := udp.Listen(n.bind, h)
		if err != nil {
			t.Fatalf("socket %d: %v", i, err)
		}
		cs[i] = c
	}
	p := n.peer(t)
	for i, c := range cs {
		payload := fmt.Sprint(i)
		p.send(t, c.LocalAddr(), payload)
		p.expect(t, payload, c.LocalAddr())
	}
}

// TestFloodsCostNothing sends tens of thousands of empty datagrams, and as
// many from different sources: afterwards no more memory is in use than
// before.
func TestFloodsCostNothing(t *testing.T) {
	needTime(t)
	total := 50000
	if *soak > 0 {
		total = 1000000
	}
	n := setup{bind: "127.0.0.1:0", host: loopback4}
	forger := openForger(t)
	var received atomic.Uint64
	c := n.listen(t, funcs{
		datagram: func(c *udp.Conn, d udp.Datagram) {
			received.Add(1)
			if received.Load()%100 == 0 {
				c.Reply(d, nil) // which will be refused
			}
		},
		undelivered: func(*udp.Conn, udp.Undelivered) {},
	})
	sender := n.listen(t, nil)
	sent := uint64(0)
	flood := func(from, to int) {
		ds := make([]udp.Datagram, 50)
		for i := range ds {
			ds[i].Addr = c.LocalAddr()
		}
		for i := from; i < to; i += len(ds) {
			if size, err := sender.WriteBatch(ds); size != len(ds) || err != nil {
				t.Fatal(size, err)
			}
			for k := range len(ds) {
				forger.send(t, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), uint16(5000+k)), c.LocalAddr())
			}
			sent += 2 * uint64(len(ds))
		}
		eventually(t, "all is read", func() bool { return received.Load()+c.Stats().Dropped >= sent })
		waitUntilIdle(t, 2) // the last read is counted before its buffer is given back
	}
	flood(0, total/20)
	before := settledHeap()
	flood(total/20, total)
	if grown := settledHeap() - before; grown > 128<<10 {
		t.Errorf("%d bytes are left of %d datagrams", grown, sent)
	}
}

// A forger sends datagrams from addresses that are not its own.
type forger struct{ fd int }

func openForger(t *testing.T) forger {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("%v: try as root, or with CAP_NET_RAW", err)
	}
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return forger{fd}
}

// send sends a datagram of one byte.
func (f forger) send(t *testing.T, from, to netip.AddrPort) {
	b := [29]byte{0: 0x45, 3: 29, 8: 64, 9: unix.IPPROTO_UDP, 25: 9, 28: 'x'}
	copy(b[12:], from.Addr().AsSlice())
	copy(b[16:], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[20:], from.Port())
	binary.BigEndian.PutUint16(b[22:], to.Port())
	if err := unix.Sendto(f.fd, b[:], 0, &unix.SockaddrInet4{Addr: to.Addr().As4()}); err != nil {
		t.Fatal(err)
	}
}

func descriptorLimit(t *testing.T) (limit syscall.Rlimit) {
	t.Helper()
	check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	return limit
}
