//go:build linux && !udpbasic

package udp_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"example.com/udp"
	"golang.org/x/sys/unix"
)

// TestOffloadFails has the kernel refuse to segment, for each reason it has:
// all arrives, in order, one by one, and the Conn says so once.
func TestOffloadFails(t *testing.T) {
	for _, test := range []struct {
		name     string
		sabotage func(t *testing.T) (inside *host, from, to netip.Addr, with *host)
		option   int  // of the socket
		shorter  bool // shorter segments still work
	}{
		{name: "EINVAL: no checksums on this socket", option: unix.SO_NO_CHECK, sabotage: func(t *testing.T) (*host, netip.Addr, netip.Addr, *host) {
			return nil, loopback4, loopback4, nil
		}},
		{name: "EMSGSIZE: longer than the device's packets", shorter: true, sabotage: func(t *testing.T) (*host, netip.Addr, netip.Addr, *host) {
			h := hosts(t, "a")[0]
			h.ip("link set lo mtu 1000")
			return h, loopback4, loopback4, h
		}},
		{name: "EPERM: a firewall that measures them together", sabotage: func(t *testing.T) (*host, netip.Addr, netip.Addr, *host) {
			needPrograms(t, "nftables", "nft")
			h := hosts(t, "a")[0]
			h.nft("add table inet t; add chain inet t out { type filter hook output priority 0; }; add rule inet t out meta length > 1500 drop")
			return h, loopback4, loopback4, h
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inside, from, to, with := test.sabotage(t)
			logged := new(logBuffer)
			n := setup{bind: netip.AddrPortFrom(from, 0).String(), host: to}
			n.config.Logger = slog.New(slog.NewTextHandler(logged, nil))
			var c *udp.Conn
			inside.inside(func() { c = n.listen(t, nil) })
			if test.option != 0 {
				setOption(t, c, unix.SOL_SOCKET, test.option, 1)
			}
			var a, b *collector
			with.inside(func() { a, b = newCollector(t, to), newCollector(t, to) })

			var ds []udp.Datagram
			for i, size := range slices.Concat(
				slices.Repeat([]int{500}, 70), // segments that fit, in more than one message
				slices.Repeat([]int{1200}, 10), []int{7},
				slices.Repeat([]int{1400}, 100),
				slices.Repeat([]int{500}, 10),
			) {
				d := udp.Datagram{Payload: make([]byte, size), Addr: a.addr}
				if i%3 == 0 {
					d.Addr = b.addr
				}
				number(d.Payload, i)
				ds = append(ds, d)
			}
			for round := range 3 {
				if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
					t.Fatalf("round %d: WriteBatch sends %d of %d: %v", round, sent, len(ds), err)
				}
				for i, d := range ds {
					to := a
					if d.Addr == b.addr {
						to = b
					}
					if err := to.want(t, d.Payload, netip.AddrPortFrom(from, c.LocalAddr().Port())); err != nil {
						t.Fatalf("round %d, number %d: %v", round, i, err)
					}
				}
				if round == 0 && !strings.Contains(logged.String(), "offload") {
					t.Errorf("nobody is told:\n%s", logged)
				}
			}
			if lines := strings.Count(logged.String(), "offload"); lines > 3 {
				t.Errorf("it fails again and again:\n%s", logged)
			}
			if s := c.Stats(); s.WriteErrors != 0 || s.WriteDatagrams != uint64(3*len(ds)) {
				t.Errorf("%+v, want %d datagrams and no errors", s, 3*len(ds))
			}
			a.wantNothing(t, c)
			b.wantNothing(t, c)

			for _, size := range []int{1400, 500} {
				var got int
				with.inside(func() { got = firstRead(t, c, to, size) })
				if want := test.shorter && size == 500; want != (got > 1) {
					t.Errorf("after it all, 10 datagrams of %d bytes are read as %d at first", size, got)
				}
			}
		})
	}
}

// firstRead sends ten datagrams in a batch to a new Conn, and returns how
// many it reads at first: more than one only if the kernel keeps them as one.
func firstRead(t *testing.T, c *udp.Conn, host netip.Addr, size int) int {
	t.Helper()
	reads := make(chan int, 20)
	to, err := udp.Listen(netip.AddrPortFrom(host, 0).String(), batchFuncs{batch: func(_ *udp.Conn, ds []udp.Datagram) { reads <- len(ds) }})
	check(t, err)
	defer to.Wait()
	defer to.Close()
	setOption(t, to, unix.SOL_UDP, unix.UDP_GRO, 1) // as it is after a burst
	d := udp.Datagram{Payload: make([]byte, size), Addr: to.LocalAddr()}
	if sent, err := c.WriteBatch(slices.Repeat([]udp.Datagram{d}, 10)); sent != 10 || err != nil {
		t.Errorf("WriteBatch sends %d of 10: %v", sent, err)
	}
	return wait(t, reads)
}

