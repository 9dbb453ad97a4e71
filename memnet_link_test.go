package udp_test

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// arrivals opens a Conn at an address that notes what arrives, and when.
func (n setup) arrivals(t *testing.T, address string) *[]string {
	t.Helper()
	var got []string
	start := time.Now()
	n.listenAt(t, address, udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) {
		got = append(got, fmt.Sprintf("%s at %v", d.Payload, time.Since(start)))
	}))
	return &got
}

// TestMemNetLatency sends the same by a Link with latency, and by Delay beside
// it.
func TestMemNetLatency(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		mem.Link.Latency = time.Second
		got := n.arrivals(t, "10.0.0.1:7")
		c := n.listenAt(t, "10.0.0.2:7", nil)
		write(t, c, netip.AddrPortFrom(host1, 7), "a")
		write(t, c, netip.AddrPortFrom(host1, 7), "b")
		time.Sleep(time.Minute)
		mem.Delay = func(netip.AddrPort, netip.AddrPort, []byte) time.Duration { return time.Hour }
		write(t, c, netip.AddrPortFrom(host1, 7), "c")
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if want := []string{"a at 1s", "b at 1s", "c at 1h1m1s"}; !slices.Equal(*got, want) {
			t.Errorf("got %q, want %q", *got, want)
		}
	})
}

// sendMany sends numbers by one flow of a Link, and returns those that arrive,
// in their order, with their delays in jitters.
func sendMany(t *testing.T, link udp.Link, port uint16, count int, others bool) (numbers []int, delays []time.Duration) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		mem.Link = link
		sent := make([]time.Time, count)
		n.config.ReadBuffer = 1 << 24
		n.listenAt(t, "10.0.0.1:7", udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) {
			var i int
			fmt.Sscan(string(d.Payload), &i)
			numbers = append(numbers, i)
			delays = append(delays, time.Since(sent[i]))
		}))
		other := n.listenAt(t, "10.0.0.3:7", nil)
		c := n.listenAt(t, fmt.Sprintf("10.0.0.2:%d", port), nil)
		for i := range count {
			if others { // that use the same network
				write(t, other, netip.AddrPortFrom(host2, port), "x")
				write(t, other, netip.AddrPortFrom(host1, 8), "y")
				time.Sleep(time.Duration(i) * time.Microsecond)
			}
			sent[i] = time.Now()
			write(t, c, netip.AddrPortFrom(host1, 7), fmt.Sprint(i))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
	})
	return numbers, delays
}

// TestMemNetChances counts what is lost and what arrives twice, and looks at how
// the jitter is spread.
func TestMemNetChances(t *testing.T) {
	const count = 4000
	about := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 0.03 {
			t.Errorf("%s: %.3f of all, want %.3f", what, got, want)
		}
	}
	for _, chance := range []float64{0, 0.05, 0.4, 1} {
		numbers, _ := sendMany(t, udp.Link{Loss: chance, Seed: 7}, 1, count, false)
		about("arrive", float64(len(numbers))/count, 1-chance)
		numbers, _ = sendMany(t, udp.Link{Duplicate: chance, Seed: 7}, 1, count, false)
		about("duplicates", float64(len(numbers))/count-1, chance)
	}
	link := udp.Link{Latency: time.Second, Jitter: time.Second, Loss: 0.5, Duplicate: 0.5, Seed: 7}
	numbers, delays := sendMany(t, link, 1, count, false)
	about("arrive", float64(len(numbers))/count, 0.75)
	if slices.IsSorted(numbers) {
		t.Error("jitter does not reorder")
	}
	slices.Sort(delays)
	for i, delay := range delays {
		about(fmt.Sprintf("the delay of %d in %d", i, len(delays)), delay.Seconds(), 1+float64(i)/float64(len(delays)))
	}
}

