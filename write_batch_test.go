//go:build unix

package udp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/udp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Lengths of payloads on lo: what one Ethernet packet carries, and the longest
// that IPv4 and IPv6 take.
const (
	packetSize = 1472
	longest4   = 65507
	longest6   = 65527
)

// onBatchSetups runs test on every kind of kernel socket, with and without
// offload.
func onBatchSetups(t *testing.T, test func(*testing.T, setup)) {
	for _, n := range kernelSetups() {
		if n.config.NoOffload {
			continue // both follow
		}
		for name, noOffload := range map[string]bool{"offload": false, "NoOffload": true} {
			n := n
			n.config.NoOffload = noOffload
			t.Run(n.name+" "+name, func(t *testing.T) {
				t.Parallel()
				test(t, n)
			})
		}
	}
}

// TestBatchRuns sends runs of one length to one peer, with a last one of
// another, in each way in which payloads may lie in memory.
func TestBatchRuns(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		c := n.listen(t, nil)
		to := newCollector(t, n.host)
		run := func(count, size, last int, layout string) {
			t.Helper()
			sizes := append(slices.Repeat([]int{size}, count-1), last)
			var ds []udp.Datagram
			for _, p := range payloads(layout, sizes) {
				ds = append(ds, udp.Datagram{Payload: p, Addr: to.addr})
			}
			if sent, err := c.WriteBatch(ds); sent != count || err != nil {
				t.Fatalf("%d of %d bytes, the last of %d, %s: WriteBatch sends %d: %v", count, size, last, layout, sent, err)
			}
			for i := range ds {
				if err := to.want(t, ds[i].Payload, n.reach(c)); err != nil {
					t.Fatalf("%d of %d bytes, the last of %d, %s: number %d: %v", count, size, last, layout, i, err)
				}
			}
		}
		for _, size := range []int{0, 1, 100, packetSize, 9000, 40000, n.longest()} {
			if size > n.longest() {
				continue
			}
			run(1, size, size, "apart")
			for _, layout := range layouts {
				run(2, size, size/2, layout)
			}
		}
		for _, size := range []int{0, 1, 100, packetSize} {
			run(64, size, size, "apart")
			for _, last := range []int{0, 1, size / 2, size, size + 1} {
				for _, layout := range layouts {
					run(65, size, last, layout)
				}
			}
			run(1000, size, size/2, "adjacent")
		}
		run(65, 9000, 1, "adjacent")
		run(5, n.longest(), 1, "adjacent")
		to.wantNothing(t, c)
	})
}

// TestBatchZones sends to one peer, whose zone is now called by the name of
// the interface, now by its index: the order stays.
func TestBatchZones(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		if n.host != loopback6 {
			return // IPv4 addresses have no zones
		}
		c := n.listen(t, nil)
		to := newCollector(t, n.host)
		zones := []string{n.ifi.Name, strconv.Itoa(n.ifi.Index)}
		var ds []udp.Datagram
		for i := range 100 {
			addr := netip.AddrPortFrom(to.addr.Addr().WithZone(zones[i/3%2]), to.addr.Port())
			ds = append(ds, udp.Datagram{Payload: []byte{byte(i)}, Addr: addr})
		}
		if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
			t.Fatalf("WriteBatch sends %d: %v", sent, err)
		}
		for i := range ds {
			if err := to.want(t, ds[i].Payload, n.reach(c)); err != nil {
				t.Fatalf("number %d: %v", i, err)
			}
		}
	})
}

// layouts are the ways in which payloads may lie in memory.
var layouts = []string{"apart", "adjacent", "backwards", "with gaps", "nil if empty"}

// payloads makes payloads of those lengths.
func payloads(layout string, sizes []int) [][]byte {
	total := 0
	for _, size := range sizes {
		total += size + 1
	}
	all, memory := make([][]byte, len(sizes)), make([]byte, total)
	for i, size := range sizes {
		switch end := len(memory); layout {
		case "apart":
			all[i] = make([]byte, size)
		case "adjacent":
			all[i], memory = memory[:size], memory[size:]
		case "with gaps":
			all[i], memory = memory[:size], memory[size+1:]
		case "backwards":
			all[i], memory = memory[end-size:], memory[:end-size]
		case "nil if empty":
			all[i] = append([]byte(nil), memory[:size]...)
		}
		number(all[i], i)
	}
	return all
}

