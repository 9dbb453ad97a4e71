package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// network is a bad one: of all that is sent it loses 40 %, half of the rest
// arrives twice, and all of it overtakes itself.
func network() *udp.MemNet {
	return &udp.MemNet{
		Link:  udp.Link{Latency: 20 * time.Millisecond, Jitter: 80 * time.Millisecond, Loss: 0.4, Duplicate: 0.5, Seed: 1},
		Names: map[string][]netip.Addr{"store": {netip.MustParseAddr("10.0.0.1")}},
	}
}

// start opens the server on a host of its own for the length of the test.
func start(t *testing.T, mem *udp.MemNet) {
	lc := &udp.ListenConfig{PacketListener: mem.Host(mem.Names["store"]...)}
	server, err := lc.Listen(t.Context(), ":7", newStore())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Close()
		server.Wait()
	})
}

// open opens a client on a host of its own for the length of the test.
func open(t *testing.T, mem *udp.MemNet, number int) *client {
	host := mem.Host(netip.AddrFrom4([4]byte{10, 0, 1, byte(number)}))
	c, err := dial(t.Context(), &udp.ListenConfig{PacketListener: host}, "store:7")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.conn.Close()
		c.conn.Wait()
	})
	return c
}

// expect fails unless the server answers command by want.
func (c *client) expect(t *testing.T, command, want string) {
	t.Helper()
	if got, err := c.do(t.Context(), command); got != want || err != nil {
		t.Errorf("%s: %q, %v; want %q", command, got, err, want)
	}
}

// TestCount has eleven clients count to the same number together: none of what
// they add is lost, or added twice. It takes minutes of the bubble's clock, and
// the same number of them on every run.
func TestCount(t *testing.T) {
	const clients, each = 11, 20
	var first time.Duration
	for run := range 3 {
		synctest.Test(t, func(t *testing.T) {
			mem := network()
			start(t, mem)
			begin := time.Now()
			var counting sync.WaitGroup
			for i := range clients {
				c := open(t, mem, i)
				counting.Go(func() {
					for j := range each {
						if _, err := c.do(t.Context(), "add total 1"); err != nil {
							t.Error(err)
						}
						c.expect(t, fmt.Sprintf("set client%d %d rounds", i, j), fmt.Sprint(j, " rounds"))
					}
				})
			}
			counting.Wait()
			passed := time.Since(begin)
			reader := open(t, mem, clients)
			reader.expect(t, "get total", fmt.Sprint(clients*each))
			reader.expect(t, "get client7", fmt.Sprint(each-1, " rounds"))
			if s := mem.Stats(); s.Lost < s.Sent/3 || s.Duplicated < s.Sent/5 {
				t.Errorf("the network is better than it should be: %+v", s)
			}
			if run == 0 {
				first = passed
			} else if passed != first {
				t.Errorf("run %d takes %v, the first took %v", run, passed, first)
			}
		})
	}
}

// TestMistakes has the server refuse what it does not know.
func TestMistakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := network()
		start(t, mem)
		c := open(t, mem, 1)
		c.expect(t, "set name a b  c", "a b  c")
		c.expect(t, "get name", "a b  c")
		c.expect(t, "get nothing", "")
		for _, command := range []string{"", "get", "set name", "delete name", "add name one"} {
			if value, err := c.do(t.Context(), command); err == nil {
				t.Errorf("%q: %q", command, value)
			}
		}
		c.expect(t, "add number -5", "-5")
	})
}

// TestDown has the server gone: the client gives up when it was told to, and not
// before.
func TestDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := network()
		c := open(t, mem, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		begin := time.Now()
		if _, err := c.do(ctx, "get name"); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Hour {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		sent := mem.Stats().Sent
		time.Sleep(time.Hour)
		if now := mem.Stats().Sent; now != sent {
			t.Errorf("it sent %d more", now-sent)
		}
	})
}
