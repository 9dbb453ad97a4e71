package udp_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

var (
	host1 = netip.MustParseAddr("10.0.0.1")
	host2 = netip.MustParseAddr("10.0.0.2")
)

// onMemNet runs f in a bubble, with a MemNet and, for opening sockets on it,
// a setup that has no address of its own.
func onMemNet(t *testing.T, f func(t *testing.T, mem *udp.MemNet, n setup)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		mem := new(udp.MemNet)
		f(t, mem, openBy(mem))
	})
}

func openBy(l udp.PacketListener) setup {
	return setup{config: udp.ListenConfig{PacketListener: l}, host: host1}
}

// arrived returns the payloads that are there when nothing happens any more.
func (r *recorder) arrived() (payloads []string) {
	synctest.Wait()
	for len(r.datagrams) > 0 {
		payloads = append(payloads, string((<-r.datagrams).Payload))
	}
	return payloads
}

func (r *recorder) expectAll(t *testing.T, want ...string) {
	t.Helper()
	if got := r.arrived(); !slices.Equal(got, want) {
		t.Errorf("%q arrive, want %q", got, want)
	}
}

// TestMemNetDrop loses the third datagram, and all to one host.
func TestMemNetDrop(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		count := 0
		mem.Drop = func(from, to netip.AddrPort, payload []byte) bool {
			if from.Addr() != host1 || to.Port() != 7 {
				t.Errorf("Drop is asked about %v -> %v", from, to)
			}
			if to.Addr() == host2 {
				return true
			}
			count++
			return count == 3 || string(payload) == "unlucky"
		}
		one, two := record(), record()
		c := n.listenAt(t, "10.0.0.1:7", one)
		n.listenAt(t, "10.0.0.2:7", two)
		for _, payload := range []string{"1", "2", "3", "unlucky", "5"} {
			write(t, c, netip.AddrPortFrom(host2, 7), payload)
			write(t, c, c.LocalAddr(), payload)
		}
		one.expectAll(t, "1", "2", "5")
		two.expectAll(t)
	})
}

// TestMemNetDelay reorders what has different delays, and nothing else.
func TestMemNetDelay(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		mem.Delay = func(_, _ netip.AddrPort, payload []byte) time.Duration {
			d, _, _ := strings.Cut(string(payload), " ")
			delay, err := time.ParseDuration(d)
			check(t, err)
			return delay
		}
		start := time.Now()
		var got []string
		c := n.listenAt(t, "10.0.0.1:0", udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) {
			got = append(got, fmt.Sprintf("%s at %v", d.Payload, time.Since(start)))
		}))
		memory := make([]byte, 4)
		for _, payload := range []string{"3s", "1s", "2s a", "0s", "2s b", "1ns", "2s c", "1h"} {
			payload := append(memory[:0], payload...) // written over while it is under way
			check(t, second(c.WriteTo(payload, c.LocalAddr())))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		want := []string{"0s at 0s", "1ns at 1ns", "1s at 1s", "2s a at 2s", "2s b at 2s", "2s c at 2s", "3s at 3s", "1h at 1h0m0s"}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestMemNetCopies duplicates, and asks for a delay for each copy.
func TestMemNetCopies(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		delay := time.Duration(0)
		mem.Copies = func(_, _ netip.AddrPort, payload []byte) int { return len(payload) - 1 }
		mem.Delay = func(netip.AddrPort, netip.AddrPort, []byte) time.Duration { delay += time.Second; return delay }
		r := record()
		c := n.listenAt(t, "10.0.0.1:0", r)
		for _, payload := range []string{"1", "22", "333"} {
			write(t, c, c.LocalAddr(), payload)
		}
		for _, want := range []string{"1", "22", "22", "333", "333", "333"} {
			r.expectAll(t)
			time.Sleep(time.Second)
			r.expectAll(t, want)
		}
	})
}

// TestMemNetAsksInTurn has functions without a lock, for the race detector,
// and many who send.
func TestMemNetAsksInTurn(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		var asked []string
		mem.Drop = func(netip.AddrPort, netip.AddrPort, []byte) bool { asked = append(asked, "Drop"); return false }
		mem.Copies = func(netip.AddrPort, netip.AddrPort, []byte) int { asked = append(asked, "Copies"); return 1 }
		mem.Delay = func(netip.AddrPort, netip.AddrPort, []byte) time.Duration {
			asked = append(asked, "Delay")
			return 0
		}
		r := record()
		c := n.listenAt(t, "10.0.0.1:0", r)
		for range 50 {
			go write(t, c, c.LocalAddr(), "x")
		}
		if got := len(r.arrived()); got != 100 {
			t.Errorf("%d arrive of 100", got)
		}
		for i := 0; i < len(asked); i += 4 {
			if got := asked[i : i+4]; !slices.Equal(got, []string{"Drop", "Copies", "Delay", "Delay"}) {
				t.Fatalf("it asks for %q", got)
			}
		}
	})
}

