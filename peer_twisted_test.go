package udp_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// Each test here has a twin in Twisted's own tests of its UDP, whose name it
// bears; testdata/twisted.md says what each pins.

func TestTwistedOldAddress(t *testing.T) {
	c := listenOn(t, "127.0.0.1", nil)
	if network, _, _ := strings.Cut(c.String(), " "); network != "udp" {
		t.Errorf("String = %q, want one of network udp", c)
	}
}

func TestTwistedStartStop(t *testing.T) {
	w := newWitness()
	c := listenOn(t, "127.0.0.1", w)
	if len(w.started) != 1 || len(w.stopped) != 0 {
		t.Errorf("after Listen: started %d times, stopped %d times; want 1, 0", len(w.started), len(w.stopped))
	}
	closeNow(t, c)
	if len(w.started) != 1 || len(w.stopped) != 1 {
		t.Fatalf("after Wait: started %d times, stopped %d times; want 1, 1", len(w.started), len(w.stopped))
	}
	if err := <-w.stopped; err != nil {
		t.Errorf("HandleStop got %v, want nil", err)
	}
}

func TestTwistedRebind(t *testing.T) {
	w := newWitness()
	for range 2 {
		c := listenOn(t, "127.0.0.1", w)
		if started := heard(t, w.started); started != c {
			t.Errorf("HandleStart got %v, want %v", started, c)
		}
		closeNow(t, c)
	}
}

func TestTwistedBindError(t *testing.T) {
	first := listenOn(t, "127.0.0.1", nil)
	w := newWitness()
	second, err := udp.Listen(first.LocalAddr().String(), w)
	if err == nil {
		second.Close()
	}
	var op *net.OpError
	if !errors.Is(err, syscall.EADDRINUSE) || !errors.As(err, &op) || op.Op != "listen" {
		t.Errorf("Listen on a port in use: %v, want a *net.OpError of listen with %v", err, syscall.EADDRINUSE)
	}
	if len(w.started) != 0 {
		t.Error("HandleStart was called without a socket")
	}
}

func TestTwistedSendPackets(t *testing.T) {
	fromClient, fromServer := newWitness(), newWitness()
	server := listenOn(t, "127.0.0.1", fromClient)
	client := listenOn(t, "127.0.0.1", fromServer)
	if err := client.Connect(server.LocalAddr()); err != nil {
		t.Fatal(err)
	}

	if _, err := server.WriteTo([]byte("hello"), client.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	fromServer.wantDatagram(t, "hello", server.LocalAddr())

	if _, err := client.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := client.WriteTo([]byte("b"), server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	fromClient.wantDatagram(t, "a", client.LocalAddr())
	fromClient.wantDatagram(t, "b", client.LocalAddr())
}

func TestTwistedConnectionRefused(t *testing.T) {
	dead := deadAddr(t)
	w := newWitness()
	client := listenOn(t, "127.0.0.1", w)
	server := listenOn(t, "127.0.0.1", nil)
	if err := client.Connect(dead); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if _, err := fmt.Fprint(client, i); err != nil {
			t.Errorf("Write %d: %v", i, err)
		}
		if _, err := server.WriteTo([]byte{'0' + byte(i)}, dead); err != nil {
			t.Errorf("WriteTo %d: %v", i, err)
		}
	}
	u := heard(t, w.undelivered)
	if u.Addr != dead || !errors.Is(u.Err, syscall.ECONNREFUSED) {
		t.Errorf("HandleUndelivered got %+v, want %v, %v", u, dead, syscall.ECONNREFUSED)
	}
}

func TestTwistedBadConnect(t *testing.T) {
	c := listenOn(t, "127.0.0.1", nil)
	first, second := listenOn(t, "127.0.0.1", nil).LocalAddr(), listenOn(t, "127.0.0.1", nil).LocalAddr()
	if err := c.Connect(netip.AddrPort{}); err == nil || c.RemoteAddr().IsValid() {
		t.Errorf("Connect to no address: %v, RemoteAddr = %v; want an error, none", err, c.RemoteAddr())
	}
	for _, peer := range []netip.AddrPort{first, second} {
		if err := c.Connect(peer); err != nil || c.RemoteAddr() != peer {
			t.Errorf("Connect(%v): %v, RemoteAddr = %v", peer, err, c.RemoteAddr())
		}
	}
}

func TestTwistedDatagramReceivedError(t *testing.T) {
	panics := make(chan any, 2)
	lc := udp.ListenConfig{Recover: func(_ *udp.Conn, v any) { panics <- v }}
	c, err := lc.Listen(t.Context(), "127.0.0.1:0", udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) {
		panic(string(d.Payload))
	}))
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, c)
	for _, s := range []string{"0", "1"} {
		if _, err := c.WriteTo([]byte(s), c.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if v := heard(t, panics); v != s {
			t.Errorf("Recover got %v, want %v", v, s)
		}
	}
	closeNow(t, c)
	if n := c.Stats().Panics; n != 2 {
		t.Errorf("Stats.Panics = %d, want 2", n)
	}
}

