package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// TestRequest has eight goroutines ask at once, on a network that loses a
// third, duplicates and reorders.
func TestRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, &udp.MemNet{Link: udp.Link{Loss: 0.3, Duplicate: 0.5, Latency: time.Millisecond, Jitter: 300 * time.Millisecond, Seed: 1}}, nil)
		var asking sync.WaitGroup
		for i := range 8 {
			asking.Go(func() {
				for j := range 25 {
					question := fmt.Sprintf("question %d of %d", j, i)
					answer, err := c.ask(t.Context(), []byte(question))
					if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error(err)
					}
					if err == nil && string(answer) != question {
						t.Errorf("%q is answered by %q", question, answer)
					}
				}
			})
		}
		asking.Wait()
		if sent := c.conn.Stats().WriteDatagrams; sent < 250 {
			t.Errorf("only %d requests for 200 answers: nothing was lost", sent)
		}
		wantNoneWaiting(t, c)
	})
}

// TestBackoff has nobody answer: the pauses double, and there is an end.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var at []time.Duration
		c := start(t, &udp.MemNet{Drop: func(from, to netip.AddrPort, payload []byte) bool {
			at = append(at, time.Since(begin))
			return true
		}}, nil)
		if _, err := c.ask(t.Context(), nil); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("without an answer: %v", err)
		}
		if got, want := fmt.Sprint(at, time.Since(begin)), "[0s 200ms 600ms 1.4s 3s 6.2s] 12.6s"; got != want {
			t.Errorf("sent and given up at %s, want %s", got, want)
		}
		wantNoneWaiting(t, c)
	})
}

// TestEnds has the asker, and then the client, give up earlier.
func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, &udp.MemNet{Drop: func(from, to netip.AddrPort, payload []byte) bool { return true }}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.ask(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after its second: %v", err)
		}
		wantNoneWaiting(t, c)
		time.AfterFunc(time.Second, func() { c.conn.Close() })
		for range 2 {
			if _, err := c.ask(t.Context(), nil); !errors.Is(err, net.ErrClosed) {
				t.Errorf("on a closed client: %v", err)
			}
		}
	})
}

// TestForged has answers come that are too short, or to another number.
func TestForged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, new(udp.MemNet), func(c *udp.Conn, d udp.Datagram) {
			c.Reply(d, nil)
			c.Reply(d, binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(d.Payload)+1))
			c.Reply(d, append(d.Payload[:4:4], "right"...))
		})
		if answer, err := c.ask(t.Context(), nil); string(answer) != "right" || err != nil {
			t.Errorf("the answer is %q, %v", answer, err)
		}
	})
}

// start has a server on n, which answers with what it gets if serve is nil,
// and returns a client.
func start(t *testing.T, n *udp.MemNet, serve udp.HandlerFunc) *client {
	if serve == nil {
		serve = func(c *udp.Conn, d udp.Datagram) { c.Reply(d, d.Payload) }
	}
	lc := &udp.ListenConfig{PacketListener: n}
	server, err := lc.Listen(t.Context(), "10.0.0.1:9", serve)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dial(t.Context(), lc, "10.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Close()
		c.conn.Close()
	})
	return c
}

func wantNoneWaiting(t *testing.T, c *client) {
	t.Helper()
	waiting := make(chan int)
	c.conn.Post(func() { waiting <- len(c.waiting) })
	if n := <-waiting; n != 0 {
		t.Errorf("%d requests are still there", n)
	}
}