// number fills payload with bytes that differ from those of its neighbours.
func number(payload []byte, i int) {
	for j := range payload {
		payload[j] = byte(i ^ i>>8 ^ j*7 ^ j>>8)
	}
	if len(payload) >= 4 {
		copy(payload, []byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})
	}
}

// TestBatchMixed sends batches of everything at once: peers, sources and
// families, long and short, good and bad. Each good one arrives once, in the
// order of its peer, from its source, and the error is that of the first bad.
func TestBatchMixed(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		c := n.listen(t, nil)
		collectors := n.collectors(t)
		for seed := range uint64(12) {
			r := rand.New(rand.NewPCG(seed, 1))
			plan := n.mix(r, collectors, []int{1, 2, 5, 64, 65, 300, 1300}[seed%7])
			sent, err := c.WriteBatch(plan.ds)
			if sent != plan.good {
				t.Errorf("seed %d: WriteBatch sends %d of %d, %d of them good: %v", seed, sent, len(plan.ds), plan.good, err)
			}
			plan.checkError(t, err)
			for i, d := range plan.ds {
				if plan.bad[i] != nil {
					continue
				}
				from := n.reach(c)
				if d.Local.IsValid() {
					from = netip.AddrPortFrom(d.Local, from.Port())
				} else if d.Addr.Addr().Is4() != from.Addr().Is4() {
					from = netip.AddrPortFrom(otherLoopback(from.Addr()), from.Port())
				}
				if err := collectors[d.Addr].want(t, d.Payload, from); err != nil {
					t.Fatalf("seed %d, number %d: %v", seed, i, err)
				}
			}
		}
		for _, s := range collectors {
			s.wantNothing(t, c)
		}
	})
}

// A mixture is a batch, and what is wrong with each of its datagrams.
type mixture struct {
	ds   []udp.Datagram
	bad  []func(error) bool // nil: nothing; else whether an error tells that
	good int
}

// mix makes a batch for a Conn of n to collectors. The lengths make runs, short
// ones mostly, so that the collectors have room for all.
func (n setup) mix(r *rand.Rand, collectors map[netip.AddrPort]*collector, count int) (m mixture) {
	var addrs []netip.AddrPort
	for addr := range collectors {
		addrs = append(addrs, addr)
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	addr, size, source := addrs[0], 10, netip.Addr{}
	failures := r.IntN(3) // none in a third of all batches
	for i := range count {
		if r.IntN(3) == 0 {
			addr = addrs[r.IntN(len(addrs))]
			source = netip.Addr{}
		}
		if r.IntN(8) == 0 {
			size = []int{0, 1, 1, 8, 100, 100, 101, packetSize, packetSize + 1}[r.IntN(9)]
		}
		if r.IntN(4) == 0 && n.wildcard() {
			source = []netip.Addr{{}, loopback4, netip.MustParseAddr("127.0.0.2")}[r.IntN(3)]
			if addr.Addr().Is6() && source.IsValid() {
				source = loopback6
			}
		}
		d := udp.Datagram{Payload: make([]byte, size), Addr: addr, Local: source}
		var bad func(error) bool
		switch {
		case r.IntN(200) == 0:
			d.Payload = make([]byte, []int{5000, 30000, 33000}[r.IntN(3)])
		case r.IntN(40) < failures:
			d, bad = n.spoil(r, d)
		}
		if number(d.Payload, i); bad == nil {
			m.good++
		}
		m.ds, m.bad = append(m.ds, d), append(m.bad, bad)
	}
	return m
}

// spoil makes d one that cannot be sent, and returns with it how to know the
// error.
func (n setup) spoil(r *rand.Rand, d udp.Datagram) (udp.Datagram, func(error) bool) {
	var addrError *net.AddrError
	says := func(what string) func(error) bool {
		return func(err error) bool { return errors.As(err, &addrError) && addrError.Err == what }
	}
	switch r.IntN(5) {
	case 0:
		d.Addr = netip.AddrPort{}
		return d, says("missing address")
	case 1:
		d.Addr = netip.AddrPortFrom(d.Addr.Addr(), 0)
		return d, says("missing port")
	case 2:
		d.Local = otherLoopback(d.Addr.Addr())
		return d, says("source of another family than the destination")
	case 3:
		d.Local = netip.MustParseAddr("192.0.2.1") // TEST-NET-1: nobody's
		if d.Addr.Addr().Is6() {
			d.Local = netip.MustParseAddr("2001:db8::1")
		}
		return d, func(err error) bool {
			return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL)
		}
	}
	d.Payload = make([]byte, longest4+1)
	if d.Addr.Addr().Is6() {
		d.Payload = make([]byte, longest6+1)
	}
	return d, func(err error) bool { return errors.Is(err, syscall.EMSGSIZE) }
}