func TestTwistedNoWarningOnBroadcast(t *testing.T) {
	pc := newScripted()
	c, err := udp.NewConn(pc, nil)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, c)
	broadcast := netip.MustParseAddrPort("255.255.255.255:1234")
	if _, err := c.WriteTo([]byte("test"), broadcast); err != nil {
		t.Fatal(err)
	}
	if to := heard(t, pc.written); to.String() != broadcast.String() {
		t.Errorf("sent to %v, want %v", to, broadcast)
	}
}

func TestTwistedShutdownFromDatagramReceived(t *testing.T) {
	waiting := make(chan struct{})
	var handled int
	c := listenOn(t, "127.0.0.1", udp.HandlerFunc(func(c *udp.Conn, _ udp.Datagram) {
		<-waiting
		handled++
		c.Close()
	}))
	for range 3 {
		if _, err := c.WriteTo(make([]byte, 64), c.LocalAddr()); err != nil {
			t.Error(err)
		}
	}
	close(waiting)
	if err := c.Wait(); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if handled != 1 {
		t.Errorf("%d datagrams were handled, want 1: the handler closed the Conn", handled)
	}
}

// twistedGroup is the group that Twisted's tests join.
var twistedGroup = netip.MustParseAddr("225.0.0.250")

func TestTwistedTTL(t *testing.T) {
	for _, network := range []string{"udp4", "udp"} {
		server, client := multicastPair(t, network)
		for _, c := range []*udp.Conn{client, server} {
			if ttl, err := c.MulticastTTL(); err != nil || ttl != 1 {
				t.Errorf("%s: MulticastTTL = %d, %v; want 1", network, ttl, err)
			}
			if err := c.SetMulticastTTL(2); err != nil {
				t.Error(err)
			}
			if ttl, err := c.MulticastTTL(); err != nil || ttl != 2 {
				t.Errorf("%s: MulticastTTL = %d, %v; want 2", network, ttl, err)
			}
		}
	}
}