func TestMemNetMTU(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		r := record()
		c := n.listenAt(t, "10.0.0.1:0", r)
		for _, mtu := range []int{0, 1200, 1} {
			mem.MTU = mtu
			if mtu == 0 {
				mtu = 65507
			}
			write(t, c, c.LocalAddr(), text(mtu))
			r.expectAll(t, text(mtu))
			size, err := c.WriteTo([]byte(text(mtu+1)), c.LocalAddr())
			if size != 0 || !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("MTU %d: one byte more: %d, %v", mtu, size, err)
			}
			r.expectAll(t)
		}
	})
}

// TestMemNetPanics has functions return what makes no sense.
func TestMemNetPanics(t *testing.T) {
	for _, test := range []struct {
		mem  *udp.MemNet
		want string
	}{
		{&udp.MemNet{Delay: func(netip.AddrPort, netip.AddrPort, []byte) time.Duration { return -time.Second }},
			"udp: MemNet.Delay returns -1s for 10.0.0.1:7 -> 10.0.0.2:9"},
		{&udp.MemNet{Copies: func(netip.AddrPort, netip.AddrPort, []byte) int { return -1 }},
			"udp: MemNet.Copies returns -1 for 10.0.0.1:7 -> 10.0.0.2:9"},
	} {
		c := openBy(test.mem).listenAt(t, "10.0.0.1:7", nil)
		for range 2 { // nothing stays locked
			expectPanic(t, test.want, func() { c.WriteTo(nil, netip.MustParseAddrPort("10.0.0.2:9")) })
		}
	}
}

// expectPanic fails unless f panics with a text that has want in it.
func expectPanic(t *testing.T, want string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if v := fmt.Sprint(recover()); !strings.Contains(v, want) {
			t.Errorf("it panics with %q, want %q", v, want)
		}
	}()
	f()
}

// TestMemNetInFlight has sockets open and close while a datagram is under way:
// who listens at the end gets it, also when its sender has gone.
func TestMemNetInFlight(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		mem.Delay = func(netip.AddrPort, netip.AddrPort, []byte) time.Duration { return time.Minute }
		n.listenAt(t, ":0", nil) // as all ends with the last socket
		to := netip.AddrPortFrom(host2, 9)
		r, late := record(), record()
		client := n.dial(t, to, r)
		check(t, second(client.Write([]byte("too early"))))
		synctest.Wait()
		if len(r.undelivered) != 0 {
			t.Error("it is refused before it arrives")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(r.undelivered) != 1 {
			t.Errorf("%d reports, want 1", len(r.undelivered))
		}

		check(t, second(client.Write([]byte("in time"))))
		check(t, client.Close())
		time.Sleep(time.Minute - 1)
		n.listenAt(t, to.String(), late)
		late.expectAll(t)
		time.Sleep(time.Nanosecond)
		late.expectAll(t, "in time")

	})
}

// TestMemNetEnds closes the last socket while a datagram is under way: that
// ends too, and a new socket does not get it.
func TestMemNetEnds(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		mem.Delay = func(netip.AddrPort, netip.AddrPort, []byte) time.Duration { return time.Minute }
		r := record()
		for range 2 {
			c := n.listenAt(t, "10.0.0.1:7", r)
			write(t, c, c.LocalAddr(), "lost")
			check(t, c.Close())
			check(t, c.Wait())
		}
		c := n.listenAt(t, "10.0.0.1:7", r)
		time.Sleep(time.Second)
		write(t, c, c.LocalAddr(), "hello")
		time.Sleep(time.Hour)
		r.expectAll(t, "hello")
	})
}

