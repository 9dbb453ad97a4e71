package udp_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// TestErrorAddresses looks at the addresses in errors.
func TestErrorAddresses(t *testing.T) {
	n := setup{bind: "127.0.0.1:0", host: loopback4}
	c := n.listen(t, nil)
	a, b := n.peer(t).addr, n.peer(t).addr

	_, err := c.WriteTo(make([]byte, 65536), a)
	op := checkOpError(t, err)
	if op.Source == nil || addrPort(op.Source) != c.LocalAddr() || op.Addr == nil || addrPort(op.Addr) != a {
		t.Errorf("%v: the addresses are %v and %v, want %v and %v", err, op.Source, op.Addr, c.LocalAddr(), a)
	}
	_, err = c.WriteBatch(append(batch(a, "ok"), batch(b, text(65536))...))
	if op := checkOpError(t, err); op.Addr == nil || addrPort(op.Addr) != b {
		t.Errorf("%v: the address is %v, want %v", err, op.Addr, b)
	}
	check(t, c.Connect(a))
	_, err = c.WriteTo([]byte("x"), b)
	if op := checkOpError(t, err); op.Addr == nil || addrPort(op.Addr) != b {
		t.Errorf("%v: the address is %v, want %v", err, op.Addr, b)
	}
	_, err = c.Write(make([]byte, 65536))
	if op := checkOpError(t, err); op.Addr == nil || addrPort(op.Addr) != a {
		t.Errorf("%v: the address is %v, want %v", err, op.Addr, a)
	}
	_, err = udp.Listen(c.LocalAddr().String(), nil)
	if op := checkOpError(t, err); !strings.Contains(op.Error(), c.LocalAddr().String()) {
		t.Errorf("%v: it does not name %v", err, c.LocalAddr())
	}
}

// TestListenBadInput gives Listen what cannot be listened on.
func TestListenBadInput(t *testing.T) {
	useResolver(t, map[string][]string{"six.test.": {"::1"}})
	for _, test := range []struct {
		name, address string
		lc            udp.ListenConfig
	}{
		{name: "empty", address: ""},
		{name: "no port", address: "127.0.0.1"},
		{name: "port too high", address: "127.0.0.1:70000"},
		{name: "port below zero", address: "127.0.0.1:-1"},
		{name: "bracket", address: "[::1:0"},
		{name: "name", address: "name.invalid:0"},
		{name: "name of the other family", address: "six.test:0", lc: udp.ListenConfig{Network: "udp4"}},
		{name: "not of this host", address: "192.0.2.77:0"},
		{name: "udp4", address: "[::1]:0", lc: udp.ListenConfig{Network: "udp4"}},
		{name: "udp6", address: "127.0.0.1:0", lc: udp.ListenConfig{Network: "udp6"}},
		{name: "network", address: "127.0.0.1:0", lc: udp.ListenConfig{Network: "tcp"}},
		{name: "MaxDatagram", address: "127.0.0.1:0", lc: udp.ListenConfig{MaxDatagram: -1}},
		{name: "ReadBuffer", address: "127.0.0.1:0", lc: udp.ListenConfig{ReadBuffer: -1}},
		{name: "WriteBuffer", address: "127.0.0.1:0", lc: udp.ListenConfig{WriteBuffer: -1}},
	} {
		c, err := test.lc.Listen(t.Context(), test.address, startMustNotRun(t))
		if c != nil || err == nil {
			t.Errorf("%s: %v, %v", test.name, c, err)
			continue
		}
		checkOpError(t, err)
	}
}