// checkError fails unless err is about the first bad one.
func (m *mixture) checkError(t *testing.T, err error) {
	t.Helper()
	i := slices.IndexFunc(m.bad, func(bad func(error) bool) bool { return bad != nil })
	if i < 0 {
		if err != nil {
			t.Errorf("nothing is wrong: %v", err)
		}
		return
	}
	if err == nil || !m.bad[i](err) {
		t.Errorf("number %d of %d bytes to %v from %v is wrong: %v", i, len(m.ds[i].Payload), m.ds[i].Addr, m.ds[i].Local, err)
		return
	}
	if addr := checkOpError(t, err).Addr; m.ds[i].Addr.IsValid() && (addr == nil || addr.String() != m.ds[i].Addr.String()) {
		t.Errorf("number %d, to %v, is wrong: %v", i, m.ds[i].Addr, err)
	}
}

// TestBatchManyPeers interleaves datagrams for more peers than one system call
// takes, some of them more often than others.
func TestBatchManyPeers(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		if !n.wildcard() || !n.host.Is4() || n.config.Network == "udp6" {
			return
		}
		c := n.listen(t, nil)
		to := newCollector(t, netip.IPv4Unspecified())
		check(t, ipv4.NewPacketConn(to).SetControlMessage(ipv4.FlagDst, true))
		var ds []udp.Datagram
		want := make(map[netip.Addr][][]byte)
		for i := range 2500 {
			host := netip.AddrFrom4([4]byte{127, 1, byte(i % 5), byte(1 + i*i%241)})
			if i%7 == 0 {
				host = loopback4
			}
			d := udp.Datagram{Payload: make([]byte, 4+i%3/2*50), Addr: netip.AddrPortFrom(host, to.addr.Port())}
			number(d.Payload, i)
			ds = append(ds, d)
			want[host] = append(want[host], d.Payload)
		}
		if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
			t.Fatalf("WriteBatch sends %d of %d: %v", sent, len(ds), err)
		}
		for range ds {
			payload, control, _ := to.read(t)
			var cm ipv4.ControlMessage
			check(t, cm.Parse(control))
			host, _ := netip.AddrFromSlice(cm.Dst.To4())
			if len(want[host]) == 0 || !bytes.Equal(payload, want[host][0]) {
				t.Fatalf("%v gets %.8x, want the first of %d", host, payload, len(want[host]))
			}
			want[host] = want[host][1:]
		}
		to.wantNothing(t, c)
	})
}

// TestBatchSources sends to one peer from two sources in turn: it gets them
// in order.
func TestBatchSources(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		if len(n.aliases) == 0 {
			return
		}
		c := n.listen(t, nil)
		to := newCollector(t, n.host)
		var ds []udp.Datagram
		for i := range 100 {
			d := udp.Datagram{Payload: make([]byte, 4), Addr: to.addr, Local: n.hosts()[i/3%2]}
			number(d.Payload, i)
			ds = append(ds, d)
		}
		if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
			t.Fatalf("WriteBatch sends %d of %d: %v", sent, len(ds), err)
		}
		for _, d := range ds {
			check(t, to.want(t, d.Payload, netip.AddrPortFrom(d.Local, c.LocalAddr().Port())))
		}
	})
}

// TestBatchConnected sends batches of a connected Conn: an address is that of
// its peer, or none, or wrong.
func TestBatchConnected(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		to, other := newCollector(t, n.host), newCollector(t, n.host)
		c := n.dial(t, to.addr, nil)
		var ds []udp.Datagram
		for i := range 300 {
			d := udp.Datagram{Payload: make([]byte, 4+i/90*20)}
			number(d.Payload, i)
			if i%3 == 0 {
				d.Addr = to.addr
			}
			ds = append(ds, d)
		}
		if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
			t.Errorf("WriteBatch sends %d of %d: %v", sent, len(ds), err)
		}
		ds[50].Addr, ds[200].Addr = other.addr, other.addr
		sent, err := c.WriteBatch(ds)
		if sent != len(ds)-2 || !errors.Is(err, net.ErrWriteToConnected) {
			t.Errorf("with two for another peer, WriteBatch sends %d of %d: %v", sent, len(ds), err)
		}
		if addr := checkOpError(t, err).Addr; addr.String() != other.addr.String() {
			t.Errorf("with two for another peer, the error says %v", err)
		}
		for round := range 2 {
			for i := range ds {
				if round == 0 || ds[i].Addr != other.addr {
					check(t, to.want(t, ds[i].Payload, c.LocalAddr()))
				}
			}
		}
		check(t, c.Disconnect())
		if sent, err := c.WriteBatch(ds[1:3]); sent != 0 || err == nil {
			t.Errorf("disconnected and without addresses, WriteBatch returns %d, %v", sent, err)
		}
		to.wantNothing(t, c)
		other.wantNothing(t, c)
	})
}

