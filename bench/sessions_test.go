package bench

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"

	"example.com/udp"
)

// BenchmarkSessions has many sessions, whose peers send in random order, and
// measures what they cost beside a plain handler: memory, and time for each
// datagram without the system's part.
func BenchmarkSessions(b *testing.B) {
	const peers = 100_000
	nothing := udp.HandlerFunc(func(*udp.Conn, udp.Datagram) {})
	ds := make([]udp.Datagram, peers)
	for i := range ds {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		ds[i] = udp.Datagram{Payload: []byte("hello"), Addr: netip.AddrPortFrom(addr, 9)}
	}
	rand.Shuffle(peers, func(i, j int) { ds[i], ds[j] = ds[j], ds[i] })

	b.Run("none", func(b *testing.B) {
		inGoroutine(b, nothing, func(c *udp.Conn) {
			for i := 0; b.Loop(); i++ {
				nothing.HandleDatagram(c, ds[i%peers])
			}
		})
	})
	b.Run("100000", func(b *testing.B) {
		s := &udp.Sessions{Max: peers, New: func(*udp.Conn, udp.Datagram) udp.Handler { return nothing }}
		inGoroutine(b, s, func(c *udp.Conn) {
			before := heap()
			for _, d := range ds {
				s.HandleDatagram(c, d)
			}
			memory := heap() - before
			for i := 0; b.Loop(); i++ {
				s.HandleDatagram(c, ds[i%peers])
			}
			b.ReportMetric(float64(memory)/peers, "B/session")
		})
	})
	b.Run("refused", func(b *testing.B) {
		s := &udp.Sessions{Max: 1, New: func(*udp.Conn, udp.Datagram) udp.Handler { return nothing }}
		inGoroutine(b, s, func(c *udp.Conn) {
			for i := 0; b.Loop(); i++ {
				s.HandleDatagram(c, ds[i%peers])
			}
		})
	})
}

// BenchmarkWorkers hands datagrams to goroutines that do nothing with them.
func BenchmarkWorkers(b *testing.B) {
	w := &udp.Workers{Queue: 1 << 20, Handler: udp.HandlerFunc(func(*udp.Conn, udp.Datagram) {})}
	d := udp.Datagram{Payload: make([]byte, 100)}
	inGoroutine(b, w, func(c *udp.Conn) {
		for i := 0; b.Loop(); i++ {
			d.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 9)
			w.HandleDatagram(c, d)
		}
		b.ReportMetric(float64(w.Dropped())/float64(b.N), "dropped/op")
	})
}

// inGoroutine runs f in the goroutine of a Conn with h.
func inGoroutine(b *testing.B, h udp.Handler, f func(c *udp.Conn)) {
	b.ReportAllocs()
	c, err := udp.Listen("127.0.0.1:0", h)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Wait()
	defer c.Close()
	done := make(chan struct{})
	if err := c.Post(func() { defer close(done); f(c) }); err != nil {
		b.Fatal(err)
	}
	<-done
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