// TestMemNetRefused counts reports, one for each datagram: of a Conn that is
// connected or not, where nobody listens or somebody for others only.
func TestMemNetRefused(t *testing.T) {
	onMemNet(t, func(t *testing.T, _ *udp.MemNet, n setup) {
		dead := netip.AddrPortFrom(host2, 9)
		r := record()
		c, unheard := n.listenAt(t, "10.0.0.1:7", r), n.listenAt(t, "10.0.0.1:8", nil)
		reports := 0
		expect := func(what string) {
			reports += 3
			t.Helper()
			synctest.Wait()
			for i := range 3 {
				write(t, c, dead, "x")
				write(t, unheard, dead, "x")
				if i > 0 {
					synctest.Wait() // once they come singly, once together
				}
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if len(r.undelivered) != 3 {
				t.Errorf("%s: %d reports, want 3", what, len(r.undelivered))
			}
			for len(r.undelivered) > 0 {
				if u := <-r.undelivered; u != (udp.Undelivered{Addr: dead, Offender: host2, Err: syscall.ECONNREFUSED}) {
					t.Errorf("%s: got %+v", what, u)
				}
			}
			if got := unheard.Stats().Undelivered; got != uint64(reports) {
				t.Errorf("%s: Stats.Undelivered is %d, want %d", what, got, reports)
			}
		}
		expect("not connected")
		check(t, c.Connect(dead))
		check(t, unheard.Connect(dead))
		expect("connected")
		check(t, n.listenAt(t, dead.String(), nil).Connect(dead)) // to itself
		expect("not for others")
		check(t, unheard.Disconnect())
		check(t, c.Disconnect())
		expect("disconnected")
	})
}

// TestMemNetManyReports has more refusals than anybody keeps, as nobody takes
// them.
func TestMemNetManyReports(t *testing.T) {
	onMemNet(t, func(t *testing.T, _ *udp.MemNet, n setup) {
		const sent = 5000
		entered, open := make(chan struct{}), make(chan struct{})
		reports := 0
		c := n.listenAt(t, "10.0.0.1:7", funcs{
			datagram:    func(*udp.Conn, udp.Datagram) { close(entered); <-open },
			undelivered: func(*udp.Conn, udp.Undelivered) { reports++ },
		})
		write(t, c, c.LocalAddr(), "block")
		<-entered
		for range sent {
			write(t, c, netip.AddrPortFrom(host2, 9), "x")
		}
		close(open)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := c.Stats().Undelivered; reports < 1000 || reports >= sent || got != uint64(reports) {
			t.Errorf("%d reports for %d datagrams, and Stats.Undelivered is %d", reports, sent, got)
		}
		before := reports
		write(t, c, netip.AddrPortFrom(host2, 9), "x")
		synctest.Wait()
		if reports != before+1 {
			t.Errorf("%d reports for one more", reports-before)
		}
	})
}

// TestMemNetThousandSeconds asks every second for a thousand of them.
func TestMemNetThousandSeconds(t *testing.T) {
	start := time.Now()
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		mem.Delay = func(netip.AddrPort, netip.AddrPort, []byte) time.Duration { return 50 * time.Millisecond }
		n.listenAt(t, "10.0.0.1:7", echo(t))
		r := record()
		client := n.dial(t, netip.AddrPortFrom(host1, 7), r)
		asked := time.Now()
		for range 1000 {
			check(t, second(client.Write([]byte("x"))))
			wait(t, r.datagrams)
			time.Sleep(900 * time.Millisecond)
		}
		if passed := time.Since(asked); passed != 1000*time.Second {
			t.Errorf("%v have passed", passed)
		}
	})
	if real := time.Since(start); real > failSafe {
		t.Errorf("a thousand seconds take %v", real)
	}
}

// TestMemNetBubbles has bubbles side by side, each with the same addresses,
// and then uses one MemNet again in another bubble.
func TestMemNetBubbles(t *testing.T) {
	use := func(t *testing.T, mem *udp.MemNet) {
		synctest.Test(t, func(t *testing.T) {
			n := openBy(mem)
			n.listenAt(t, "10.0.0.1:7", echo(t))
			r := record()
			client := n.dial(t, netip.AddrPortFrom(host1, 7), r)
			for i := range 100 {
				payload := fmt.Sprint(t.Name(), i)
				check(t, second(client.Write([]byte(payload))))
				r.expectAll(t, payload)
				time.Sleep(time.Second)
			}
		})
	}
	for range 4 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			mem := new(udp.MemNet)
			use(t, mem)
			use(t, mem)
		})
	}
}

// TestMemNetOutside uses sockets outside of the bubble that they are from, and
// in a bubble sockets that are from none.
func TestMemNetOutside(t *testing.T) {
	mem := new(udp.MemNet)
	outside := func(pc net.PacketConn, want string) {
		t.Helper()
		for _, f := range []func(){
			func() { pc.WriteTo(nil, pc.LocalAddr()) },
			func() { pc.ReadFrom(nil) },
			func() { pc.SetDeadline(time.Time{}) },
			func() { mem.ListenPacket(t.Context(), "udp", "10.0.0.2:7") },
			func() { pc.Close() },
		} {
			expectPanic(t, want, f)
		}
	}
	var kept net.PacketConn
	synctest.Test(t, func(t *testing.T) {
		pc, err := mem.ListenPacket(t.Context(), "udp", "10.0.0.1:7")
		check(t, err)
		kept = pc
	})
	outside(kept, "used outside of synctest bubbles, but its MemNet is in use in a synctest bubble")

	mem = new(udp.MemNet)
	kept, err := mem.ListenPacket(t.Context(), "udp", "10.0.0.1:7")
	check(t, err)
	synctest.Test(t, func(*testing.T) {
		outside(kept, "udp: MemNet socket 10.0.0.")
	})
}

// TestMemNetOtherBubble has a process of its own, as Go ends it.
func TestMemNetOtherBubble(t *testing.T) {
	const variable = "UDP_TEST_OTHER_BUBBLE"
	if os.Getenv(variable) != "" {
		mem := new(udp.MemNet)
		for range 2 {
			synctest.Test(t, func(t *testing.T) { mem.ListenPacket(t.Context(), "udp", "10.0.0.1:0") })
		}
		return
	}
	self := again(t, "TestMemNetOtherBubble")
	cmd := exec.CommandContext(t.Context(), self[0], self[1:]...)
	cmd.Env = append(os.Environ(), variable+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "from outside bubble") || !strings.Contains(string(out), "mustBeInItsBubble") {
		t.Errorf("the program ends with %v:\n%s", err, out)
	}
}