// TestBadInput gives a Conn what makes no sense: an error, and nothing else.
func TestBadInput(t *testing.T) {
	n := setup{bind: "127.0.0.1:0", host: loopback4, ifi: loopback()}
	r := record()
	c := n.listen(t, r)
	p := n.peer(t)
	zero, six := netip.AddrPort{}, netip.AddrPortFrom(loopback6, 9)
	group6 := udp.Group{Addr: netip.MustParseAddr("ff02::1"), Interface: n.ifi}
	payload := []byte("x")
	state := func() string {
		ttl, _ := c.MulticastTTL()
		var groups []string
		for _, g := range c.Groups() {
			groups = append(groups, g.String())
		}
		return strings.Join(append(groups, c.String(), string(rune('0'+ttl))), " ")
	}
	check(t, c.Join(n.any(1)))

	for _, connected := range []bool{false, true} {
		if connected {
			check(t, c.Connect(p.addr))
		}
		before, written := state(), c.Stats().WriteDatagrams
		for _, test := range []struct {
			name string
			call func() error
		}{
			{"WriteTo zero", func() error { return second(c.WriteTo(payload, zero)) }},
			{"WriteTo no port", func() error { return second(c.WriteTo(payload, netip.AddrPortFrom(loopback4, 0))) }},
			{"WriteTo IPv6", func() error { return second(c.WriteTo(payload, six)) }},
			{"Reply zero", func() error { return second(c.Reply(udp.Datagram{}, payload)) }},
			{"Reply IPv6", func() error { return second(c.Reply(udp.Datagram{Addr: six}, payload)) }},
			{"Reply from IPv6", func() error {
				return second(c.Reply(udp.Datagram{Addr: p.addr, Local: loopback6}, payload))
			}},
			{"WriteBatch IPv6", func() error { return second(c.WriteBatch(batch(six, "x"))) }},
			{"Connect zero", func() error { return c.Connect(zero) }},
			{"Connect no port", func() error { return c.Connect(netip.AddrPortFrom(loopback4, 0)) }},
			{"Connect IPv6", func() error { return c.Connect(six) }},
			{"Join zero", func() error { return c.Join(udp.Group{}) }},
			{"Join IPv6", func() error { return c.Join(group6) }},
			{"JoinAll zero", func() error { return c.JoinAll(netip.Addr{}) }},
			{"JoinAll IPv6", func() error { return c.JoinAll(group6.Addr) }},
			{"Leave zero", func() error { return c.Leave(udp.Group{}) }},
			{"Leave IPv6", func() error { return c.Leave(group6) }},
			{"Block zero", func() error { return c.Block(udp.Group{}) }},
			{"Unblock zero", func() error { return c.Unblock(udp.Group{}) }},
			{"SetMulticastTTL 300", func() error { return c.SetMulticastTTL(300) }},
			{"SetMulticastTTL -1", func() error { return c.SetMulticastTTL(-1) }},
			{"SetMulticastInterface", func() error {
				return c.SetMulticastInterface(&net.Interface{Index: 99999, Name: "none"})
			}},
		} {
			if err := test.call(); err == nil {
				t.Errorf("%s: no error", test.name)
			} else {
				checkOpError(t, err)
			}
			if after := state(); after != before {
				t.Fatalf("%s: it was %s, is %s", test.name, before, after)
			}
		}
		if got := c.Stats().WriteDatagrams; got != written {
			t.Errorf("%d datagrams are written", got-written)
		}
		check(t, second(c.WriteTo([]byte("hello"), p.addr)))
		p.expect(t, "hello", n.reach(c))
		p.send(t, n.reach(c), "answer")
		r.expect(t, "answer", p.addr)
	}
}