func TestTwistedLoopback(t *testing.T) {
	w := newWitness()
	c, lo := multicastOn(t, ":0", w)
	if on, err := c.MulticastLoopback(); err != nil || !on {
		t.Errorf("MulticastLoopback = %v, %v; want true", on, err)
	}
	if err := c.Join(udp.Group{Addr: twistedGroup, Interface: lo}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteTo([]byte("hello"), netip.AddrPortFrom(twistedGroup, c.LocalAddr().Port())); err != nil {
		t.Fatal(err)
	}
	if d := heard(t, w.datagrams); string(d.Payload) != "hello" {
		t.Errorf("got %q, want hello", d.Payload)
	}
	if err := c.SetMulticastLoopback(false); err != nil {
		t.Error(err)
	}
	if on, err := c.MulticastLoopback(); err != nil || on {
		t.Errorf("MulticastLoopback = %v, %v; want false", on, err)
	}
}

func TestTwistedInterface(t *testing.T) {
	lo := loopbackInterface(t)
	for _, network := range []string{"udp4", "udp"} {
		server, client := multicastPair(t, network)
		for _, c := range []*udp.Conn{client, server} {
			if ifi, err := c.MulticastInterface(); err != nil || ifi != nil {
				t.Errorf("%s: MulticastInterface = %v, %v; want the system's choice", network, ifi, err)
			}
			if err := c.SetMulticastInterface(lo); err != nil {
				t.Error(err)
			}
			if ifi, err := c.MulticastInterface(); err != nil || ifi == nil || ifi.Index != lo.Index {
				t.Errorf("%s: MulticastInterface = %v, %v; want %v", network, ifi, err, lo)
			}
		}
	}
}

func TestTwistedJoinLeave(t *testing.T) {
	server, client := multicastPair(t, "udp4")
	g := udp.Group{Addr: twistedGroup, Interface: loopbackInterface(t)}
	for _, c := range []*udp.Conn{client, server} {
		if err := c.Join(g); err != nil {
			t.Fatal(err)
		}
		if got := c.Groups(); len(got) != 1 || got[0].Addr != g.Addr {
			t.Errorf("Groups = %v, want %v", got, g)
		}
		if err := c.Leave(g); err != nil {
			t.Fatal(err)
		}
		if got := c.Groups(); len(got) != 0 {
			t.Errorf("Groups = %v, want none", got)
		}
	}
}

func TestTwistedJoinFailure(t *testing.T) {
	_, client := multicastPair(t, "udp4")
	g := udp.Group{Addr: netip.MustParseAddr("127.0.0.1"), Interface: loopbackInterface(t)}
	var op *net.OpError
	if err := client.Join(g); !errors.As(err, &op) {
		t.Errorf("Join(%v): %v, want a *net.OpError", g, err)
	}
	if got := client.Groups(); len(got) != 0 {
		t.Errorf("Groups = %v, want none", got)
	}
}

func TestTwistedMulticast(t *testing.T) {
	w := newWitness()
	server, lo := multicastOn(t, ":0", w)
	sender, _ := multicastOn(t, ":0", nil)
	if err := server.Join(udp.Group{Addr: twistedGroup, Interface: lo}); err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(twistedGroup, server.LocalAddr().Port())
	if _, err := sender.WriteTo([]byte("hello world"), to); err != nil {
		t.Fatal(err)
	}
	if d := heard(t, w.datagrams); string(d.Payload) != "hello world" || d.Local != twistedGroup {
		t.Errorf("got %q to %v, want hello world to %v", d.Payload, d.Local, twistedGroup)
	}
}

func TestTwistedMultiListen(t *testing.T) {
	first, second := newWitness(), newWitness()
	g := udp.Group{Addr: twistedGroup, Interface: loopbackInterface(t)}
	a, _ := multicastOn(t, ":0", first, g)
	multicastOn(t, ":"+portOf(a), second, g)
	if _, err := a.WriteTo([]byte("hello world"), netip.AddrPortFrom(g.Addr, a.LocalAddr().Port())); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*witness{first, second} {
		if d := heard(t, w.datagrams); string(d.Payload) != "hello world" {
			t.Errorf("got %q, want hello world", d.Payload)
		}
	}
}

func TestTwistedStartedListeningLogMessage(t *testing.T) {
	c, lines := listenLogged(t, nil)
	if line := heard(t, lines); !strings.Contains(line, c.LocalAddr().String()) {
		t.Errorf("log has %q, want the address %v", line, c.LocalAddr())
	}
}

func TestTwistedConnectionLostLogMessage(t *testing.T) {
	c, lines := listenLogged(t, nil)
	heard(t, lines)
	closeNow(t, c)
	if line := heard(t, lines); !strings.Contains(line, c.LocalAddr().String()) {
		t.Errorf("log has %q, want the address %v", line, c.LocalAddr())
	}
}

func TestTwistedLogPrefix(t *testing.T) {
	c, lines := listenLogged(t, nil, "protocol", "Custom Datagrams")
	closeNow(t, c)
	for range 2 {
		if line := heard(t, lines); !strings.Contains(line, `protocol="Custom Datagrams"`) {
			t.Errorf("log has %q, want the Logger's attribute", line)
		}
	}
}

// A closer closes its Conn in HandleStart.
type closer struct {
	*witness
	inStart  sync.Mutex // held while HandleStart runs
	nested   bool       // HandleStop was called from within it
	closeErr error
}

func (h *closer) HandleStart(c *udp.Conn) error {
	h.inStart.Lock()
	defer h.inStart.Unlock()
	h.closeErr = c.Close()
	return nil
}

func (h *closer) HandleStop(c *udp.Conn, err error) {
	if h.nested = !h.inStart.TryLock(); !h.nested {
		h.inStart.Unlock()
	}
	h.witness.HandleStop(c, err)
}

func TestTwistedStopProtocolScheduling(t *testing.T) {
	h := &closer{witness: newWitness()}
	c := listenOn(t, "127.0.0.1", h)
	if err := heard(t, h.stopped); err != nil || h.nested || h.closeErr != nil {
		t.Errorf("HandleStop got %v, within HandleStart: %v, Close: %v; want nil, false, nil", err, h.nested, h.closeErr)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("Wait: %v", err)
	}
}

func TestTwistedGetHost(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} { // test_getHost, test_getHostIPv6
		t.Run(host, func(t *testing.T) {
			skipWithout(t, host)
			chosen := listenOn(t, host, nil)
			want := chosen.LocalAddr()
			if want.Addr() != netip.MustParseAddr(host) || want.Port() == 0 {
				t.Errorf("LocalAddr = %v, want a port of %s", want, host)
			}
			closeNow(t, chosen)
			asked, err := udp.Listen(want.String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			closeAfter(t, asked)
			if got := asked.LocalAddr(); got != want {
				t.Errorf("LocalAddr = %v, want %v", got, want)
			}
		})
	}
}

func TestTwistedInvalidInterface(t *testing.T) {
	const address = "no such host:0" // the spaces spare a question to DNS
	c, err := udp.Listen(address, nil)
	if err == nil {
		c.Close()
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "listen" {
		t.Errorf("Listen(%q): %v, want a *net.OpError of listen", address, err)
	}
}

func TestTwistedStr(t *testing.T) { // and test_repr
	c := listenOn(t, "127.0.0.1", nil)
	if s := c.String(); !strings.Contains(s, portOf(c)) {
		t.Errorf("String = %q, want port %s in it", s, portOf(c))
	}
	if s := fmt.Sprint(c); s != c.String() {
		t.Errorf("Sprint = %q, want %q", s, c.String())
	}
}

func TestTwistedWriteToIPv6Interface(t *testing.T) {
	skipWithout(t, "::1")
	w := newWitness()
	server, client := listenOn(t, "::1", w), listenOn(t, "::1", nil)
	if _, err := client.WriteTo([]byte("spam"), server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	w.wantDatagram(t, "spam", client.LocalAddr())
}

func TestTwistedConnectedWriteToIPv6Interface(t *testing.T) {
	skipWithout(t, "::1")
	w := newWitness()
	server, client := listenOn(t, "::1", w), listenOn(t, "::1", nil)
	if err := client.Connect(server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("spam")); err != nil {
		t.Fatal(err)
	}
	w.wantDatagram(t, "spam", client.LocalAddr())
}

func TestTwistedWritingToHostnameRaises(t *testing.T) {
	c := listenOn(t, "127.0.0.1", nil)
	wantRefusedWrite(t, c, netip.AddrPort{}) // a name cannot be given: the type has no room for one
}

func TestTwistedWritingToIPv6OnIPv4Raises(t *testing.T) {
	c := listenOn(t, "127.0.0.1", nil)
	wantRefusedWrite(t, c, netip.MustParseAddrPort("[::1]:1"))
}

func TestTwistedWritingToIPv4OnIPv6Raises(t *testing.T) {
	skipWithout(t, "::1")
	c := listenOn(t, "::1", nil)
	wantRefusedWrite(t, c, netip.MustParseAddrPort("127.0.0.1:1"))
}

func TestTwistedAllowBroadcast(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the loopback interface has a broadcast address on Linux only: run it there")
	}
	w := newWitness()
	lc := udp.ListenConfig{Network: "udp4", Broadcast: true}
	c, err := lc.Listen(t.Context(), ":0", w)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, c)
	broadcast := netip.AddrPortFrom(netip.MustParseAddr("127.255.255.255"), c.LocalAddr().Port())
	if _, err := c.WriteTo([]byte("hello"), broadcast); err != nil {
		t.Fatal(err) // EACCES where it is not allowed
	}
	want := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if d := heard(t, w.datagrams); string(d.Payload) != "hello" || d.Local != want {
		t.Errorf("got %q to %v, want hello to %v", d.Payload, d.Local, want)
	}
}

func TestTwistedSocketReadNormal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWitness()
		pc := newScripted("result", "123", time.Second, "456")
		c, err := udp.NewConn(pc, w)
		if err != nil {
			t.Fatal(err)
		}
		closeAfter(t, c)
		for _, s := range []string{"result", "123", "456"} {
			w.wantDatagram(t, s, scriptedPeer)
		}
		if n := c.Stats().ReadErrors; n != 0 {
			t.Errorf("Stats.ReadErrors = %d, want 0", n)
		}
	})
}