// TestOffloadKept has datagrams fail for reasons of their own, and sends runs
// of any length: none is a reason to stop segmenting.
func TestOffloadKept(t *testing.T) {
	c, err := udp.Listen("127.0.0.1:0", nil)
	check(t, err)
	closeAtEnd(t, c)
	to := newCollector(t, loopback4)
	for name, bad := range map[string]udp.Datagram{
		"too long":             {Payload: make([]byte, longest4+1), Addr: to.addr},
		"from nowhere":         {Payload: make([]byte, 10), Addr: to.addr, Local: netip.MustParseAddr("192.0.2.1")},
		"no such interface":    {Payload: make([]byte, 10), Addr: netip.MustParseAddrPort("239.1.1.1:9"), Interface: 1 << 20},
		"from a broadcast":     {Payload: make([]byte, 10), Addr: to.addr, Local: netip.MustParseAddr("255.255.255.254")},
		"to port 0, elsewhere": {Payload: make([]byte, 10), Addr: netip.MustParseAddrPort("127.0.0.1:0")},
	} {
		if sent, err := c.WriteBatch(slices.Repeat([]udp.Datagram{bad}, 5)); sent != 0 || err == nil {
			t.Errorf("%s: WriteBatch sends %d: %v", name, sent, err)
		}
		if got := firstRead(t, c, loopback4, 100); got != 10 {
			t.Errorf("%s: 10 datagrams are then read as %d at first", name, got)
		}
	}
	long := slices.Repeat([]udp.Datagram{{Payload: make([]byte, 1300), Addr: to.addr}}, 100)
	if sent, err := c.WriteBatch(long); sent != len(long) || err != nil {
		t.Errorf("WriteBatch sends %d of %d: %v", sent, len(long), err)
	}
	if got := firstRead(t, c, loopback4, 1300); got != 10 {
		t.Errorf("after more than fits into a packet, 10 datagrams are read as %d at first", got)
	}
}

// TestOffloadAfterReport meets the report that another datagram was too long
// for its path: that is none about segments.
func TestOffloadAfterReport(t *testing.T) {
	h := hosts(t, "a")[0] // as the kernel will remember the path for some time
	for _, test := range []struct {
		name    string
		handler udp.UndeliveredHandler
	}{{"heard", record()}, {"unheard", nil}} {
		t.Run(test.name, func(t *testing.T) {
			g := newGate()
			defer g.open()
			f := funcs{datagram: func(*udp.Conn, udp.Datagram) { g.pass() }}
			var handler udp.Handler = udp.HandlerFunc(f.datagram)
			if test.handler != nil {
				f.undelivered = test.handler.HandleUndelivered
				handler = f
			}
			h.inside(func() {
				c, err := udp.Listen("127.0.0.1:0", handler)
				check(t, err)
				closeAtEnd(t, c)
				to := newCollector(t, loopback4)
				check(t, c.Connect(to.addr))
				to.write(t, nil, c.LocalAddr())
				g.wait(t)

				tooBig(t, c.LocalAddr(), to.addr, 1200)
				eventually(t, "an error is pending", func() bool { return polls(t, c, unix.POLLERR) })
				ds := slices.Repeat([]udp.Datagram{{Payload: make([]byte, 100)}}, 10)
				if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
					t.Errorf("WriteBatch sends %d of %d: %v", sent, len(ds), err)
				}
				for range ds {
					check(t, to.want(t, ds[0].Payload, c.LocalAddr()))
				}
				check(t, c.Disconnect())
				if got := firstRead(t, c, loopback4, 100); got != 10 {
					t.Errorf("10 datagrams are then read as %d at first", got)
				}
				g.open()
				shutdown(t, c)
				if s := c.Stats(); s.Undelivered != 1 || s.WriteErrors != 0 {
					t.Errorf("%+v, want one report and no error", s)
				}
			})
		})
	}
}