// TestMemNetReaders has several read at once from a socket: each gets one, and
// all are told that it is closed.
func TestMemNetReaders(t *testing.T) {
	onMemNet(t, func(t *testing.T, _ *udp.MemNet, n setup) {
		b := n.peer(t)
		results := make(chan string, 10)
		for range 6 {
			go func() {
				buf := make([]byte, 10)
				size, _, err := b.ReadFrom(buf)
				results <- fmt.Sprint(string(buf[:size]), errors.Is(err, net.ErrClosed))
			}()
		}
		expect := func(want string, count int) {
			t.Helper()
			if synctest.Wait(); len(results) != count {
				t.Errorf("%d readers return, want %d", len(results), count)
			}
			for len(results) > 0 {
				if got := <-results; got != want {
					t.Errorf("a reader gets %q, want %q", got, want)
				}
			}
		}
		expect("", 0)
		b.send(t, b.addr, "x")
		expect("xfalse", 1)
		b.send(t, b.addr, "y")
		b.send(t, b.addr, "y")
		expect("yfalse", 2)
		check(t, b.Close())
		expect("true", 3)
	})
}

// TestMemNetConnect connects to the unspecified address, which stands for the
// host itself.
func TestMemNetConnect(t *testing.T) {
	onMemNet(t, func(t *testing.T, _ *udp.MemNet, n setup) {
		for _, unspecified := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			r := record()
			c := n.listenAt(t, ":0", r)
			check(t, c.Connect(netip.AddrPortFrom(unspecified, c.LocalAddr().Port())))
			if c.RemoteAddr() != c.LocalAddr() || !c.LocalAddr().Addr().IsLoopback() {
				t.Errorf("connected to %v, it is %v", unspecified, c)
			}
			check(t, second(c.Write([]byte("hello"))))
			r.expectAll(t, "hello")
		}
	})
}

// TestMemNetAllocations sends to itself, with and without a Conn.
func TestMemNetAllocations(t *testing.T) {
	if raceDetector() {
		t.Skip("the race detector allocates: try without -race")
	}
	mem := new(udp.MemNet)
	arrived := make(chan struct{})
	c := openBy(mem).listenAt(t, "10.0.0.1:0", udp.HandlerFunc(func(*udp.Conn, udp.Datagram) { arrived <- struct{}{} }))
	payload := []byte(text(1200))
	if got := testing.AllocsPerRun(1000, func() {
		c.WriteTo(payload, c.LocalAddr())
		<-arrived
	}); got != 0 {
		t.Errorf("a Conn allocates %v times for each datagram", got)
	}
	type packetConn interface {
		ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
		WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
	}
	b := openBy(mem).peer(t)
	pc := b.PacketConn.(packetConn)
	if got := testing.AllocsPerRun(1000, func() {
		pc.WriteToUDPAddrPort(payload, b.addr)
		pc.ReadFromUDPAddrPort(payload)
	}); got != 0 {
		t.Errorf("a bare socket allocates %v times for each datagram", got)
	}
}

// TestMemNetHost has three hosts whose sockets have all their addresses.
func TestMemNetHost(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		six := netip.MustParseAddr("2001:db8::2")
		others := []setup{openBy(mem.Host(host1)), openBy(mem.Host(netip.AddrFrom16(host2.As16()), six)), n}
		recorders := []*recorder{record(), record(), record()}
		var conns []*udp.Conn
		for i, n := range others {
			conns = append(conns, n.listenAt(t, ":7", recorders[i]))
		}
		for i, test := range []struct {
			from *udp.Conn
			to   string
			at   int
			addr string // of the sender
		}{
			{conns[0], "10.0.0.1", 0, "10.0.0.1"},
			{conns[0], "10.0.0.2", 1, "10.0.0.1"},
			{conns[0], "10.0.0.3", 2, "10.0.0.1"},
			{conns[0], "127.0.0.9", 0, "127.0.0.1"},
			{conns[0], "::1", 0, "::1"},
			{conns[1], "10.0.0.1", 0, "10.0.0.2"},
			{conns[1], "2001:db8::2", 1, "2001:db8::2"},
			{conns[1], "2001:db8::3", 2, "2001:db8::2"},
			{conns[1], "127.0.0.1", 1, "127.0.0.1"},
			{conns[2], "10.0.0.1", 0, "192.0.2.1"},
			{conns[2], "2001:db8::2", 1, "2001:db8::1"},
			{conns[2], "2001:db8::2", 1, "2001:db8::1"},
			{conns[2], "0.0.0.0", 2, "127.0.0.1"},
		} {
			payload := fmt.Sprint(i)
			write(t, test.from, netip.AddrPortFrom(netip.MustParseAddr(test.to), 7), payload)
			synctest.Wait()
			for at, r := range recorders {
				if at != test.at {
					r.expectAll(t)
					continue
				}
				d := wait(t, r.datagrams)
				if string(d.Payload) != payload || d.Addr.Addr().String() != test.addr {
					t.Errorf("to %s: got %q from %v, want %q from %s", test.to, d.Payload, d.Addr, payload, test.addr)
				}
			}
		}

		isError(t, second(conns[0].WriteTo(nil, netip.AddrPortFrom(six, 7))), syscall.ENETUNREACH)
		isError(t, conns[0].Connect(netip.AddrPortFrom(six, 7)), syscall.ENETUNREACH)
		isError(t, second(conns[0].Reply(udp.Datagram{Addr: netip.AddrPortFrom(six, 7), Local: six}, nil)), syscall.EADDRNOTAVAIL)
		home := others[0].listenAt(t, "127.0.0.1:8", nil)
		isError(t, second(home.WriteTo(nil, netip.AddrPortFrom(host2, 7))), syscall.EINVAL)
		for _, address := range []string{"10.0.0.2:8", "10.0.0.3:8", "239.1.1.1:8", "255.255.255.255:8"} {
			_, err := others[0].config.PacketListener.ListenPacket(t.Context(), "udp", address)
			isError(t, err, syscall.EADDRNOTAVAIL)
		}
		_, err := mem.ListenPacket(t.Context(), "udp", "10.0.0.2:8")
		isError(t, err, syscall.EADDRNOTAVAIL)
		for _, bad := range []string{"10.0.0.2", "127.0.0.1", "::", "239.1.1.1", "255.255.255.255"} {
			expectPanic(t, bad, func() { mem.Host(netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr(bad)) })
		}
		expectPanic(t, "invalid", func() { mem.Host(netip.Addr{}) })
	})
}