// TestBatchBadRun has several in a row that go nowhere, after one that goes
// somewhere: none follows it.
func TestBatchBadRun(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		c := n.listen(t, nil)
		to := newCollector(t, n.host)
		good, bad := udp.Datagram{Payload: []byte("good"), Addr: to.addr}, udp.Datagram{Payload: []byte("bad")}
		if sent, err := c.WriteBatch([]udp.Datagram{good, bad, bad, bad, good}); sent != 2 || err == nil {
			t.Errorf("WriteBatch sends %d of 2: %v", sent, err)
		}
		check(t, to.want(t, good.Payload, n.reach(c)))
		check(t, to.want(t, good.Payload, n.reach(c)))
		to.wantNothing(t, c)
	})
}

func TestBatchEmpty(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		c := n.listen(t, nil)
		for _, ds := range [][]udp.Datagram{nil, {}} {
			if sent, err := c.WriteBatch(ds); sent != 0 || err != nil {
				t.Errorf("WriteBatch of nothing returns %d, %v", sent, err)
			}
		}
		if s := c.Stats(); s != (udp.Stats{}) {
			t.Errorf("nothing counts as %+v", s)
		}
	})
}

// TestBatchCloses closes the Conn while batches are under way: what they say
// they have sent has arrived, and they end with net.ErrClosed.
func TestBatchCloses(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		const batches, size = 20, 40
		c := n.listen(t, nil)
		var writers sync.WaitGroup
		started := make(chan struct{}, batches)
		to := make([]*collector, 3)
		total := make([]int, len(to))
		for i := range to {
			to[i] = newCollector(t, n.host)
			ds := slices.Repeat([]udp.Datagram{{Payload: make([]byte, 10), Addr: to[i].addr}}, size)
			writers.Go(func() {
				for range batches {
					started <- struct{}{}
					sent, err := c.WriteBatch(ds)
					total[i] += sent
					if (sent == size) != (err == nil) || err != nil && !errors.Is(err, net.ErrClosed) {
						t.Errorf("WriteBatch returns %d, %v", sent, err)
					}
				}
			})
		}
		for range 2 * len(to) {
			wait(t, started)
		}
		check(t, c.Close())
		for range (batches - 2) * len(to) {
			wait(t, started)
		}
		writers.Wait()
		if sent, err := c.WriteBatch(make([]udp.Datagram, 3)); sent != 0 || !errors.Is(err, net.ErrClosed) && err == nil {
			t.Errorf("after Close, WriteBatch returns %d, %v", sent, err)
		}
		if got := c.Stats().WriteDatagrams; got != uint64(total[0]+total[1]+total[2]) {
			t.Errorf("%d datagrams count as %d", total, got)
		}
		last := n.listen(t, nil)
		for i, s := range to {
			check(t, second(last.WriteTo([]byte("last"), s.addr)))
			for range total[i] {
				if payload, _, _ := s.read(t); len(payload) != 10 {
					t.Fatalf("fewer than the %d that WriteBatch has sent arrive", total[i])
				}
			}
			check(t, s.want(t, []byte("last"), n.reach(last)))
		}
	})
}