// TestBatchRefused sends batches to where nobody listens: all are sent, and
// each report that the kernel makes is counted, and delivered, once.
func TestBatchRefused(t *testing.T) {
	const count = 20
	for _, test := range []struct {
		name string
		size func(i int) int
		want func(got uint64) bool
	}{
		{"each a message", func(i int) int { return i + 1 }, func(got uint64) bool { return got == count }},
		{"one message", func(i int) int { return 100 }, func(got uint64) bool { return got >= 1 && got <= count }},
	} {
		for _, heard := range []bool{true, false} {
			for _, noOffload := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, heard %v, NoOffload %v", test.name, heard, noOffload), func(t *testing.T) {
					g := newGate()
					defer g.open()
					var reports atomic.Uint64
					f := funcs{datagram: func(*udp.Conn, udp.Datagram) { g.pass() }}
					var handler udp.Handler = udp.HandlerFunc(f.datagram)
					if heard {
						f.undelivered = func(*udp.Conn, udp.Undelivered) { reports.Add(1) }
						handler = f
					}
					n := setup{bind: "127.0.0.1:0", host: loopback4}
					n.config.NoOffload = noOffload
					c := n.listen(t, handler)
					other := newCollector(t, loopback4)
					other.write(t, nil, c.LocalAddr())
					g.wait(t)

					dead := n.dead(t)
					check(t, c.Connect(dead))
					var ds []udp.Datagram
					for i := range count {
						ds = append(ds, udp.Datagram{Payload: make([]byte, test.size(i))})
					}
					if sent, err := c.WriteBatch(ds); sent != count || err != nil {
						t.Errorf("WriteBatch sends %d of %d: %v", sent, count, err)
					}
					// Now all have been refused, and the peer comes to life.
					alive := newCollectorAt(t, dead)
					if sent, err := c.WriteBatch(ds); sent != count || err != nil {
						t.Errorf("WriteBatch sends %d of %d to the living: %v", sent, count, err)
					}
					for _, d := range ds {
						check(t, alive.want(t, d.Payload, c.LocalAddr()))
					}
					g.open()
					shutdown(t, c)
					s := c.Stats()
					if !test.want(s.Undelivered) && !(noOffload && s.Undelivered == count) || s.WriteErrors != 0 {
						t.Errorf("%+v", s)
					}
					if heard && reports.Load() != s.Undelivered {
						t.Errorf("%d reports are delivered, %d counted", reports.Load(), s.Undelivered)
					}
				})
			}
		}
	}
}

// TestBatchOnePeerRefuses sends one batch to peers of which some refuse: an
// unconnected socket sends to the others as if nothing was.
func TestBatchOnePeerRefuses(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		r := record()
		c := n.listen(t, r)
		to, dead := newCollector(t, n.host), n.dead(t)
		var ds []udp.Datagram
		for i := range 200 {
			d := udp.Datagram{Payload: make([]byte, 4+i/20*10), Addr: to.addr}
			if i%7 == 3 {
				d.Addr = dead
			}
			number(d.Payload, i)
			ds = append(ds, d)
		}
		for range 3 {
			if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
				t.Fatalf("WriteBatch sends %d of %d: %v", sent, len(ds), err)
			}
			for _, d := range ds {
				if d.Addr == to.addr {
					check(t, to.want(t, d.Payload, n.reach(c)))
				}
			}
		}
		to.wantNothing(t, c)
		if u := wait(t, r.undelivered); u.Addr != dead || !errors.Is(u.Err, syscall.ECONNREFUSED) {
			t.Errorf("%+v, want ECONNREFUSED from %v", u, dead)
		}
		if s := c.Stats(); s.WriteErrors != 0 || s.WriteDatagrams != uint64(3*len(ds)+1) {
			t.Errorf("%+v, want %d datagrams and no errors", s, 3*len(ds)+1)
		}
	})
}

// TestBatchBufferFull writes more than the send buffer holds to a device that
// is slow to take it: WriteBatch and WriteTo wait, and lose nothing.
func TestBatchBufferFull(t *testing.T) {
	h := hosts(t, "a")[0]
	for _, noOffload := range []bool{false, true} {
		t.Run(fmt.Sprintf("NoOffload %v", noOffload), func(t *testing.T) {
			c, to := slow(t, h, noOffload)
			var ds []udp.Datagram
			for i := range 300 {
				d := udp.Datagram{Payload: make([]byte, 100+i%20/10*500), Addr: to[i/50%2].addr}
				number(d.Payload, i)
				ds = append(ds, d)
			}
			other := []byte("from another goroutine")
			written := async(func() error {
				sent, err := c.WriteBatch(ds)
				if sent != len(ds) {
					return fmt.Errorf("WriteBatch sends %d of %d: %v", sent, len(ds), err)
				}
				return err
			})
			eventually(t, "the send buffer is full", func() bool { return !polls(t, c, unix.POLLOUT) })
			writtenToo := async(func() error { return second(c.WriteTo(other, to[2].addr)) })
			h.tc(t, "change", "100mbit")
			check(t, wait(t, written))
			check(t, wait(t, writtenToo))
			for i, d := range ds {
				if err := to[i/50%2].want(t, d.Payload, c.LocalAddr()); err != nil {
					t.Fatalf("number %d: %v", i, err)
				}
			}
			check(t, to[2].want(t, other, c.LocalAddr()))
			for _, s := range to {
				s.wantNothing(t, c)
			}
		})
	}
}