// TestMemNetFlow has the course of a flow depend on its addresses, the numbers
// and the Seed, and on nothing else.
func TestMemNetFlow(t *testing.T) {
	const count = 500
	link := udp.Link{Latency: time.Second, Jitter: time.Millisecond, Loss: 0.2, Duplicate: 0.2, Seed: 1}
	course := func(link udp.Link, port uint16, others bool) string {
		numbers, delays := sendMany(t, link, port, count, others)
		var all []string
		for i := range numbers {
			all = append(all, fmt.Sprint(numbers[i], delays[i]))
		}
		slices.Sort(all) // as the order of arrival depends on when they are sent
		return strings.Join(all, " ")
	}
	first := course(link, 1, false)
	if course(link, 1, true) != first {
		t.Error("other flows change the course of one")
	}
	different := map[string]string{first: "the first"}
	seed := link
	seed.Seed = 2
	for what, got := range map[string]string{
		"another Seed": course(seed, 1, false),
		"another port": course(link, 2, false),
	} {
		if same, ok := different[got]; ok {
			t.Errorf("%s is like %s", what, same)
		}
		different[got] = what
	}
	// A chance that is not there does not change what another decides.
	link.Loss, seed = 0, link
	all, delays := sendMany(t, link, 1, count, false)
	some, _ := sendMany(t, seed, 1, count, false)
	if len(all) <= len(some) || len(all) != len(delays) {
		t.Errorf("%d arrive without loss, %d with it", len(all), len(some))
	}
}

// TestMemNetRate sends more than a line takes, with a Queue and without.
func TestMemNetRate(t *testing.T) {
	for _, test := range []struct {
		queue int
		sizes []int
		want  string // when they arrive
	}{
		{0, []int{500, 500, 500, 1000}, "500@500ms 500@1s 500@1.5s 1000@2.5s"},
		{1000, []int{500, 500, 500, 1000}, "500@500ms 500@1s"},
		{1000, []int{5000}, "5000@5s"}, // the line is idle
		{1, []int{5000, 1}, "5000@5s"},
		{5001, []int{5000, 1, 1}, "5000@5s 1@5.001s"},
		{1000, []int{0, 0, 0}, "0@0s 0@0s 0@0s"},
	} {
		onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
			mem.Link = udp.Link{Rate: 1000, Queue: test.queue}
			var got []string
			start := time.Now()
			n.listenAt(t, "10.0.0.1:7", udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) {
				got = append(got, fmt.Sprintf("%d@%v", len(d.Payload), time.Since(start)))
			}))
			one, two := n.listenAt(t, "10.0.0.2:7", nil), n.listenAt(t, "10.0.0.2:8", nil)
			for range 2 { // the second time when the line is idle again
				start = time.Now()
				got = nil
				for _, size := range test.sizes {
					write(t, one, netip.AddrPortFrom(host1, 7), text(size))
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := strings.Join(got, " "); got != test.want {
					t.Errorf("Queue %d: %v arrive as %s, want %s", test.queue, test.sizes, got, test.want)
				}
			}
			lost := uint64(2 * (len(test.sizes) - len(got)))
			if s := mem.Stats(); s.Overflowed != lost || s.Lost != 0 {
				t.Errorf("Queue %d: %+v, want %d to overflow", test.queue, s, lost)
			}
			// Another flow does not wait.
			write(t, one, netip.AddrPortFrom(host1, 7), text(2000))
			start, got = time.Now(), nil
			write(t, two, netip.AddrPortFrom(host1, 7), text(100))
			time.Sleep(time.Second)
			synctest.Wait()
			if !slices.Equal(got, []string{"100@100ms"}) {
				t.Errorf("another flow: %q", got)
			}
		})
	}
}

// TestMemNetSenseless has a Link with values that make no sense.
func TestMemNetSenseless(t *testing.T) {
	for _, link := range []udp.Link{
		{Latency: -1}, {Jitter: -1}, {Loss: -0.1}, {Loss: 1.1}, {Loss: math.NaN()}, {Duplicate: 2}, {Duplicate: math.NaN()}, {Rate: -1}, {Queue: -1},
	} {
		c := openBy(&udp.MemNet{Link: link}).listenAt(t, "10.0.0.1:7", nil)
		for range 2 { // nothing stays locked
			expectPanic(t, "udp: MemNet.Link is {", func() { c.WriteTo(nil, c.LocalAddr()) })
		}
	}
}