// TestBatchConcurrent writes from many goroutines in all ways: each peer gets
// what each goroutine has sent to it, in that order.
func TestBatchConcurrent(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		const writers, rounds = 6, 15
		c := n.listen(t, nil)
		to := []*collector{newCollector(t, n.host), newCollector(t, n.host)}
		var done sync.WaitGroup
		for w := range writers {
			done.Go(func() {
				next := make([]byte, len(to))
				payload := func(k int, size int) []byte {
					p := make([]byte, size)
					p[0], p[1] = byte(w), next[k]
					next[k]++
					return p
				}
				for round := range rounds {
					var ds []udp.Datagram
					for i := range 12 {
						k := (i / 4) % 2
						ds = append(ds, udp.Datagram{Payload: payload(k, 2+i/5), Addr: to[k].addr})
					}
					if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
						t.Errorf("WriteBatch returns %d, %v", sent, err)
					}
					k := round % 2
					check(t, second(c.WriteTo(payload(k, 20), to[k].addr)))
				}
			})
		}
		done.Wait()
		const each = rounds*8 + (rounds+1)/2 // for the first peer, who gets more
		for k, s := range to {
			var next [writers]byte
			count := each
			if k == 1 {
				count = rounds*4 + rounds/2
			}
			for range writers * count {
				p, _, _ := s.read(t)
				if len(p) < 2 || p[1] != next[p[0]] {
					t.Fatalf("peer %d gets %d, want number %d of that writer", k, p, next[p[0]])
				}
				next[p[0]]++
			}
			s.wantNothing(t, c)
		}
	})
}

// TestBatchWhilePeerChanges connects and disconnects while batches are sent:
// each datagram goes to whom it is for, or is an error that says so.
func TestBatchWhilePeerChanges(t *testing.T) {
	needTime(t)
	onBatchSetups(t, func(t *testing.T, n setup) {
		const size, rounds = 3, 150
		c := n.listen(t, nil)
		to := []*collector{newCollector(t, n.host), newCollector(t, n.host)}
		var total [2]int
		stop := make(chan struct{})
		var writers sync.WaitGroup
		for k := range to {
			ds := slices.Repeat([]udp.Datagram{{Payload: []byte{byte(k)}, Addr: to[k].addr}}, size)
			writers.Go(func() {
				for total[k] < 8000 {
					select {
					case <-stop:
						return
					default:
					}
					sent, err := c.WriteBatch(ds)
					total[k] += sent
					if (sent == size) != (err == nil) || err != nil && !errors.Is(err, net.ErrWriteToConnected) {
						t.Errorf("WriteBatch returns %d, %v", sent, err)
					}
				}
			})
		}
		for range rounds {
			check(t, c.Connect(to[0].addr))
			check(t, c.Connect(to[1].addr))
			check(t, c.Disconnect())
		}
		close(stop)
		writers.Wait()
		last := n.listen(t, nil)
		for k, s := range to {
			check(t, second(last.WriteTo([]byte("last"), s.addr)))
			got, wrong := 0, 0
			for p, _, _ := s.read(t); string(p) != "last"; p, _, _ = s.read(t) {
				got++
				if p[0] != byte(k) {
					wrong++
				}
			}
			if got != total[k] || wrong > 0 {
				t.Errorf("peer %d gets %d datagrams, %d of them for another; %d were sent", k, got, wrong, total[k])
			}
		}
	})
}

// TestBatchEcho sends back from HandleBatch what it was given, as it is and
// changed.
func TestBatchEcho(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(ds []udp.Datagram) []udp.Datagram
		want   func(payload []byte) []byte
	}{
		{"unchanged", func(ds []udp.Datagram) []udp.Datagram { return ds }, func(p []byte) []byte { return p }},
		{"in place", func(ds []udp.Datagram) []udp.Datagram {
			for _, d := range ds {
				for i := range d.Payload {
					d.Payload[i] ^= 0x55
				}
			}
			return ds
		}, func(p []byte) []byte {
			for i := range p {
				p[i] ^= 0x55
			}
			return p
		}},
		{"shortened", func(ds []udp.Datagram) []udp.Datagram {
			for i := range ds {
				ds[i].Payload = ds[i].Payload[len(ds[i].Payload)/2:]
			}
			return ds
		}, func(p []byte) []byte { return p[len(p)/2:] }},
		{"extended", func(ds []udp.Datagram) []udp.Datagram {
			for i := range ds {
				ds[i].Payload = append(ds[i].Payload, "more"...)
			}
			return ds
		}, func(p []byte) []byte { return append(p, "more"...) }},
		{"copied", func(ds []udp.Datagram) []udp.Datagram {
			var copies []udp.Datagram
			for _, d := range ds {
				copies = append(copies, d.Clone())
			}
			clear(ds)
			return copies
		}, func(p []byte) []byte { return p }},
		{"the same slice, one taken out and put back", func(ds []udp.Datagram) []udp.Datagram {
			first := ds[0]
			return append([]udp.Datagram{first}, append(ds[:0], ds[1:]...)...)
		}, func(p []byte) []byte { return p }},
	} {
		t.Run(test.name, func(t *testing.T) {
			onBatchSetups(t, func(t *testing.T, n setup) {
				const count = 150
				h := newGate()
				defer h.open()
				server := n.listen(t, batchFuncs{batch: func(c *udp.Conn, ds []udp.Datagram) {
					h.pass()
					ds = test.change(ds)
					if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
						t.Errorf("WriteBatch sends %d of %d: %v", sent, len(ds), err)
					}
				}})
				clients := []*collector{newCollector(t, n.host), newCollector(t, n.host), newCollector(t, n.host)}
				payload := func(i int) []byte {
					p := make([]byte, 6+i/40*10)
					number(p, i)
					return p
				}
				for i := range count {
					clients[i%len(clients)].write(t, payload(i), n.reach(server))
				}
				h.open()
				for i := range count {
					if err := clients[i%len(clients)].want(t, test.want(payload(i)), n.reach(server)); err != nil {
						t.Fatalf("number %d: %v", i, err)
					}
				}
			})
		})
	}
}