func isError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// TestMemNetPorts says who may listen where somebody listens.
func TestMemNetPorts(t *testing.T) {
	type listener struct {
		network, address string
		reuse            bool
	}
	for _, test := range []struct {
		first, second listener
		works         bool
	}{
		{listener{"udp", "10.0.0.1:7", false}, listener{"udp", "10.0.0.1:7", false}, false},
		{listener{"udp", "10.0.0.1:7", false}, listener{"udp", "10.0.0.2:7", false}, true},
		{listener{"udp", "10.0.0.1:7", false}, listener{"udp", "10.0.0.1:8", false}, true},
		{listener{"udp", "10.0.0.1:7", false}, listener{"udp", ":7", false}, false},
		{listener{"udp", "10.0.0.1:7", false}, listener{"udp4", ":7", false}, false},
		{listener{"udp", "10.0.0.1:7", false}, listener{"udp6", ":7", false}, true},
		{listener{"udp", ":7", false}, listener{"udp4", "10.0.0.1:7", false}, false},
		{listener{"udp", ":7", false}, listener{"udp", "[::1]:7", false}, false},
		{listener{"udp4", ":7", false}, listener{"udp6", ":7", false}, true},
		{listener{"udp", ":7", false}, listener{"udp6", ":7", false}, false},
		{listener{"udp", ":7", true}, listener{"udp", ":7", true}, true},
		{listener{"udp", ":7", true}, listener{"udp", "10.0.0.1:7", true}, true},
		{listener{"udp", ":7", true}, listener{"udp", ":7", false}, false},
		{listener{"udp", ":7", false}, listener{"udp", ":7", true}, false},
	} {
		var mem udp.MemNet
		open := func(l listener) (*udp.Conn, error) {
			lc := udp.ListenConfig{Network: l.network, ReusePort: l.reuse, PacketListener: &mem}
			return lc.Listen(t.Context(), l.address, nil)
		}
		for range 2 {
			first, err := open(test.first)
			check(t, err)
			second, err := open(test.second)
			if test.works != (err == nil) || err != nil && !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("%+v beside %+v: %v", test.second, test.first, err)
			}
			first.Close()
			if err == nil {
				second.Close()
			}
		}
	}
}

// TestMemNetPortZero takes all ports that there are.
func TestMemNetPortZero(t *testing.T) {
	needTime(t)
	var mem udp.MemNet
	seen := make(map[string]bool)
	open := func() (net.PacketConn, error) { return mem.ListenPacket(context.Background(), "udp", ":0") }
	var all []net.PacketConn
	for range 1<<16 - 49152 {
		pc, err := open()
		check(t, err)
		all = append(all, pc)
		seen[pc.LocalAddr().String()] = true
	}
	if len(seen) != len(all) || !seen["[::]:49152"] || !seen["[::]:65535"] {
		t.Errorf("%d ports of %d differ", len(seen), len(all))
	}
	_, err := open()
	isError(t, err, syscall.EADDRINUSE)
	check(t, all[100].Close())
	pc, err := open()
	check(t, err)
	if got, want := pc.LocalAddr().String(), all[100].LocalAddr().String(); got != want {
		t.Errorf("the port is %s, want %s", got, want)
	}
}

