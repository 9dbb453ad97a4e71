// Package bench compares package udp, in one process and on loopback, with a
// loop on package net and with one on golang.org/x/net that reads and writes
// batches. Client and server share the time: compare has the figures of a
// server by itself. What these have is the allocations of both together.
package bench

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"example.com/udp"
)

const (
	batch   = 64
	patient = 200 * time.Millisecond // what takes longer is lost
	stalls  = 20                     // in a row; then the benchmark fails
)

func BenchmarkEcho(b *testing.B)     { echoes(b, 64) }
func BenchmarkPingPong(b *testing.B) { echoes(b, 1) }

func echoes(b *testing.B, window int) {
	b.Run("net", func(b *testing.B) {
		roundTrips(b, window, netServer(b, func(c *net.UDPConn) { netLoop(c, c.WriteToUDPAddrPort) }))
	})
	b.Run("x-net", func(b *testing.B) {
		roundTrips(b, window, netServer(b, xnetEcho))
	})
	b.Run("udp-simple", func(b *testing.B) {
		roundTrips(b, window, udpServer(b, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) { c.Reply(d, d.Payload) })))
	})
	b.Run("udp-sessions", func(b *testing.B) {
		session := udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) { c.Reply(d, d.Payload) })
		roundTrips(b, window, udpServer(b, &udp.Sessions{New: func(*udp.Conn, udp.Datagram) udp.Handler { return session }}))
	})
	b.Run("udp-workers", func(b *testing.B) {
		roundTrips(b, window, udpServer(b, &udp.Workers{Handler: udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) { c.Reply(d, d.Payload) })}))
	})
	b.Run("udp-batch", func(b *testing.B) {
		roundTrips(b, window, udpServer(b, batchHandler(func(c *udp.Conn, ds []udp.Datagram) { c.WriteBatch(ds) })))
	})
}

func BenchmarkReceive(b *testing.B) {
	b.Run("net", func(b *testing.B) {
		got := make(progress, 1)
		bulk(b, got, netServer(b, func(c *net.UDPConn) {
			netLoop(c, func([]byte, netip.AddrPort) (int, error) { got.add(1); return 0, nil })
		}))
	})
	b.Run("x-net", func(b *testing.B) {
		got := make(progress, 1)
		bulk(b, got, netServer(b, func(c *net.UDPConn) { xnetLoop(c, func(_ *ipv4.PacketConn, ms []ipv4.Message) { got.add(len(ms)) }) }))
	})
	b.Run("udp-simple", func(b *testing.B) {
		got := make(progress, 1)
		bulk(b, got, udpServer(b, udp.HandlerFunc(func(*udp.Conn, udp.Datagram) { got.add(1) })))
	})
	b.Run("udp-batch", func(b *testing.B) {
		got := make(progress, 1)
		bulk(b, got, udpServer(b, batchHandler(func(_ *udp.Conn, ds []udp.Datagram) { got.add(len(ds)) })))
	})
}

// BenchmarkReadOptions has what ReadTime and ReadTrafficClass cost: each is a
// control message more for each datagram.
func BenchmarkReadOptions(b *testing.B) {
	for _, lc := range []struct {
		name        string
		time, class bool
	}{{"none", false, false}, {"time", true, false}, {"class", false, true}, {"both", true, true}} {
		b.Run(lc.name, func(b *testing.B) {
			got := make(progress, 1)
			config := udp.ListenConfig{Network: "udp4", NoOffload: true, ReadTime: lc.time, ReadTrafficClass: lc.class}
			c, err := config.Listen(b.Context(), "127.0.0.1:0", udp.HandlerFunc(func(*udp.Conn, udp.Datagram) { got.add(1) }))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { c.Close(); c.Wait() })
			bulk(b, got, c.LocalAddr())
		})
	}
}