// TestMemNetOrder sends in one order what arrives in another, at one instant.
func TestMemNetOrder(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		mem.Link.Latency = time.Millisecond
		r := record()
		openBy(mem.Host(addrs("10.0.0.0", "10.0.0.1", "2001:db8::", "2001:db8::1")...)).listenAt(t, ":7", r)
		var conns []*udp.Conn
		for _, address := range []string{"[2001:db8::2]:7", "10.0.0.2:9", "10.0.0.10:7", "10.0.0.2:8"} {
			conns = append(conns, n.listenAt(t, address, nil))
		}
		for i := range 2 {
			for _, c := range conns {
				for _, to := range addrs("10.0.0.1", "10.0.0.0", "2001:db8::1", "2001:db8::") {
					if to.Is4() == c.LocalAddr().Addr().Is4() {
						write(t, c, netip.AddrPortFrom(to, 7), fmt.Sprint(c.LocalAddr(), " ", to, " ", i))
					}
				}
			}
		}
		time.Sleep(time.Second)
		r.expectAll(t,
			"10.0.0.2:8 10.0.0.0 0", "10.0.0.2:8 10.0.0.0 1", "10.0.0.2:8 10.0.0.1 0", "10.0.0.2:8 10.0.0.1 1",
			"10.0.0.2:9 10.0.0.0 0", "10.0.0.2:9 10.0.0.0 1", "10.0.0.2:9 10.0.0.1 0", "10.0.0.2:9 10.0.0.1 1",
			"10.0.0.10:7 10.0.0.0 0", "10.0.0.10:7 10.0.0.0 1", "10.0.0.10:7 10.0.0.1 0", "10.0.0.10:7 10.0.0.1 1",
			"[2001:db8::2]:7 2001:db8:: 0", "[2001:db8::2]:7 2001:db8:: 1", "[2001:db8::2]:7 2001:db8::1 0", "[2001:db8::2]:7 2001:db8::1 1")
	})
}

// lossyTranscript has a server ask eight Conns again and again, over a Link
// that loses, duplicates and delays. They answer at one instant, each to the
// server and to the next of them. It returns all that they received, and when.
func lossyTranscript(t *testing.T) (transcript string) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		mem.Link = udp.Link{Latency: 5 * time.Millisecond, Loss: 0.2, Duplicate: 0.2, Seed: 3}
		start := time.Now()
		const conns = 8
		at := func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 7)
		}
		var received [conns + 1]strings.Builder
		note := func(i int, d udp.Datagram) {
			fmt.Fprintf(&received[i], "%d: %q from %v at %v\n", i, d.Payload, d.Addr, time.Since(start))
		}
		for i := 1; i <= conns; i++ {
			n.listenAt(t, at(i).String(), udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
				note(i, d)
				if d.Addr.Addr() != host1 || i == 1 {
					return
				}
				c.Reply(d, fmt.Appendf(nil, "%s: yes", d.Payload))
				c.WriteTo([]byte("passed on"), at(i%conns+1))
			}))
		}
		server := n.listenAt(t, "10.0.0.1:9", udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) { note(0, d) }))
		for round := range 20 {
			for i := 1; i <= conns; i++ {
				write(t, server, at(i), fmt.Sprint("question ", round))
			}
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for i := range received {
			transcript += received[i].String()
		}
		transcript += fmt.Sprintf("%+v\n", mem.Stats())
	})
	return transcript
}

// TestMemNetTranscript runs one scenario two hundred times, on one processor
// and on two: it has one and the same transcript.
func TestMemNetTranscript(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	first := lossyTranscript(t)
	if lines := strings.Count(first, "\n"); lines < 300 {
		t.Fatalf("only %d lines:\n%s", lines, first)
	}
	for i := range 200 {
		runtime.GOMAXPROCS(1 + i%2)
		if got := lossyTranscript(t); got != first {
			t.Fatalf("run %d differs:\n%s\nthe first:\n%s", i, got, first)
		}
	}
}