// TestBatchRedirected sends what HandleBatch was given to others than those
// it came from.
func TestBatchRedirected(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		const count = 100
		to := newCollector(t, n.host)
		h := newGate()
		defer h.open()
		server := n.listen(t, batchFuncs{batch: func(c *udp.Conn, ds []udp.Datagram) {
			h.pass()
			for i := range ds {
				ds[i].Addr = to.addr
			}
			if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
				t.Errorf("WriteBatch sends %d of %d: %v", sent, len(ds), err)
			}
		}})
		clients := []*collector{newCollector(t, n.host), newCollector(t, n.host)}
		for i := range count {
			clients[i%2].write(t, fmt.Appendf(nil, "%04d", i), n.reach(server))
		}
		h.open()
		for i := range count {
			check(t, to.want(t, fmt.Appendf(nil, "%04d", i), n.reach(server)))
		}
	})
}

// TestBatchReads lets batches of all kinds wait in the socket, and wants them
// whole and in order from HandleBatch and from HandleDatagram.
func TestBatchReads(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		for _, k := range []received{
			{0, 1, 0, 0}, {0, 3, 0, 0}, {1, 2, 1, 0}, {1, 1000, 0, 0}, {100, 64, 100, 0}, {100, 65, 99, 0}, {100, 1000, 1, 0},
			{packetSize, 65, 1, 0}, {packetSize, 1000, 700, 0}, {9000, 20, 5, 0}, {40000, 3, 40000, 0}, {n.longest(), 2, 1, 0},
			{100, 65, 99, 100}, {100, 65, 50, 99}, {100, 65, 50, 50}, {100, 65, 50, 1}, {packetSize, 64, 100, 101}, {n.longest(), 2, 1, 100},
		} {
			if k.size > n.longest() {
				continue
			}
			testBatchRead(t, n, k, true)
			testBatchRead(t, n, k, false)
		}
	})
}

// received is a run of datagrams, the last of another length, for a Conn with
// such a MaxDatagram.
type received struct{ size, count, last, max int }

