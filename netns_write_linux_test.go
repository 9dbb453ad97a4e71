package udp_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/udp"
	"golang.org/x/sys/unix"
)

// TestForeignSource sends from addresses that the host does not have, in each
// way there is; and what fails for another reason says that one.
func TestForeignSource(t *testing.T) {
	hs := hosts(t, "a", "b")
	a, b := hs[0], hs[1]
	join(a, "eth0", []string{"10.1.0.1/24", "fd01::1/64"}, b, "eth1", []string{"10.1.0.2/24", "fd01::2/64"})
	a.ip("link set lo up", "route add unreachable 10.9.0.0/24", "route add unreachable fd09::/64")
	eth0 := a.index("eth0")
	for _, test := range []struct {
		to, local string
		index     int
		errno     syscall.Errno
	}{
		{"10.1.0.2:9", "192.0.2.77", 0, unix.EADDRNOTAVAIL},
		{"10.1.0.2:9", "192.0.2.77", eth0, unix.EADDRNOTAVAIL},
		{"10.1.0.2:9", "10.1.0.2", 0, unix.EADDRNOTAVAIL},
		{"[fd01::2]:9", "2001:db8::77", 0, unix.EADDRNOTAVAIL},
		{"[fd01::2]:9", "2001:db8::77", eth0, unix.EADDRNOTAVAIL},
		{"[fd01::2]:9", "fd01::2", 0, unix.EADDRNOTAVAIL},
		{"[fe80::9%eth0]:9", "fe80::77%eth0", eth0, unix.EADDRNOTAVAIL},
		{"239.1.2.3:9", "192.0.2.77", eth0, unix.EADDRNOTAVAIL},
		{"203.0.113.1:9", "10.1.0.1", 0, unix.ENETUNREACH},
		{"203.0.113.1:9", "192.0.2.77", 0, unix.EADDRNOTAVAIL},
		{"10.9.0.1:9", "10.1.0.1", 0, unix.EHOSTUNREACH},
		{"[2001:db8::9]:9", "fd01::1", 0, unix.ENETUNREACH},
		{"[fd09::9]:9", "fd01::1", 0, unix.EHOSTUNREACH},
	} {
		d := udp.Datagram{Addr: netip.MustParseAddrPort(test.to), Local: netip.MustParseAddr(test.local), Interface: test.index, Payload: []byte("x")}
		logged := new(logBuffer)
		c := a.listen(udp.ListenConfig{Logger: slog.New(slog.NewTextHandler(logged, nil))}, ":0", nil)
		ways := map[string]func() error{
			"Reply": func() error { return second(c.Reply(d, d.Payload)) },
			"Queue": func() error { return c.Queue(d) },
			"WriteBatch": func() error {
				n, err := c.WriteBatch(slices.Repeat([]udp.Datagram{d}, 3))
				if n != 0 {
					return fmt.Errorf("%d are sent", n)
				}
				return err
			},
			"WriteBatch beside others": func() error {
				good := udp.Datagram{Addr: netip.MustParseAddrPort("10.1.0.2:9"), Payload: []byte("good")}
				n, err := c.WriteBatch([]udp.Datagram{good, d, good})
				if n != 2 {
					return fmt.Errorf("%d are sent: %v", n, err)
				}
				return err
			},
		}
		for way, send := range ways {
			err := send()
			if !errors.Is(err, test.errno) {
				t.Errorf("%s to %s from %s by %d: %v, want %v", way, test.to, test.local, test.index, err, test.errno)
			}
			if test.errno != unix.EADDRNOTAVAIL && errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Errorf("%s to %s: %v, but the source is an own address", way, test.to, err)
			}
		}
		posted := make(chan error, 1)
		check(t, c.Post(func() { posted <- c.Queue(d) }))
		check(t, wait(t, posted))
		eventually(t, "the Logger is told", func() bool { return strings.Contains(logged.String(), "queued datagrams not sent") })
		if s := c.Stats(); s.WriteErrors != 7 {
			t.Errorf("%+v, want 7 that could not be sent", s)
		}
		shutdown(t, c)
	}
}