// TestMemNetStats has one datagram, or some, for each of the totals.
func TestMemNetStats(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		expect := func(want udp.MemStats) {
			t.Helper()
			if synctest.Wait(); mem.Stats() != want {
				t.Errorf("got %+v, want %+v", mem.Stats(), want)
			}
		}
		expect(udp.MemStats{})
		group := udp.Group{Addr: netip.MustParseAddr("239.255.0.5")}
		a, b := n.multicast(t, ":7", nil, group), n.multicast(t, ":7", nil, group)
		c := n.listenAt(t, "10.0.0.2:9", nil)
		write(t, c, netip.AddrPortFrom(host1, 7), "hello")
		expect(udp.MemStats{Sent: 1, Delivered: 1})
		write(t, c, netip.AddrPortFrom(group.Addr, 7), "both")
		expect(udp.MemStats{Sent: 2, Delivered: 3})
		write(t, c, netip.AddrPortFrom(host1, 8), "nobody")
		expect(udp.MemStats{Sent: 3, Delivered: 3, Refused: 1})
		mem.Link.Loss = 1
		write(t, c, netip.AddrPortFrom(host1, 7), "lost")
		mem.Link.Loss = 0
		mem.Drop = func(netip.AddrPort, netip.AddrPort, []byte) bool { return true }
		write(t, c, netip.AddrPortFrom(host1, 7), "lost")
		mem.Drop = nil
		expect(udp.MemStats{Sent: 5, Delivered: 3, Refused: 1, Lost: 2})
		mem.Link.Duplicate = 1
		mem.Copies = func(netip.AddrPort, netip.AddrPort, []byte) int { return 2 }
		write(t, c, netip.AddrPortFrom(host1, 7), "four")
		mem.Copies, mem.Link = nil, udp.Link{}
		expect(udp.MemStats{Sent: 6, Delivered: 7, Refused: 1, Lost: 2, Duplicated: 3})
		if size, err := c.WriteTo([]byte(text(65508)), netip.AddrPortFrom(host1, 7)); size != 0 || err == nil {
			t.Errorf("65508 bytes: %d, %v", size, err)
		}
		expect(udp.MemStats{Sent: 6, Delivered: 7, Refused: 1, Lost: 2, Duplicated: 3})
		six := n.listenAt(t, "[::1]:9", nil)
		mem.Host(netip.MustParseAddr("2001:db8::2"))
		write(t, six, netip.MustParseAddrPort("[2001:db8::2]:7"), "a loopback address leaves its host")
		expect(udp.MemStats{Sent: 7, Delivered: 7, Refused: 1, Lost: 3, Duplicated: 3})
		// A bare socket that nobody reads overflows, and its user sees that here.
		bare := n.peer(t)
		for range 1000 {
			write(t, c, bare.addr, "x")
		}
		if s := mem.Stats(); s.Overflowed == 0 || s.Delivered+s.Overflowed != 1007 || s.Sent != 1007 {
			t.Errorf("got %+v", s)
		}
		before := mem.Stats()
		for _, c := range []*udp.Conn{a, b, c, six} {
			check(t, c.Close())
		}
		expect(before)
	})
}

// TestMemNetFailWrite has writes fail as a system's do: some for good, some
// once, some with a report about an earlier datagram.
func TestMemNetFailWrite(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		mem.Link = udp.Link{Loss: 0.5, Seed: 1}
		var asked []string
		var errs []error
		mem.Fail = func(op string, local, peer netip.AddrPort) (err error) {
			if op != "write" {
				return nil
			}
			asked = append(asked, fmt.Sprint(op, " ", local, " ", peer))
			if len(errs) > 0 {
				err, errs = errs[0], errs[1:]
			}
			return err
		}
		r := record()
		n.listenAt(t, "10.0.0.1:7", r)
		c := n.listenAt(t, "10.0.0.2:7", nil)
		send := func(payload string, fail ...error) error {
			errs = fail
			_, err := c.WriteTo([]byte(payload), netip.AddrPortFrom(host1, 7))
			return err
		}
		// What fails does not count: the courses of the others stay.
		for range 2 {
			var want []string
			for i := range 20 {
				check(t, send(fmt.Sprint(i)))
			}
			want = r.arrived()
			check(t, c.Close())
			check(t, c.Wait())
			c = n.listenAt(t, "10.0.0.2:7", nil)
			if len(want) == 0 || len(want) == 20 {
				t.Errorf("%d arrive of 20 with a loss of one half", len(want))
			}
		}
		mem.Link = udp.Link{}
		for _, err := range []error{syscall.EPERM, syscall.ENETDOWN, syscall.ENOMEM, errors.New("any other")} {
			isError(t, send("fails", err), err)
		}
		check(t, send("second try", syscall.ENOBUFS))
		isError(t, send("no buffers", slices.Repeat([]error{syscall.ENOBUFS}, 1000)...), syscall.ENOBUFS)
		r.expectAll(t, "second try")
		errs, asked = []error{syscall.ENETDOWN}, nil
		if sent, err := c.WriteBatch(batch(netip.AddrPortFrom(host1, 7), "first", "second")); sent != 1 || !errors.Is(err, syscall.ENETDOWN) {
			t.Errorf("WriteBatch: %d, %v", sent, err)
		}
		r.expectAll(t, "second")
		if want := slices.Repeat([]string{"write 10.0.0.2:7 10.0.0.1:7"}, 2); !slices.Equal(asked, want) {
			t.Errorf("Fail is asked for %q", asked)
		}
	})
}

