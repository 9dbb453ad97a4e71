package udp_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/udp"
)

// TestSoakLife opens Conns in all ways, calls all their methods from several
// goroutines at once, in any order, and closes them in all ways, in the middle
// of it. Whatever fails does so for a good reason, what arrives is whole, and
// nothing is left.
func TestSoakLife(t *testing.T) {
	needTime(t)
	setup{bind: "127.0.0.1:0"}.listen(t, nil).Close() // the poller has descriptors of its own
	loopback()
	fds, memory := descriptors(t), settledHeap()
	l := &lives{t: t}
	stop := make(chan struct{})
	timer := time.AfterFunc(soakTime(), func() { close(stop) })
	defer timer.Stop()
	var done sync.WaitGroup
	for range 8 {
		done.Go(func() {
			r := rand.New(rand.NewPCG(rand.Uint64(), 0))
			for {
				select {
				case <-stop:
					return
				default:
					l.live(r)
				}
			}
		})
	}
	done.Wait()
	t.Logf("%d Conns lived, and did %d things; %d datagrams arrived", l.born.Load(), l.done.Load(), l.arrived.Load())
	if after := descriptors(t); after != fds {
		t.Errorf("there were %d descriptors, there are %d", fds, after)
	}
	if grown := settledHeap() - memory; grown > 1<<20 {
		t.Errorf("%d bytes are left", grown)
	}
}

type lives struct {
	t                   *testing.T
	born, done, arrived atomic.Int64
	mu                  sync.Mutex
	addrs               [64]netip.AddrPort // of some that live, or did
}

// any returns the address of a Conn of the family of host, or one where
// nobody listens.
func (l *lives) any(r *rand.Rand, host netip.Addr) netip.AddrPort {
	l.mu.Lock()
	defer l.mu.Unlock()
	addr := l.addrs[r.IntN(len(l.addrs))]
	if addr.Addr().BitLen() != host.BitLen() {
		return netip.AddrPortFrom(host, 9)
	}
	return addr
}

// payload makes one that tells whether it is whole.
func (l *lives) payload(r *rand.Rand) []byte {
	b := make([]byte, 4+r.IntN(2000))
	for i := range b[4:] {
		b[4+i] = byte(r.Uint32())
	}
	binary.BigEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
	return b
}

// handler returns a Handler of some kind.
func (l *lives) handler(r *rand.Rand) udp.Handler {
	datagram := func(c *udp.Conn, d udp.Datagram) {
		l.arrived.Add(1)
		if len(d.Payload) < 4 || crc32.ChecksumIEEE(d.Payload[4:]) != binary.BigEndian.Uint32(d.Payload) {
			l.t.Errorf("%v: a payload of %d bytes is not whole", c, len(d.Payload))
		}
		switch d.Payload[0] {
		case 0:
			panic("soak")
		case 1:
			c.Close()
		case 2, 3:
			l.allow("Reply", second(c.Reply(d, d.Payload)))
		case 4:
			runtime.Gosched()
		case 5:
			l.allow("Connect", c.Connect(d.Addr))
		case 6:
			l.allow("Disconnect", c.Disconnect())
		}
	}
	h := funcs{datagram: datagram}
	switch r.IntN(5) {
	case 0:
		return nil
	case 1:
		return udp.HandlerFunc(datagram)
	case 2:
		h.undelivered = func(c *udp.Conn, u udp.Undelivered) {
			if r := u.Addr.Port() % 16; r == 0 {
				panic("soak")
			} else if r == 1 {
				c.Close()
			}
		}
		return h
	case 3:
		return batchFuncs{h, func(c *udp.Conn, ds []udp.Datagram) {
			for _, d := range ds {
				datagram(c, d)
			}
			l.allow("WriteBatch", second(c.WriteBatch(ds)))
		}}
	}
	return h
}

// live is a Conn's life.
func (l *lives) live(r *rand.Rand) {
	host := loopback4
	lc := udp.ListenConfig{Network: "udp4", NoOffload: r.IntN(2) == 0, ReusePort: r.IntN(4) == 0, MaxDatagram: 2100}
	if r.IntN(3) == 0 && hasIPv6() {
		host, lc.Network = loopback6, "udp6"
	}
	if r.IntN(3) == 0 {
		lc.ReadBuffer, lc.WriteBuffer = 5000, 10000
	}
	lc.Recover = func(c *udp.Conn, v any) {
		if v != "soak" {
			l.t.Errorf("%v: a handler panics with %v", c, v)
		}
	}
	c, err := l.open(r, lc, host)
	if err != nil {
		l.allow("open", err)
		return
	}
	l.born.Add(1)
	l.mu.Lock()
	l.addrs[r.IntN(len(l.addrs))] = netip.AddrPortFrom(host, c.LocalAddr().Port())
	l.mu.Unlock()

	var done sync.WaitGroup
	for range 1 + r.IntN(3) {
		seed, steps := r.Uint64(), r.IntN(40)
		done.Go(func() {
			r := rand.New(rand.NewPCG(seed, 0))
			for range steps {
				l.step(r, c, host)
			}
		})
	}
	if r.IntN(2) == 0 {
		done.Wait()
	}
	l.end(r, c)
	done.Wait()
	if err := wait(l.t, async(c.Wait)); err != nil {
		l.t.Errorf("Wait: %v", err)
	}
	if s := c.Stats(); s.ReadErrors != 0 || s.Truncated != 0 {
		l.t.Errorf("%+v", s)
	}
}