// TestBatchCloseWhileFull closes a Conn whose WriteBatch waits for space.
func TestBatchCloseWhileFull(t *testing.T) {
	h := hosts(t, "a")[0]
	c, to := slow(t, h, false)
	type result struct {
		sent int
		err  error
	}
	ds := slices.Repeat([]udp.Datagram{{Payload: make([]byte, 1000), Addr: to[0].addr}}, 300)
	written := async(func() result { sent, err := c.WriteBatch(ds); return result{sent, err} })
	eventually(t, "the send buffer is full", func() bool { return !polls(t, c, unix.POLLOUT) })
	check(t, c.Close())
	if r := wait(t, written); r.sent >= len(ds) || !errors.Is(r.err, net.ErrClosed) {
		t.Errorf("WriteBatch returns %d, %v", r.sent, r.err)
	} else if s := c.Stats(); s.WriteDatagrams != uint64(r.sent) || s.WriteErrors != uint64(len(ds)-r.sent) {
		t.Errorf("WriteBatch returns %d of %d, and counts %+v", r.sent, len(ds), s)
	}
}

// slow returns a Conn in h with a small send buffer, and three peers, on a
// device that takes some packets at once, and then hardly any. One processor
// receives them all: the device gives them to the one that sends, or to one
// whose timer says that there is room, and two would let them overtake each
// other.
func slow(t *testing.T, h *host, noOffload bool) (c *udp.Conn, to []*collector) {
	needPrograms(t, "iproute2", "tc")
	h.tc(t, "replace", "8kbit")
	if out, err := h.command("sh", "-c", "echo 1 >/sys/class/net/lo/queues/rx-0/rps_cpus").CombinedOutput(); err != nil {
		t.Skipf("one processor for all that comes: %v: %s: try a kernel with CONFIG_RPS", err, out)
	}
	h.inside(func() {
		n := setup{bind: "127.0.0.1:0", host: loopback4}
		n.config.NoOffload, n.config.WriteBuffer = noOffload, 3000
		c = n.listen(t, nil)
		to = []*collector{newCollector(t, loopback4), newCollector(t, loopback4), newCollector(t, loopback4)}
	})
	return c, to
}

// tc lets lo carry that much.
func (h *host) tc(t *testing.T, verb, rate string) {
	t.Helper()
	cmd := exec.Command("tc", "-n", h.name, "qdisc", verb, "dev", "lo", "root", "tbf", "rate", rate, "burst", "3000", "limit", "10000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("tc: %v: %s: try a kernel with CONFIG_NET_SCH_TBF", err, out)
	}
}

// TestSegmentedRuns reads what a foreign sender has segmented in all ways
// that the kernel lets it, and wants it cut at the same places.
func TestSegmentedRuns(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		n.config.ReadBuffer = roomForAll
		h := newGate()
		defer h.open()
		var sizes []int
		var bytes []byte
		done := make(chan struct{})
		c := n.listen(t, batchFuncs{batch: func(_ *udp.Conn, ds []udp.Datagram) {
			h.pass()
			for _, d := range ds {
				if string(d.Payload) == "end" {
					close(done)
					return
				}
				sizes = append(sizes, len(d.Payload))
				bytes = append(bytes, d.Payload...)
			}
		}})
		from := newCollector(t, n.host)
		from.needSegmentation(t)
		var wantSizes []int
		var wantBytes []byte
		for i, test := range []struct{ total, segment int }{
			{1, 1}, {2, 1}, {64, 1}, {63, 2}, {100, 99}, {100, 100}, {100, 101}, {6400, 100}, {6399, 100}, {6301, 100}, {65000, 1300}, {2600, 1300}, {3, 1000},
		} {
			payload := make([]byte, test.total)
			number(payload, i)
			from.writeSegmented(t, payload, test.segment, n.reach(c))
			wantBytes = append(wantBytes, payload...)
			for left := test.total; left > 0; left -= test.segment {
				wantSizes = append(wantSizes, min(left, test.segment))
			}
		}
		from.write(t, []byte("end"), n.reach(c))
		h.open()
		wait(t, done)
		if !slices.Equal(sizes, wantSizes) {
			t.Errorf("the lengths are %v, want %v", sizes, wantSizes)
		}
		if string(bytes) != string(wantBytes) {
			t.Error("the bytes are others than were sent")
		}
	})
}