func TestTwistedReadImmediateError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWitness()
		pc := newScripted("a", syscall.ECONNREFUSED, "b")
		start := time.Now()
		c, err := udp.NewConn(pc, w)
		if err != nil {
			t.Fatal(err)
		}
		closeAfter(t, c)
		w.wantDatagram(t, "a", scriptedPeer)
		w.wantDatagram(t, "b", scriptedPeer)
		if d := time.Since(start); d != 0 {
			t.Errorf("reading stopped for %v after a refusal", d)
		}
		if s := c.Stats(); s.Undelivered != 1 || s.ReadErrors != 0 {
			t.Errorf("Stats = %+v, want 1 Undelivered, no ReadErrors", s)
		}
	})
}

func TestTwistedConnectedReadImmediateError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWitness()
		pc := newScripted("a", syscall.ECONNREFUSED, "b")
		c, err := udp.NewConn(pc, connectedTo{w, scriptedPeer})
		if err != nil {
			t.Fatal(err)
		}
		closeAfter(t, c)
		w.wantDatagram(t, "a", scriptedPeer)
		w.wantDatagram(t, "b", scriptedPeer)
		u := heard(t, w.undelivered)
		if u.Addr != scriptedPeer || u.Err != syscall.ECONNREFUSED {
			t.Errorf("HandleUndelivered got %+v, want %v, %v", u, scriptedPeer, syscall.ECONNREFUSED)
		}
		closeNow(t, c)
		if n := len(w.undelivered); n != 0 {
			t.Errorf("HandleUndelivered was called %d times more than once", n)
		}
	})
}