// TestMemNetReusePort has each peer stay with one of the sockets on a port.
func TestMemNetReusePort(t *testing.T) {
	onMemNet(t, func(t *testing.T, _ *udp.MemNet, n setup) {
		peers := n
		n.config.ReusePort = true
		recorders := []*recorder{record(), record(), record()}
		for _, r := range recorders {
			n.listenAt(t, "10.0.0.1:7", r)
		}
		used := make(map[*recorder]int)
		for range 64 {
			c := peers.dial(t, netip.AddrPortFrom(host1, 7), nil)
			check(t, second(c.Write([]byte("1"))))
			check(t, second(c.Write([]byte("2"))))
			for _, r := range recorders {
				if got := r.arrived(); len(got) == 2 {
					used[r]++
				} else if len(got) != 0 {
					t.Errorf("a peer's datagrams are divided: %q", got)
				}
			}
		}
		for _, r := range recorders {
			if used[r] == 0 || used[r] == 64 {
				t.Errorf("one of the sockets has %d of 64 peers", used[r])
			}
		}
	})
}

// TestMemNetBestFit sends to a port where several listen.
func TestMemNetBestFit(t *testing.T) {
	onMemNet(t, func(t *testing.T, _ *udp.MemNet, n setup) {
		first, last, one, connected := record(), record(), record(), record()
		n.multicast(t, "10.0.0.1:7", one)
		n.multicast(t, ":7", first)
		n.multicast(t, ":7", last)
		from := n.listenAt(t, "10.0.0.9:9", nil)
		write(t, from, netip.AddrPortFrom(host1, 7), "address")
		write(t, from, netip.AddrPortFrom(host2, 7), "last")
		check(t, n.multicast(t, "10.0.0.1:7", connected).Connect(from.LocalAddr()))
		n.multicast(t, "10.0.0.1:7", nil)
		write(t, from, netip.AddrPortFrom(host1, 7), "peer")
		first.expectAll(t)
		last.expectAll(t, "last")
		one.expectAll(t, "address")
		connected.expectAll(t, "peer")
	})
}

// TestMemNetQueue lets the receive queue overflow, with and without payload.
func TestMemNetQueue(t *testing.T) {
	onMemNet(t, func(t *testing.T, _ *udp.MemNet, n setup) {
		for _, test := range []struct{ buffer, size, atLeast, atMost int }{
			{0, 1200, 100, 212992 / 1200},
			{0, 0, 200, 1000},
			{10000, 1200, 5, 10000/1200 + 1},
			{1, 65507, 1, 1},
			{1 << 20, 1200, 500, 1 << 20 / 1200},
		} {
			n.config.ReadBuffer, n.config.WriteBuffer = test.buffer, 1 // the latter changes nothing
			entered, open := make(chan struct{}), make(chan struct{})
			blocked := false
			c := n.listenAt(t, "10.0.0.1:0", funcs{datagram: func(*udp.Conn, udp.Datagram) {
				if !blocked {
					blocked = true
					close(entered)
					<-open
				}
			}})
			write(t, c, c.LocalAddr(), "block")
			<-entered
			const sent = 2000
			for range sent {
				write(t, c, c.LocalAddr(), text(test.size))
			}
			dropped := int(c.Stats().Dropped)
			close(open)
			synctest.Wait()
			s := c.Stats()
			if read := int(s.ReadDatagrams) - 1; read < test.atLeast || read > test.atMost || read+dropped != sent {
				t.Errorf("%d bytes take %d of %d bytes, and drop %d", test.buffer, read, test.size, dropped)
			}
			write(t, c, c.LocalAddr(), "more") // there is room again
			if synctest.Wait(); c.Stats().Dropped != s.Dropped {
				t.Error("an empty queue drops")
			}
		}
	})
}

// TestMemNetLoopback sends to a group with loopback off, and with a TTL of 0.
func TestMemNetLoopback(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		group := udp.Group{Addr: netip.MustParseAddr("239.255.0.5")}
		same, other := record(), record()
		here, there := mem.Host(host1), mem.Host(host2)
		c := openBy(here).multicast(t, ":7", same, group)
		openBy(there).multicast(t, ":7", other, group)
		to := netip.AddrPortFrom(group.Addr, 7)

		write(t, c, to, "both")
		check(t, c.SetMulticastLoopback(false))
		write(t, c, to, "others")
		check(t, c.SetMulticastLoopback(true))
		check(t, c.SetMulticastTTL(0))
		write(t, c, to, "own host")
		check(t, c.SetMulticastLoopback(false))
		write(t, c, to, "nobody")
		same.expectAll(t, "both", "own host")
		other.expectAll(t, "both", "others")

		check(t, c.SetMulticastTTL(5))
		write(t, c, to, "far")
		synctest.Wait()
		if d := wait(t, other.datagrams); d.TTL != 5 || d.Interface != 1 || d.Local != group.Addr || d.Addr != netip.AddrPortFrom(host1, 7) {
			t.Errorf("got %+v", d)
		}
	})
}