func testBatchRead(t *testing.T, n setup, k received, inBatches bool) {
	t.Helper()
	g := newGate()
	defer g.open()
	var got []udp.Datagram
	all := make(chan struct{})
	take := func(d udp.Datagram) {
		if got = append(got, d.Clone()); len(got) == 1+k.count {
			close(all)
		}
	}
	f := funcs{datagram: func(_ *udp.Conn, d udp.Datagram) {
		g.pass()
		take(d)
	}}
	var h udp.Handler = f
	if inBatches {
		h = batchFuncs{funcs: f, batch: func(_ *udp.Conn, ds []udp.Datagram) {
			g.pass()
			for _, d := range ds {
				_ = append(d.Payload, "not into the next"...)
			}
			for _, d := range ds {
				take(d)
			}
		}}
	}
	n.config.MaxDatagram, n.config.ReadBuffer = k.max, roomForAll
	c, from := n.listen(t, h), n.listen(t, nil)
	makeRoom(t, c)
	var ds []udp.Datagram
	for i := range k.count {
		d := udp.Datagram{Payload: make([]byte, k.size), Addr: n.reach(c)}
		if i == k.count-1 {
			d.Payload = make([]byte, k.last)
		}
		number(d.Payload, i)
		ds = append(ds, d)
	}
	check(t, second(from.WriteTo([]byte("first"), n.reach(c))))
	g.wait(t)
	if sent, err := from.WriteBatch(ds); sent != len(ds) || err != nil {
		t.Fatalf("%+v: WriteBatch sends %d of %d: %v", k, sent, len(ds), err)
	}
	g.open()
	wait(t, all)

	stats := c.Stats()
	truncated := uint64(0)
	if k.max > 0 && k.max < len("first") {
		truncated++
	}
	for i, d := range got[1:] {
		want := ds[i].Payload
		cut := k.max > 0 && len(want) > k.max
		if cut {
			truncated++
			want = want[:k.max]
		}
		if !bytes.Equal(d.Payload, want) || d.Truncated != cut || d.Addr != n.reach(from) || d.Local != n.host {
			t.Fatalf("%+v, in batches %v: number %d is %d bytes, Truncated %v, from %v to %v", k, inBatches, i, len(d.Payload), d.Truncated, d.Addr, d.Local)
		}
	}
	if stats.Truncated != truncated || stats.ReadDatagrams != uint64(len(ds)+1) {
		t.Errorf("%+v, in batches %v: %+v, want %d truncated", k, inBatches, stats, truncated)
	}
	if n.batches && len(ds) >= 20 && stats.Reads >= stats.ReadDatagrams {
		t.Errorf("%+v, in batches %v: %d reads return %d datagrams", k, inBatches, stats.Reads, stats.ReadDatagrams)
	}
}

// TestBatchFields looks at each datagram of a read that the kernel may have
// joined from several: it tells its own TTL, address and interface.
func TestBatchFields(t *testing.T) {
	onBatchSetups(t, func(t *testing.T, n setup) {
		if !n.host.Is4() && n.config.Network == "udp4" {
			return
		}
		h := newGate()
		defer h.open()
		var got []udp.Datagram
		c := n.listen(t, batchFuncs{batch: func(_ *udp.Conn, ds []udp.Datagram) {
			h.pass()
			for _, d := range ds {
				if cap(d.Payload) > len(d.Payload) {
					t.Errorf("a payload of %d has room for %d", len(d.Payload), cap(d.Payload))
				}
				got = append(got, d.Clone())
			}
		}})
		senders := make([]*udp.Conn, 2)
		ttls := []int{33, 44}
		for i := range senders {
			pc := newCollector(t, n.host).UDPConn
			if n.host.Is4() {
				check(t, ipv4.NewConn(pc).SetTTL(ttls[i]))
			} else {
				check(t, ipv6.NewConn(pc).SetHopLimit(ttls[i]))
			}
			var err error
			senders[i], err = n.config.NewConn(pc, nil)
			check(t, err)
			closeAtEnd(t, senders[i])
		}
		check(t, second(senders[0].WriteTo([]byte("first"), n.reach(c))))
		h.wait(t)
		const run = 10
		var want []udp.Datagram
		for i := range 8 {
			to := n.hosts()[i/2%len(n.hosts())]
			d := udp.Datagram{Payload: make([]byte, 50), Addr: netip.AddrPortFrom(to, c.LocalAddr().Port())}
			number(d.Payload, i)
			check(t, second(senders[i%2].WriteBatch(slices.Repeat([]udp.Datagram{d}, run))))
			d.Addr, d.Local, d.TTL = n.reach(senders[i%2]), to, ttls[i%2]
			if n.wildcard() {
				d.Interface = n.ifi.Index
			}
			want = append(want, slices.Repeat([]udp.Datagram{d}, run)...)
		}
		h.open()
		shutdown(t, c)
		if len(got) != 1+len(want) {
			t.Fatalf("%d of %d arrive", len(got), 1+len(want))
		}
		for i, d := range got[1:] {
			w := want[i]
			if !bytes.Equal(d.Payload, w.Payload) || d.Addr != w.Addr || d.Local != w.Local || d.TTL != w.TTL || d.Interface != w.Interface {
				t.Fatalf("number %d is %+v, want %+v", i, d, w)
			}
		}
	})
}

// What follows serves the tests of this kind.

// roomForAll is a receive buffer, in bytes, for what a test sends before
// anything is read.
const roomForAll = 4 << 20

// A collector is a bare socket that has room for all that a test sends.
type collector struct {
	*net.UDPConn
	addr    netip.AddrPort
	buf     []byte
	control []byte
}