// Twisted raises an error that it does not know, and stops reading. Here no
// error ends the reading, and none makes it spin.
func TestTwistedReadUnknownError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const unknown = syscall.Errno(1337)
		script := []any{"good"}
		for range 10 {
			script = append(script, unknown)
		}
		w := newWitness()
		pc := newScripted(append(script, "again")...)
		c, err := udp.NewConn(pc, w)
		if err != nil {
			t.Fatal(err)
		}
		closeAfter(t, c)
		w.wantDatagram(t, "good", scriptedPeer)
		w.wantDatagram(t, "again", scriptedPeer)
		if n := c.Stats().ReadErrors; n != 10 {
			t.Errorf("Stats.ReadErrors = %d, want 10", n)
		}
		closeNow(t, c)
		var pauses []time.Duration
		for i := 2; i < 12; i++ { // reads[1] is the first that failed
			pauses = append(pauses, pc.reads[i].Sub(pc.reads[i-1]))
		}
		const ms = time.Millisecond
		want := []time.Duration{5 * ms, 10 * ms, 20 * ms, 40 * ms, 80 * ms, 160 * ms, 320 * ms, 640 * ms, 1000 * ms, 1000 * ms}
		if !slices.Equal(pauses, want) {
			t.Errorf("pauses are %v, want %v", pauses, want)
		}
	})
}

func TestTwistedAdoptInvalidDescriptor(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc.Close()
	c, err := udp.NewConn(pc, nil)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("NewConn of a closed socket: %v, want %v", err, net.ErrClosed)
	}
	if _, err := udp.NewConn(nil, nil); err == nil {
		t.Error("NewConn(nil): no error")
	}
}

func TestTwistedAdoptInvalidAddressFamily(t *testing.T) {
	pc, err := net.ListenPacket("unixgram", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Skipf("%v: run it on a Unix system", err)
	}
	defer pc.Close()
	if c, err := udp.NewConn(pc, nil); err == nil {
		c.Close()
		t.Error("NewConn of a socket that is not UDP: no error")
	}
}

func TestTwistedAdoptStopOnlyCloses(t *testing.T) {
	theirs, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	f, err := theirs.File()
	if err != nil {
		t.Skipf("%v: run it on a Unix system", err)
	}
	pc, err := net.FilePacketConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	c, err := udp.NewConn(pc, nil)
	if err != nil {
		t.Fatal(err)
	}
	closeNow(t, c)

	sender := listenOn(t, "127.0.0.1", nil)
	if _, err := sender.WriteTo([]byte("hello"), c.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	theirs.SetReadDeadline(time.Now().Add(failSafe))
	b := make([]byte, 8)
	if n, err := theirs.Read(b); string(b[:n]) != "hello" {
		t.Errorf("the other descriptor read %q, %v; want hello", b[:n], err)
	}
}

// deadAddr returns an address where nobody listens.
func deadAddr(t *testing.T) netip.AddrPort {
	t.Helper()
	c := listenOn(t, "127.0.0.1", nil)
	closeNow(t, c)
	return c.LocalAddr()
}

// multicastOn listens for IPv4, as Twisted does, and sends by the loopback
// interface.
func multicastOn(t *testing.T, address string, h udp.Handler, groups ...udp.Group) (*udp.Conn, *net.Interface) {
	t.Helper()
	lo := loopbackInterface(t)
	lc := udp.ListenConfig{Network: "udp4"}
	c, err := lc.ListenMulticast(t.Context(), address, h, groups...)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, c)
	if err := c.SetMulticastInterface(lo); err != nil {
		t.Fatal(err)
	}
	return c, lo
}