// TestTentativeSource sends by an interface whose address is still being
// checked for others that have it (RFC 4862, section 5.4): the error says which
// interface that is.
func TestTentativeSource(t *testing.T) {
	hs := hosts(t, "a", "b")
	a, b := hs[0], hs[1]
	join(a, "eth0", []string{"10.1.0.1/24"}, b, "eth1", []string{"10.1.0.2/24"})
	a.run("sh", "-c", "cd /proc/sys/net/ipv6/conf; echo 1 >eth0/accept_dad; echo 1 >all/accept_dad; echo 200 >eth0/dad_transmits")
	a.ip("address add fd01::1/64 dev eth0")
	c := a.listen(udp.ListenConfig{}, ":0", nil)
	d := udp.Datagram{Addr: netip.MustParseAddrPort("[fd01::2]:9"), Local: netip.MustParseAddr("fd01::1"), Interface: a.index("eth0"), Payload: []byte("x")}
	_, err := c.Reply(d, d.Payload)
	if !errors.Is(err, syscall.EADDRNOTAVAIL) || !strings.Contains(err.Error(), "eth0") {
		t.Errorf("the error is %v", err)
	}
}

// TestFirewallOfFlow has a firewall refuse the first datagram of each flow: that
// one is lost, and says so, and those that follow are sent.
func TestFirewallOfFlow(t *testing.T) {
	needPrograms(t, "nftables", "nft")
	hs := hosts(t, "a")
	a := hs[0]
	a.ip("link set lo up")
	a.nft("add table inet t; add set inet t known { type inet_service; flags dynamic; }; add chain inet t out { type filter hook output priority 0; }; " +
		"add rule inet t out udp dport @known accept; add rule inet t out meta l4proto udp add @known { udp dport } drop")
	c := a.listen(udp.ListenConfig{}, "127.0.0.1:0", nil)
	p := a.bare("127.0.0.1:0")
	d := udp.Datagram{Addr: p.addr, Payload: []byte("hello")}
	ds := []udp.Datagram{d, d, d}
	for i := range ds {
		ds[i].Payload = slices.Repeat(ds[i].Payload, i+1) // each a message of its own
	}
	n, err := c.WriteBatch(ds)
	s := c.Stats()
	if n != 2 && n != 3 || n == 2 && !errors.Is(err, syscall.EPERM) || s.WriteErrors != uint64(3-n) {
		t.Errorf("WriteBatch: %d, %v; %+v", n, err, s)
	}
	for range 10 {
		n, err := c.WriteBatch(ds)
		if n != 3 || err != nil {
			t.Fatalf("WriteBatch: %d, %v", n, err)
		}
	}
	if s := c.Stats(); s.Undelivered != 0 {
		t.Errorf("%+v", s)
	}
}

// TestNoBuffersAtStop has HandleStop say goodbye by an interface whose queue is
// full when the Conn is shut down: it waits for room as long as at any other time.
func TestNoBuffersAtStop(t *testing.T) {
	needPrograms(t, "iproute2", "tc")
	hs := hosts(t, "a", "b")
	a, b := hs[0], hs[1]
	join(a, "eth0", []string{"10.1.0.1/24"}, b, "eth1", []string{"10.1.0.2/24"})
	a.run("tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", "8kbit", "burst", "3000", "limit", "3000")
	took := make(chan time.Duration, 1)
	fill := make([]byte, 1000)
	to := netip.MustParseAddrPort("10.1.0.2:9")
	c := a.listen(udp.ListenConfig{}, ":0", funcs{stop: func(c *udp.Conn, err error) {
		for range 20 {
			start := time.Now()
			if _, err := c.WriteTo(fill, to); errors.Is(err, syscall.ENOBUFS) {
				took <- time.Since(start)
				return
			}
		}
		close(took)
	}})
	shutdown(t, c)
	if d := wait(t, took); d < 7*time.Millisecond {
		t.Errorf("it is tried for %v", d)
	}
}