func newCollector(t *testing.T, host netip.Addr) *collector {
	t.Helper()
	return newCollectorAt(t, netip.AddrPortFrom(host, 0))
}

func newCollectorAt(t *testing.T, addr netip.AddrPort) *collector {
	t.Helper()
	network := "udp6"
	if addr.Addr().Is4() {
		network = "udp4"
	}
	c, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(addr))
	check(t, err)
	t.Cleanup(func() { c.Close() })
	makeRoom(t, c)
	return &collector{UDPConn: c, addr: addrPort(c.LocalAddr()), buf: make([]byte, 1<<16), control: make([]byte, 256)}
}

// makeRoom gives c a large receive buffer, on Linux also past what the system
// allows.
func makeRoom(t *testing.T, c syscall.Conn) {
	t.Helper()
	raw, err := c.SyscallConn()
	check(t, err)
	var size int
	check(t, raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, roomForAll)
		if runtime.GOOS == "linux" {
			const force = 33 // SO_RCVBUFFORCE of socket(7)
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, force, roomForAll)
		}
		size, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
	}))
	check(t, err)
	if size < roomForAll {
		t.Skipf("a receive buffer of %d bytes is too small: run as root, or try sysctl net.core.rmem_max=%d", size, roomForAll)
	}
}

// collectors are one or two for each address that a Conn of n can send to.
func (n setup) collectors(t *testing.T) map[netip.AddrPort]*collector {
	all := make(map[netip.AddrPort]*collector)
	add := func(host netip.Addr) {
		s := newCollector(t, host)
		all[s.addr] = s
	}
	for _, host := range n.hosts() {
		add(host)
	}
	add(n.host)
	if n.wildcard() && n.config.Network == "" && hasIPv6() {
		add(otherLoopback(n.host))
	}
	return all
}

// longest is the longest payload that can be sent to n.host.
func (n setup) longest() int {
	switch {
	case runtime.GOOS == "darwin":
		return 9216 // sysctl net.inet.udp.maxdgram
	case n.host.Is4():
		return longest4
	}
	return longest6
}

func otherLoopback(a netip.Addr) netip.Addr {
	if a.Is4() {
		return loopback6
	}
	return loopback4
}

// read returns the next datagram, in memory that is used again.
func (s *collector) read(t *testing.T) (payload, control []byte, from netip.AddrPort) {
	t.Helper()
	check(t, s.SetReadDeadline(time.Now().Add(failSafe)))
	size, controlSize, _, from, err := s.ReadMsgUDPAddrPort(s.buf, s.control)
	check(t, err)
	return s.buf[:size], s.control[:controlSize], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// want reads the next datagram, and tells how it differs from payload, from
// there.
func (s *collector) want(t *testing.T, payload []byte, from netip.AddrPort) error {
	t.Helper()
	got, _, addr := s.read(t)
	if !bytes.Equal(got, payload) || addr != from {
		return fmt.Errorf("%v gets %d bytes, %.8x, from %v; want %d, %.8x, from %v", s.addr, len(got), got, addr, len(payload), payload, from)
	}
	return nil
}

// wantNothing fails if anything waits that was sent before.
func (s *collector) wantNothing(t *testing.T, c *udp.Conn) {
	t.Helper()
	host := s.addr.Addr()
	if host.IsUnspecified() {
		host = loopback4
	}
	check(t, second(c.WriteTo([]byte("end"), netip.AddrPortFrom(host, s.addr.Port()))))
	if got, _, _ := s.read(t); string(got) != "end" {
		t.Errorf("%v gets %d bytes too much, %.8x", s.addr, len(got), got)
	}
}

func (s *collector) write(t *testing.T, payload []byte, to netip.AddrPort) {
	t.Helper()
	check(t, second(s.WriteToUDPAddrPort(payload, to)))
}

// A gate holds a handler up, so that datagrams wait in the socket.
type gate struct {
	entered chan struct{}
	opened  context.Context
	open    context.CancelFunc
}

func newGate() *gate {
	g := &gate{entered: make(chan struct{}, 1)}
	g.opened, g.open = context.WithCancel(context.Background())
	return g
}

// pass is for the handler: it waits until the gate is open.
func (g *gate) pass() {
	select {
	case g.entered <- struct{}{}:
	default:
	}
	<-g.opened.Done()
}

// wait waits for the handler to be there.
func (g *gate) wait(t *testing.T) {
	t.Helper()
	wait(t, g.entered)
}