// TestMemNetFailRead has reads fail while something waits: nothing is lost, and
// the Conn tries again after pauses.
func TestMemNetFailRead(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		var working atomic.Bool
		var asked atomic.Int64
		mem.Fail = func(op string, local, peer netip.AddrPort) error {
			if op != "read" {
				return nil
			}
			if local != netip.AddrPortFrom(host1, 7) || peer != netip.AddrPortFrom(host2, 7) {
				t.Errorf("Fail is asked about %v <- %v", local, peer)
			}
			asked.Add(1)
			if !working.Load() {
				return syscall.ENOMEM
			}
			return nil
		}
		r := record()
		server, c := n.listenAt(t, "10.0.0.1:7", r), n.listenAt(t, "10.0.0.2:7", nil)
		time.Sleep(time.Minute)
		if asked.Load() != 0 {
			t.Errorf("Fail is asked %d times while nothing waits", asked.Load())
		}
		write(t, c, server.LocalAddr(), "a")
		write(t, c, server.LocalAddr(), "b")
		r.expectAll(t)
		time.Sleep(time.Minute + 100*time.Millisecond)
		working.Store(true)
		time.Sleep(time.Second)
		r.expectAll(t, "a", "b")
		if errs := server.Stats().ReadErrors; errs < 60 || errs > 75 || asked.Load() != int64(errs)+1 {
			t.Errorf("%d errors in a minute, and Fail was asked %d times", errs, asked.Load())
		}
		// A bare socket closes while its read is asked about.
		bare := n.peerAt(t, netip.AddrPortFrom(host1, 8))
		mem.Fail = func(op string, _, _ netip.AddrPort) error {
			if op == "read" {
				return syscall.EIO
			}
			return nil
		}
		write(t, c, bare.addr, "x")
		_, _, err := bare.ReadFrom(make([]byte, 10))
		isError(t, err, syscall.EIO)
		checkNetError(t, err)
		mem.Fail = nil
		bare.expect(t, "x", c.LocalAddr())
	})
}

// TestMemNetManyHosts has ten thousand hosts, whose clients all ask one server,
// at one instant and over a Link.
func TestMemNetManyHosts(t *testing.T) {
	needTime(t)
	const hosts = 10000
	start := time.Now()
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		mem.Link = udp.Link{Latency: time.Second, Jitter: time.Second, Seed: 1}
		n.config.ReadBuffer = 1 << 26
		n.listenAt(t, "10.0.0.1:7", echo(t))
		answers := 0
		var conns []*udp.Conn
		lock := make(chan struct{}, 1)
		for i := range hosts {
			lc := udp.ListenConfig{PacketListener: mem.Host(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))}
			for range 2 {
				c, err := lc.Dial(t.Context(), "10.0.0.1:7", udp.HandlerFunc(func(*udp.Conn, udp.Datagram) {
					lock <- struct{}{}
					answers++
					<-lock
				}))
				check(t, err)
				conns = append(conns, c)
			}
		}
		for _, c := range conns {
			check(t, second(c.Write([]byte("x"))))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if answers != 2*hosts {
			t.Errorf("%d answers to %d questions", answers, 2*hosts)
		}
		for _, c := range conns {
			c.Close()
		}
		for _, c := range conns {
			check(t, c.Wait())
		}
	})
	if real := time.Since(start); real > failSafe {
		t.Errorf("it takes %v", real)
	}
	t.Logf("%d hosts take %v", hosts, time.Since(start))
}
