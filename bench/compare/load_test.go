//go:build linux

package main

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"
)

// answer starts a server that sends back what f makes of each datagram.
func answer(t *testing.T, f func(b []byte) []byte) int {
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 65535)
		for {
			n, addr, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if r := f(b[:n]); r != nil {
				c.WriteToUDPAddrPort(r, addr)
			}
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c.LocalAddr().(*net.UDPAddr).Port
}

func TestEchoLoad(t *testing.T) {
	port := answer(t, func(b []byte) []byte { return b })
	for _, how := range []load{{flows: 4, window: 8}, {flows: 4, window: 8, offload: true}, {flows: 4, window: 8, mixed: true}} {
		l, err := newEchoLoad(port, how)
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		var n uint64
		for start := time.Now(); n < 32 && err == nil && time.Since(start) < 20*time.Second; {
			var more uint64
			more, err = l.run(50 * time.Millisecond)
			n += more
		}
		if err != nil || n < 32 {
			t.Errorf("%+v: %d echoes, error %v", how, n, err)
		}
	}
}

// TestEchoLoadMixes looks at the order in which the datagrams of four flows come.
func TestEchoLoadMixes(t *testing.T) {
	var serials []uint64
	done := make(chan struct{})
	port := answer(t, func(b []byte) []byte {
		if serials = append(serials, binary.NativeEndian.Uint64(b)); len(serials) == 32 {
			close(done)
		}
		return nil
	})
	l, err := newEchoLoad(port, load{flows: 4, window: 8, mixed: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	l.now = time.Now()
	l.sweep()
	<-done
	for i, serial := range serials {
		if flow := serial / 8 % 4; int(flow) != i%4 {
			t.Errorf("datagram %d is of flow %d", i, flow)
		}
	}
}

func TestEchoLoadSurvivesLoss(t *testing.T) {
	i := 0
	port := answer(t, func(b []byte) []byte {
		if i++; i%3 == 0 {
			return nil
		}
		return b
	})
	l, err := newEchoLoad(port, load{flows: 2, window: 8})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	n, err := l.run(3 * stale)
	if err != nil || n < 16 || l.lost == 0 {
		t.Errorf("%d echoes, %d lost, error %v", n, l.lost, err)
	}
}

func TestLoadsFindWrongEchoes(t *testing.T) {
	for name, f := range map[string]func(b []byte) []byte{
		"changed": func(b []byte) []byte { b[63]++; return b },
		"cut":     func(b []byte) []byte { return b[:63] },
		"long":    func(b []byte) []byte { return append(b, 0) },
		"empty":   func(b []byte) []byte { return b[:0] },
		"merged":  func(b []byte) []byte { return append(b, b...) },
	} {
		port := answer(t, f)
		l, err := newEchoLoad(port, load{flows: 4, window: 8, offload: true})
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		if n, err := l.run(time.Second); err == nil {
			t.Errorf("%s: %d echoes and no error", name, n)
		}
	}
}

func TestLoadFindsAnotherFlowsEcho(t *testing.T) {
	var last []byte
	port := answer(t, func(b []byte) []byte {
		r := last
		last = append([]byte(nil), b...)
		return r
	})
	l, err := newEchoLoad(port, load{flows: 4, window: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if n, err := l.run(time.Second); err == nil {
		t.Errorf("%d echoes and no error", n)
	}
}

func TestPingPong(t *testing.T) {
	for name, tt := range map[string]struct {
		f    func(b []byte) []byte
		fail bool
	}{
		"echo":    {func(b []byte) []byte { return b }, false},
		"silent":  {func([]byte) []byte { return nil }, true},
		"changed": {func(b []byte) []byte { b[9]++; return b }, true},
		"cut":     {func(b []byte) []byte { return b[:8] }, true},
	} {
		fd, err := dial(answer(t, tt.f), 0)
		if err != nil {
			t.Fatal(err)
		}
		times, err := pingPong(fd, 20*time.Millisecond)
		if (err != nil) != tt.fail || !tt.fail && len(times) == 0 {
			t.Errorf("%s: %d round trips, error %v", name, len(times), err)
		}
	}
}

func TestSinkFindsWrongDatagrams(t *testing.T) {
	for name, tt := range map[string]struct {
		send []byte
		ok   bool
	}{
		"right": {payloads()[3], true},
		"cut":   {payloads()[3][1:], false},
		"mixed": {append(payloads()[3][1:], 4), false},
	} {
		s, err := newSink()
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, uint16(s.port))))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := s.verify(); err == nil {
			t.Error("nothing was sent, and that is right")
		}
		if _, err := c.Write(tt.send); err != nil {
			t.Fatal(err)
		}
		if err := s.verify(); (err == nil) != tt.ok {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