// TestMemNetInterfaces joins groups on some interfaces, and sends by others.
func TestMemNetInterfaces(t *testing.T) {
	onMemNet(t, func(t *testing.T, _ *udp.MemNet, n setup) {
		for _, group := range []netip.Addr{netip.MustParseAddr("239.255.0.5"), netip.MustParseAddr("ff15::5")} {
			to := netip.AddrPortFrom(group, 7)
			on := func(index int) udp.Group { return udp.Group{Addr: group, Interface: &net.Interface{Index: index}} }
			first, last, any, all, none := record(), record(), record(), record(), record()
			opened := []*udp.Conn{
				n.multicast(t, ":7", first, on(1)),
				n.multicast(t, ":7", last, on(65535)),
				n.multicast(t, ":7", any, udp.Group{Addr: group}),
				n.multicast(t, ":7", all),
				n.multicast(t, ":7", none, udp.Group{Addr: netip.MustParseAddr("239.255.0.6")}),
			}
			check(t, opened[3].JoinAll(group))
			from := n.listenAt(t, ":0", nil)
			write(t, from, to, "first")
			check(t, from.SetMulticastInterface(&net.Interface{Index: 65535}))
			write(t, from, to, "last")
			if size, err := from.WriteBatch([]udp.Datagram{{Payload: []byte("third"), Addr: to, Interface: 3}}); size != 1 {
				t.Error(err)
			}
			if group.Is6() {
				write(t, from, netip.AddrPortFrom(group.WithZone("1"), 7), "zone")
				first.expectAll(t, "first", "zone")
			} else {
				first.expectAll(t, "first")
			}
			last.expectAll(t, "last")
			if got := any.arrived(); len(got) < 3 || !slices.Equal(got, all.arrived()) {
				t.Errorf("without an interface, %q arrive", got)
			}
			none.expectAll(t)
			isError(t, from.SetMulticastInterface(&net.Interface{Index: 65536}), syscall.ENODEV)
			isError(t, from.Join(on(65536)), syscall.ENODEV)
			isError(t, second(from.Reply(udp.Datagram{Addr: to, Interface: 65536}, nil)), syscall.ENODEV)
			check(t, opened[3].Leave(udp.Group{Addr: group}))
			write(t, from, to, "nobody")
			all.expectAll(t)
			for _, c := range opened {
				c.Close()
			}
		}
	})
}

// TestMemNetGroups sends to a group that sockets have joined which do not get
// it: those of one address, as on Linux, and those that are connected.
func TestMemNetGroups(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		group := udp.Group{Addr: netip.MustParseAddr("239.255.0.5")}
		one, connected, member := record(), record(), record()
		n.multicast(t, "10.0.0.1:7", one, group)
		check(t, n.multicast(t, ":7", connected, group).Connect(netip.AddrPortFrom(host2, 9)))
		n.multicast(t, ":7", member, group)
		dropped := ""
		mem.Drop = func(_, to netip.AddrPort, payload []byte) bool {
			dropped = fmt.Sprintf("%s to %v", payload, to)
			return string(payload) == "drop"
		}
		from := n.listenAt(t, "10.0.0.2:9", nil)
		write(t, from, netip.AddrPortFrom(group.Addr, 7), "hello")
		write(t, from, netip.AddrPortFrom(group.Addr, 7), "drop")
		if dropped != "drop to 239.255.0.5:7" {
			t.Errorf("Drop is asked about %q", dropped)
		}
		one.expectAll(t)
		connected.expectAll(t)
		member.expectAll(t, "hello")
	})
}

// TestMemNetAdopted makes a Conn of a socket that has been opened before: it
// too hears no source that it blocks, and no group that it has not joined.
func TestMemNetAdopted(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		pc, err := mem.ListenPacket(t.Context(), "udp", ":7")
		check(t, err)
		r := record()
		c, err := udp.NewConn(pc, r)
		check(t, err)
		closeAtEnd(t, c)
		group := udp.Group{Addr: netip.MustParseAddr("239.255.0.5")}
		from1, from2 := group, group
		from1.Source, from2.Source = host1, host2
		one, two := n.listenAt(t, "10.0.0.1:9", nil), n.listenAt(t, "10.0.0.2:9", nil)
		send := func(name string) {
			write(t, one, netip.AddrPortFrom(group.Addr, 7), name+" 1")
			write(t, two, netip.AddrPortFrom(group.Addr, 7), name+" 2")
		}
		send("before")
		check(t, c.Join(udp.Group{Addr: group.Addr, Interface: &net.Interface{Index: 2}}))
		send("another interface")
		check(t, c.Leave(udp.Group{Addr: group.Addr, Interface: &net.Interface{Index: 2}}))
		check(t, c.Join(from1))
		send("source")
		check(t, c.Leave(from1))
		check(t, c.Join(group))
		check(t, c.Block(from1))
		send("blocked")
		check(t, c.Unblock(from1))
		send("all")
		check(t, c.Leave(group))
		send("after")
		r.expectAll(t, "source 1", "blocked 2", "all 1", "all 2")
	})
}