// needSegmentation skips the test where the kernel cannot.
func (s *collector) needSegmentation(t *testing.T) {
	t.Helper()
	raw, err := s.SyscallConn()
	check(t, err)
	check(t, raw.Control(func(fd uintptr) { _, err = unix.GetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT) }))
	if err != nil {
		t.Skipf("UDP_SEGMENT: %v: try Linux 4.18 or later", err)
	}
}

// writeSegmented has the kernel cut payload into datagrams (UDP_SEGMENT).
func (s *collector) writeSegmented(t *testing.T, payload []byte, segment int, to netip.AddrPort) {
	t.Helper()
	control := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	*(*uint16)(unsafe.Pointer(&control[unix.CmsgLen(0)])) = uint16(segment)
	if _, _, err := s.WriteMsgUDPAddrPort(payload, control, to); err != nil {
		t.Fatalf("%d bytes in segments of %d: %v", len(payload), segment, err)
	}
}

// What follows serves the tests of this kind.

// inside runs f in the namespace: sockets that f opens are there for good. A
// nil host is where the tests run.
func (h *host) inside(f func()) {
	if h == nil {
		f()
		return
	}
	h.t.Helper()
	done := make(chan error, 1)
	go func() {
		err := errors.New("the test fails inside of " + h.name)
		defer func() { done <- err }()
		// The thread comes back: it may be the first, whose namespace
		// /proc/net shows.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		back, openErr := os.Open("/proc/thread-self/ns/net")
		if openErr != nil {
			err = openErr
			return
		}
		defer back.Close()
		there, openErr := os.Open("/run/netns/" + h.name)
		if openErr != nil {
			err = openErr
			return
		}
		defer there.Close()
		if setErr := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); setErr != nil {
			err = setErr
			return
		}
		defer func() {
			if setErr := unix.Setns(int(back.Fd()), unix.CLONE_NEWNET); setErr != nil {
				panic(setErr)
			}
		}()
		f()
		err = nil
	}()
	if err := <-done; err != nil {
		h.t.Fatal(err)
	}
}

// tooBig tells the sender of a datagram, falsely, that it was longer than the
// path takes (RFC 1191).
func tooBig(t *testing.T, from, to netip.AddrPort, mtu uint16) {
	t.Helper()
	conn, err := net.Dial("ip4:icmp", from.Addr().String())
	check(t, err)
	defer conn.Close()
	header := make([]byte, 20, 28) // of the datagram
	header[0], header[8], header[9] = 4<<4|5, 64, unix.IPPROTO_UDP
	header[2], header[3] = 0xff, 0
	a, b := from.Addr().As4(), to.Addr().As4()
	copy(header[12:], a[:])
	copy(header[16:], b[:])
	header = append(header, byte(from.Port()>>8), byte(from.Port()), byte(to.Port()>>8), byte(to.Port()), 0xff, 0, 0, 0)
	const unreachable, fragmentationNeeded = 3, 4
	message := append([]byte{unreachable, fragmentationNeeded, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, header...)
	sum := uint32(0)
	for i := 0; i < len(message); i += 2 {
		sum += uint32(message[i])<<8 | uint32(message[i+1])
	}
	sum = ^(sum>>16 + sum&0xffff)
	message[2], message[3] = byte(sum>>8), byte(sum)
	check(t, second(conn.Write(message)))
}

// polls reports whether the kernel says that of c's socket (poll(2)).
func polls(t *testing.T, c *udp.Conn, events int16) bool {
	t.Helper()
	raw, err := c.SyscallConn()
	check(t, err)
	fds := []unix.PollFd{{Events: events}}
	check(t, raw.Control(func(fd uintptr) {
		fds[0].Fd = int32(fd)
		_, err = unix.Poll(fds, 0)
	}))
	check(t, err)
	return fds[0].Revents&events != 0
}

func setOption(t *testing.T, c *udp.Conn, level, name, value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	check(t, err)
	var err2 error
	check(t, raw.Control(func(fd uintptr) { err2 = unix.SetsockoptInt(int(fd), level, name, value) }))
	check(t, err2)
}