func (l *lives) open(r *rand.Rand, lc udp.ListenConfig, host netip.Addr) (*udp.Conn, error) {
	h, wildcard := l.handler(r), ":0"
	switch r.IntN(5) {
	case 0:
		return lc.Dial(context.Background(), l.valid(r, host).String(), h)
	case 1:
		return lc.ListenMulticast(context.Background(), wildcard, h, l.group(r, host))
	case 2:
		pc, err := net.ListenPacket(lc.Network, netip.AddrPortFrom(host, 0).String())
		if err != nil {
			return nil, err
		}
		return lc.NewConn(pc, h)
	case 3:
		return lc.Listen(context.Background(), wildcard, h)
	}
	return lc.Listen(context.Background(), netip.AddrPortFrom(host, 0).String(), h)
}

// valid is any, but for addresses that are still to come.
func (l *lives) valid(r *rand.Rand, host netip.Addr) netip.AddrPort {
	if addr := l.any(r, host); addr.IsValid() {
		return addr
	}
	return netip.AddrPortFrom(host, 9)
}

func (l *lives) group(r *rand.Rand, host netip.Addr) udp.Group {
	g := udp.Group{Addr: netip.AddrFrom4([4]byte{239, 255, 78, byte(r.IntN(4))}), Interface: loopback()}
	if host.Is6() {
		g.Addr = netip.MustParseAddr("ff15::78:1")
	}
	return g
}

// step calls some method.
func (l *lives) step(r *rand.Rand, c *udp.Conn, host netip.Addr) {
	l.done.Add(1)
	ctx := context.Background()
	switch r.IntN(24) {
	case 0, 1, 2, 3, 4:
		l.allow("WriteTo", second(c.WriteTo(l.payload(r), l.valid(r, host))))
	case 5, 6, 7:
		l.allow("Write", second(c.Write(l.payload(r))))
	case 8, 9, 10, 11:
		var ds []udp.Datagram
		payload := l.payload(r)
		for range 1 + r.IntN(100) {
			if r.IntN(10) == 0 {
				payload = l.payload(r)
			}
			ds = append(ds, udp.Datagram{Payload: payload, Addr: l.valid(r, host)})
		}
		l.allow("WriteBatch", second(c.WriteBatch(ds)))
	case 12, 13:
		l.allow("Connect", c.Connect(l.valid(r, host)))
	case 14:
		l.allow("Disconnect", c.Disconnect())
	case 15:
		l.allow("Join", c.Join(l.group(r, host)))
	case 16:
		l.allow("Leave", c.Leave(l.group(r, host)))
	case 17:
		g := l.group(r, host)
		g.Source = host
		l.allow("Block", c.Block(g))
		l.allow("Unblock", c.Unblock(g))
	case 18:
		_, _, _, _, _ = c.Groups(), c.LocalAddr(), c.RemoteAddr(), c.String(), c.Stats()
	case 19:
		l.allow("SetMulticastTTL", c.SetMulticastTTL(r.IntN(3)))
		l.allow("MulticastTTL", second(c.MulticastTTL()))
	case 20:
		l.allow("SetMulticastLoopback", c.SetMulticastLoopback(r.IntN(2) == 0))
		l.allow("SetMulticastInterface", c.SetMulticastInterface(loopback()))
	case 21:
		l.allow("WriteTo a group", second(c.WriteTo(l.payload(r), netip.AddrPortFrom(l.group(r, host).Addr, c.LocalAddr().Port()))))
	case 22:
		if r.IntN(10) == 0 {
			l.end(r, c)
		}
	case 23:
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		if r.IntN(10) == 0 {
			l.allow("Shutdown", c.Shutdown(ctx))
		}
	}
}

// end closes c in some way.
func (l *lives) end(r *rand.Rand, c *udp.Conn) {
	if r.IntN(2) == 0 {
		l.allow("Close", c.Close())
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), failSafe)
	defer cancel()
	l.allow("Shutdown", c.Shutdown(ctx))
}

// allow fails the test for any error that has no good reason here.
func (l *lives) allow(what string, err error) {
	for _, reason := range []error{
		nil, net.ErrClosed, net.ErrWriteToConnected, context.Canceled, errors.ErrUnsupported,
		syscall.ENOTCONN,      // Write, Disconnect
		syscall.EADDRINUSE,    // a second Join
		syscall.EADDRNOTAVAIL, // a Leave or Block of what was not joined
		syscall.ENOBUFS,       // too many groups
		syscall.ENETUNREACH,   // a group, without a route
		syscall.EINVAL,        // a group, from a socket that is bound to an address elsewhere
	} {
		if errors.Is(err, reason) {
			return
		}
	}
	if strings.Contains(fmt.Sprint(err), "nobody's address") {
		return // an answer to 0.0.0.0: what a group gets from a host with lo alone
	}
	l.t.Errorf("%s: %v", what, err)
}

// TestSoakRounds opens and closes, again and again: 100,000 times in a soak.
func TestSoakRounds(t *testing.T) {
	needTime(t)
	setup{bind: "127.0.0.1:0"}.listen(t, nil).Close()
	fds, memory := descriptors(t), settledHeap()
	rounds := 2000
	if *soak != 0 {
		rounds = 100000
	}
	h := udp.HandlerFunc(func(*udp.Conn, udp.Datagram) {})
	for i := range rounds {
		c, err := udp.Listen("127.0.0.1:0", h)
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if i%2 == 0 {
			check(t, c.Connect(c.LocalAddr()))
		}
		check(t, c.Close())
		check(t, c.Wait())
	}
	if after := descriptors(t); after != fds {
		t.Errorf("there were %d descriptors, there are %d", fds, after)
	}
	if grown := settledHeap() - memory; grown > 256<<10 {
		t.Errorf("%d bytes are left", grown)
	}
}