func TestMemNetBroadcast(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		here, there, six, one := record(), record(), record(), record()
		n.listenAt(t, ":7", here)
		openBy(mem.Host(host2)).listenAt(t, ":7", funcs{datagram: func(c *udp.Conn, d udp.Datagram) {
			there.HandleDatagram(c, d)
			check(t, second(c.Reply(d, []byte("from "+d.Local.String()))))
		}})
		host3 := mem.Host(netip.MustParseAddr("10.0.0.3"))
		only6 := openBy(host3)
		only6.config.Network = "udp6"
		only6.listenAt(t, ":7", six)
		openBy(host3).listenAt(t, "10.0.0.3:7", one)
		r := record()
		isError(t, second(n.listenAt(t, ":10", nil).WriteTo(nil, netip.MustParseAddrPort("255.255.255.255:7"))), syscall.EACCES)
		n.config.Broadcast = true
		write(t, n.listenAt(t, ":9", r), netip.MustParseAddrPort("255.255.255.255:7"), "all")
		here.expectAll(t, "all")
		there.expectAll(t, "all")
		six.expectAll(t)
		one.expectAll(t)
		r.expect(t, "from 255.255.255.255", netip.AddrPortFrom(host2, 7))
	})
}

// TestMemNetBadAddress opens what there is not.
func TestMemNetBadAddress(t *testing.T) {
	for _, test := range []struct{ network, address, want string }{
		{"tcp", "10.0.0.1:7", "listen tcp: unknown network tcp"},
		{"", "10.0.0.1:7", "listen: unknown network "},
		{"udp", "10.0.0.1.2:7", "listen udp: lookup 10.0.0.1.2: no such host"},
		{"udp", "10.0.0.1", "missing port in address"},
		{"udp", "", "missing address"},
		{"udp", "10.0.0.1:", "missing port"},
		{"udp", "10.0.0.1:70000", "invalid port"},
		{"udp6", "10.0.0.1:7", "no address for network udp6"},
		{"udp4", "[::1]:7", "no address for network udp4"},
		{"udp", "239.255.0.1:7", "listen udp 239.255.0.1:7: bind: "},
	} {
		pc, err := new(udp.MemNet).ListenPacket(t.Context(), test.network, test.address)
		if pc != nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q at %q: %v, %v; want %q", test.network, test.address, pc, err, test.want)
		}
		if _, ok := err.(*net.OpError); !ok {
			t.Errorf("%T is no *net.OpError", err)
		}
	}
}

// TestMemNetConcurrent has many sockets send to each other at once, without a
// bubble: nothing is lost, and the race detector has nothing to say.
func TestMemNetConcurrent(t *testing.T) {
	const sockets, each = 8, 100
	random := rand.New(rand.NewPCG(1, 2))
	mem := &udp.MemNet{Delay: func(netip.AddrPort, netip.AddrPort, []byte) time.Duration {
		return time.Duration(random.IntN(2)) * time.Microsecond
	}}
	n := openBy(mem)
	n.config.ReadBuffer = 1 << 24 // for all of them
	var left atomic.Int64
	left.Store(sockets * sockets * each)
	done := make(chan struct{})
	var conns []*udp.Conn
	for i := range sockets {
		conns = append(conns, n.listenAt(t, fmt.Sprintf("10.0.0.%d:7", i+1), udp.HandlerFunc(func(*udp.Conn, udp.Datagram) {
			if left.Add(-1) == 0 {
				close(done)
			}
		})))
	}
	for _, c := range conns {
		go func() {
			for i := range each {
				for _, to := range conns {
					c.WriteTo([]byte(text(i)), to.LocalAddr())
				}
			}
		}()
	}
	wait(t, done)
}

// BenchmarkMemNet has a server echo to a client, which keeps some datagrams
// under way: on a MemNet and over the loopback interface.
func BenchmarkMemNet(b *testing.B) {
	for _, window := range []int{1, 32} {
		for _, network := range []struct {
			name     string
			listener udp.PacketListener
		}{{"memory", new(udp.MemNet)}, {"loopback", nil}} {
			b.Run(fmt.Sprintf("%s/%d", network.name, window), func(b *testing.B) {
				lc := udp.ListenConfig{PacketListener: network.listener}
				server, err := lc.Listen(b.Context(), "127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
					c.Reply(d, d.Payload)
				}))
				if err != nil {
					b.Fatal(err)
				}
				defer server.Close()
				back := make(chan struct{}, window)
				client, err := lc.Dial(b.Context(), server.LocalAddr().String(), udp.HandlerFunc(func(*udp.Conn, udp.Datagram) {
					back <- struct{}{}
				}))
				if err != nil {
					b.Fatal(err)
				}
				defer client.Close()
				for range window {
					back <- struct{}{}
				}
				payload := make([]byte, 1200)
				b.SetBytes(int64(2 * len(payload)))
				b.ReportAllocs()
				for b.Loop() {
					<-back
					if _, err := client.Write(payload); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