// BenchmarkSend sends to a socket that nobody reads: the kernel drops what
// its buffer has no room for.
func BenchmarkSend(b *testing.B) {
	b.Run("net", func(b *testing.B) {
		c, to, bs := listen(b), address(listen(b)), payloads()
		start(b)
		for i := range b.N {
			if _, err := c.WriteToUDPAddrPort(bs[i%batch], to); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("x-net", func(b *testing.B) {
		c, ms := ipv4.NewPacketConn(listen(b)), messages(net.UDPAddrFromAddrPort(address(listen(b))))
		start(b)
		for done := 0; done < b.N; {
			n, err := c.WriteBatch(ms[:min(batch, b.N-done)], 0)
			if err != nil {
				b.Fatal(err)
			}
			done += n
		}
	})
	b.Run("udp-batch", func(b *testing.B) {
		c, to := udpListen(b, nil), address(listen(b))
		ds := make([]udp.Datagram, batch)
		for i, p := range payloads() {
			ds[i] = udp.Datagram{Payload: p, Addr: to}
		}
		start(b)
		for done := 0; done < b.N; {
			n, err := c.WriteBatch(ds[:min(batch, b.N-done)])
			if err != nil {
				b.Fatal(err)
			}
			done += n
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	write := func(b *testing.B, write func([]byte) (int, error)) {
		p := payloads()[0]
		start(b)
		for range b.N {
			if _, err := write(p); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("net", func(b *testing.B) {
		write(b, dial(b, address(listen(b))).Write)
	})
	b.Run("udp", func(b *testing.B) {
		c, err := udp.Dial(context.Background(), address(listen(b)).String(), nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		write(b, c.Write)
	})
}

// start begins the measurement.
func start(b *testing.B) {
	b.ReportAllocs()
	b.ResetTimer()
}

// roundTrips keeps a window of datagrams in flight to an echo server, until
// b.N have come back.
func roundTrips(b *testing.B, window int, server netip.AddrPort) {
	c := dial(b, server)
	out, in := make([]byte, 64), make([]byte, 64)
	start(b)
	flying, stalled := 0, 0
	for done := 0; done < b.N; {
		for ; flying < min(window, b.N-done); flying++ {
			if _, err := c.Write(out); err != nil {
				b.Fatal(err)
			}
		}
		c.SetReadDeadline(time.Now().Add(patient))
		for flying > 0 {
			n, err := c.Read(in)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				if stalled++; stalled == stalls {
					b.Fatal("the server does not answer")
				}
				flying = 0
				break
			}
			if err != nil || n != len(out) {
				b.Fatalf("read %d bytes, error %v", n, err)
			}
			flying, stalled = flying-1, 0
			done++
		}
	}
}

// bulk sends batches, not many ahead of the server, until it got b.N
// datagrams.
func bulk(b *testing.B, got progress, server netip.AddrPort) {
	c, ms := ipv4.NewPacketConn(listen(b)), messages(net.UDPAddrFromAddrPort(server))
	timer := time.NewTimer(patient)
	start(b)
	flying, stalled := 0, 0
	for done := 0; done < b.N; {
		for flying < min(2*batch, b.N-done) {
			n, err := c.WriteBatch(ms[:min(batch, b.N-done-flying)], 0)
			if err != nil {
				b.Fatal(err)
			}
			flying += n
		}
		timer.Reset(patient)
		select {
		case n := <-got:
			flying, stalled = max(0, flying-n), 0
			done += n
		case <-timer.C:
			if stalled++; stalled == stalls {
				b.Fatal("nothing arrives")
			}
			flying = 0
		}
	}
}

// A progress is a channel of one element: how much more was received.
type progress chan int

func (p progress) add(n int) {
	select {
	case p <- n:
	case more := <-p:
		p <- n + more // there is room: nobody else sends
	}
}

func listen(b *testing.B) *net.UDPConn {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	c.SetReadBuffer(1 << 20)
	return c
}

func address(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

func dial(b *testing.B, to netip.AddrPort) *net.UDPConn {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	c.SetReadBuffer(1 << 20)
	return c
}

func payloads() [][]byte {
	const size = 1200
	all, bs := make([]byte, batch*size), make([][]byte, batch)
	for i := range bs {
		bs[i] = all[i*size : (i+1)*size]
	}
	return bs
}

func messages(to net.Addr) []ipv4.Message {
	ms := make([]ipv4.Message, batch)
	for i, p := range payloads() {
		ms[i] = ipv4.Message{Buffers: [][]byte{p}, Addr: to}
	}
	return ms
}

func netServer(b *testing.B, loop func(*net.UDPConn)) netip.AddrPort {
	c := listen(b)
	done := make(chan struct{})
	go func() { defer close(done); loop(c) }()
	b.Cleanup(func() { c.Close(); <-done })
	return address(c)
}

func netLoop(c *net.UDPConn, handle func([]byte, netip.AddrPort) (int, error)) {
	buf := make([]byte, 65535)
	for {
		n, addr, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			handle(buf[:n], addr)
		}
	}
}

func xnetLoop(c *net.UDPConn, handle func(*ipv4.PacketConn, []ipv4.Message)) {
	pc, ms := ipv4.NewPacketConn(c), messages(nil)
	for {
		n, err := pc.ReadBatch(ms, 0)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			handle(pc, ms[:n])
		}
	}
}

func xnetEcho(c *net.UDPConn) {
	xnetLoop(c, func(pc *ipv4.PacketConn, ms []ipv4.Message) {
		for i := range ms {
			ms[i].Buffers[0] = ms[i].Buffers[0][:ms[i].N]
		}
		for out := ms; len(out) > 0; {
			n, err := pc.WriteBatch(out, 0)
			if err != nil {
				n = 1 // one that fails costs only itself
			}
			out = out[n:]
		}
		for i := range ms {
			ms[i].Buffers[0] = ms[i].Buffers[0][:1200]
		}
	})
}

type batchHandler func(c *udp.Conn, ds []udp.Datagram)

func (h batchHandler) HandleDatagram(c *udp.Conn, d udp.Datagram) { h(c, []udp.Datagram{d}) }
func (h batchHandler) HandleBatch(c *udp.Conn, ds []udp.Datagram) { h(c, ds) }

func udpServer(b *testing.B, h udp.Handler) netip.AddrPort { return udpListen(b, h).LocalAddr() }

func udpListen(b *testing.B, h udp.Handler) *udp.Conn {
	lc := udp.ListenConfig{Network: "udp4", ReadBuffer: 1 << 20}
	c, err := lc.Listen(context.Background(), "127.0.0.1:0", h)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close(); c.Wait() })
	return c
}

// BenchmarkOpen opens and closes sockets.
func BenchmarkOpen(b *testing.B) {
	run := func(name string, open func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := open(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	ours := func(c *udp.Conn, err error) error {
		if err == nil {
			c.Close()
			err = c.Wait()
		}
		return err
	}
	peer := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}
	run("listen/net", func() error {
		c, err := net.ListenUDP("udp", nil)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	run("listen/udp", func() error { return ours(udp.Listen(":0", nil)) })
	run("dial/net", func() error {
		c, err := net.DialUDP("udp", nil, peer)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	run("dial/udp", func() error { return ours(udp.Dial(context.Background(), peer.String(), nil)) })
}