// multicastPair returns what Twisted's tests of multicast start from: a
// client that is connected to a server.
func multicastPair(t *testing.T, network string) (server, client *udp.Conn) {
	t.Helper()
	lc := udp.ListenConfig{Network: network}
	for _, c := range []**udp.Conn{&server, &client} {
		var err error
		if *c, err = lc.ListenMulticast(t.Context(), ":0", nil); err != nil {
			t.Fatal(err)
		}
		closeAfter(t, *c)
	}
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), server.LocalAddr().Port())
	if err := client.Connect(to); err != nil {
		t.Fatal(err)
	}
	return server, client
}

// listenLogged listens with a Logger whose lines it returns.
func listenLogged(t *testing.T, h udp.Handler, attrs ...any) (*udp.Conn, <-chan string) {
	t.Helper()
	lines := make(lineWriter, 16)
	logger := slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	lc := udp.ListenConfig{Logger: logger.With(attrs...)}
	c, err := lc.Listen(context.Background(), "127.0.0.1:0", h)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, c)
	return c, lines
}

type lineWriter chan string

func (w lineWriter) Write(line []byte) (int, error) {
	w <- string(line)
	return len(line), nil
}

// wantRefusedWrite checks that a write fails before it reaches the system.
func wantRefusedWrite(t *testing.T, c *udp.Conn, to netip.AddrPort) {
	t.Helper()
	n, err := c.WriteTo([]byte("spam"), to)
	var op *net.OpError
	if n != 0 || !errors.As(err, &op) || op.Op != "write" {
		t.Errorf("WriteTo(%v) = %d, %v; want 0 and a *net.OpError of write", to, n, err)
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		t.Errorf("WriteTo(%v): the system was asked, and says %v", to, errno)
	}
}

// connectedTo connects its Conn before anything is read.
type connectedTo struct {
	*witness
	peer netip.AddrPort
}

func (h connectedTo) HandleStart(c *udp.Conn) error { return c.Connect(h.peer) }

// scriptedPeer is where a scripted's datagrams come from.
var scriptedPeer = netip.MustParseAddrPort("127.0.0.1:9999")

// A scripted is a socket whose reads return what a script says, and block
// when that has ended: a string is a datagram, an error is returned, a
// duration passes before the next.
type scripted struct {
	net.PacketConn // for the methods that nobody calls

	script  []any
	reads   []time.Time // when each read began
	written chan net.Addr
	closed  chan struct{}
	close   func()
}

func newScripted(script ...any) *scripted {
	closed := make(chan struct{})
	return &scripted{
		script:  script,
		written: make(chan net.Addr, 1),
		closed:  closed,
		close:   sync.OnceFunc(func() { close(closed) }),
	}
}

func (s *scripted) ReadFrom(b []byte) (int, net.Addr, error) {
	s.reads = append(s.reads, time.Now())
	for len(s.script) > 0 {
		next := s.script[0]
		s.script = s.script[1:]
		switch next := next.(type) {
		case string:
			return copy(b, next), net.UDPAddrFromAddrPort(scriptedPeer), nil
		case error:
			return 0, nil, &net.OpError{Op: "read", Net: "udp", Err: os.NewSyscallError("recvfrom", next)}
		case time.Duration:
			time.Sleep(next)
		}
	}
	<-s.closed
	return 0, nil, &net.OpError{Op: "read", Net: "udp", Err: net.ErrClosed}
}

func (s *scripted) WriteTo(b []byte, to net.Addr) (int, error) {
	s.written <- to
	return len(b), nil
}

func (s *scripted) LocalAddr() net.Addr {
	return net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:1234"))
}

func (s *scripted) SetDeadline(time.Time) error      { return nil }
func (s *scripted) SetReadDeadline(time.Time) error  { return nil }
func (s *scripted) SetWriteDeadline(time.Time) error { return nil }

func (s *scripted) Close() error {
	s.close()
	return nil
}