// TestReadErrors reads from a socket that fails, again and again: with the
// pauses that are promised, and a line in the log for each.
func TestReadErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := errors.New("the network is on fire")
		start := time.Now()
		var tries []time.Duration
		results := make(chan error)
		pc := newFakeSocket()
		pc.read = func(b []byte) (int, net.Addr, error) {
			tries = append(tries, time.Since(start))
			select {
			case err := <-results:
				if err != nil {
					return 0, nil, err
				}
				return copy(b, "hello"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:9")), nil
			case <-pc.closed:
				return 0, nil, net.ErrClosed
			}
		}
		var log logBuffer
		lc := udp.ListenConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))}
		r := record()
		c, err := lc.NewConn(pc, r)
		check(t, err)

		var want []time.Duration
		at := time.Duration(0)
		for _, pause := range []time.Duration{0, 5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000} {
			at += pause * time.Millisecond
			want = append(want, at)
		}
		for i := range len(want) - 1 {
			results <- []error{fail, io.EOF, os.ErrDeadlineExceeded}[i%3]
		}
		results <- nil
		if d := wait(t, r.datagrams); string(d.Payload) != "hello" || d.Addr.String() != "192.0.2.1:9" {
			t.Errorf("then it gets %+v", d)
		}
		synctest.Wait()
		if !slices.Equal(tries[:len(want)], want) {
			t.Errorf("it tries after %v, want %v", tries, want)
		}
		if s := c.Stats(); s.ReadErrors != 10 || s.ReadDatagrams != 1 {
			t.Errorf("%+v", s)
		}
		if got := strings.Count(log.String(), fail.Error()); got != 4 {
			t.Errorf("%d of 4 lines name the cause: %s", got, log.String())
		}

		// After a success the pauses begin anew, and Close ends one at once.
		results <- fail
		results <- fail
		synctest.Wait()
		if n := len(tries); tries[n-1]-tries[n-2] != 5*time.Millisecond {
			t.Errorf("after a success, the next pause is %v", tries[n-1]-tries[n-2])
		}
		before := time.Now()
		check(t, c.Close())
		check(t, c.Wait())
		check(t, wait(t, r.stopped))
		if pause := time.Since(before); pause != 0 {
			t.Errorf("Close takes %v", pause)
		}
	})
}

// TestShutdownInBackoff shuts down in the middle of a pause, on a socket that
// always fails.
func TestShutdownInBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		pc := newFakeSocket()
		pc.read = func([]byte) (int, net.Addr, error) {
			tries++
			if tries > 1000 {
				return 0, nil, net.ErrClosed // It spins: enough of that.
			}
			return 0, nil, errors.New("always")
		}
		r := record()
		c, err := udp.NewConn(pc, r)
		check(t, err)
		time.Sleep(10 * time.Second) // On the clock of synctest: no time passes.
		start := time.Now()
		shutdown(t, c)
		check(t, wait(t, r.stopped))
		if took := time.Since(start); took > time.Second {
			t.Errorf("Shutdown takes %v", took)
		}
		if tries > 100 {
			t.Errorf("it reads %d times", tries)
		}
	})
}

// TestDeadlineOfAnother has somebody set a deadline on the socket that a Conn
// has taken over: the Conn lives on.
func TestDeadlineOfAnother(t *testing.T) {
	n := setup{host: loopback4}
	pc := n.peer(t)
	r := record()
	c, err := udp.NewConn(pc.PacketConn, r)
	check(t, err)
	closeAtEnd(t, c)
	check(t, pc.SetReadDeadline(time.Unix(1, 0)))
	eventually(t, "the error is counted", func() bool { return c.Stats().ReadErrors > 0 })
	check(t, pc.SetReadDeadline(time.Time{}))
	p := n.peer(t)
	p.send(t, pc.addr, "hello")
	r.expect(t, "hello", p.addr)
}

// TestErrno keeps the causes that the documentation names.
func TestErrno(t *testing.T) {
	n := setup{bind: "127.0.0.1:0", host: loopback4}
	c, closed := n.listen(t, nil), n.listen(t, nil)
	closed.Close()
	connected := n.dial(t, n.peer(t).addr, nil)
	_, inUse := udp.Listen(c.LocalAddr().String(), nil)
	for _, test := range []struct{ err, want error }{
		{inUse, syscall.EADDRINUSE},
		{second(c.WriteTo(make([]byte, 65508), c.LocalAddr())), syscall.EMSGSIZE},
		{second(connected.Write(make([]byte, 65508))), syscall.EMSGSIZE},
		{second(connected.WriteTo([]byte("x"), c.LocalAddr())), net.ErrWriteToConnected},
		{second(closed.WriteTo([]byte("x"), c.LocalAddr())), net.ErrClosed},
		{second(udp.Listen("192.0.2.77:0", nil)), syscall.EADDRNOTAVAIL},
	} {
		if !errors.Is(test.err, test.want) {
			t.Errorf("%v is not %v", test.err, test.want)
		}
		checkOpError(t, test.err)
	}
}
