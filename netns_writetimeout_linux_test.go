package udp_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"example.com/udp"
)

// slowLink joins two hosts by a link of 100 kbit/s, and b and a third one by a
// link without a limit.
func slowLink(t *testing.T) (server, slow, fast *host) {
	t.Helper()
	needPrograms(t, "iproute2", "tc")
	hs := hosts(t, "a", "b", "c")
	join(hs[0], "eth0", []string{"10.1.0.1/24"}, hs[1], "eth0", []string{"10.1.0.2/24"})
	join(hs[0], "eth1", []string{"10.2.0.1/24"}, hs[2], "eth0", []string{"10.2.0.2/24"})
	hs[0].run("tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", "100kbit", "burst", "3000", "limit", "10000000")
	return hs[0], hs[1], hs[2]
}

// TestWriteTimeoutOfSlowPath has a handler answer a client by a slow link with
// far more than that carries: another client, who asks until there is an answer,
// gets it long before.
func TestWriteTimeoutOfSlowPath(t *testing.T) {
	const replies, size = 60, 1200
	for _, way := range []string{"Reply", "WriteBatch", "Queue"} {
		t.Run(way, func(t *testing.T) {
			server, slow, fast := slowLink(t)
			var late atomic.Int64
			lc := udp.ListenConfig{WriteBuffer: 20000, WriteTimeout: 5 * time.Millisecond, NoOffload: true}
			c := server.listen(lc, ":0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
				if string(d.Payload) == "ping" {
					c.Reply(d, []byte("pong"))
					return
				}
				answer := d
				answer.Payload = make([]byte, size)
				ds := make([]udp.Datagram, replies)
				for i := range ds {
					ds[i] = answer
				}
				switch way {
				case "Reply":
					for range ds {
						if _, err := c.Reply(d, answer.Payload); errors.Is(err, os.ErrDeadlineExceeded) {
							late.Add(1)
						} else {
							check(t, err)
						}
					}
				case "WriteBatch":
					n, err := c.WriteBatch(ds)
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%d, %v", n, err)
					}
					late.Add(int64(len(ds) - n))
				case "Queue":
					for _, d := range ds {
						check(t, c.Queue(d))
					}
				}
			}))
			port := c.LocalAddr().Port()
			p, q := slow.bare("10.1.0.2:0"), fast.bare("10.2.0.2:0")
			_, err := p.WriteTo([]byte("all of it"), &net.UDPAddr{IP: net.IPv4(10, 1, 0, 1), Port: int(port)})
			check(t, err)
			eventually(t, "the slow client's answers are tried", func() bool {
				s := c.Stats()
				return s.WriteDatagrams+s.WriteErrors > 0
			})
			pings := 0
			for got := make([]byte, 100); ; pings++ { // an answer may find the buffer full too
				_, err = q.WriteTo([]byte("ping"), &net.UDPAddr{IP: net.IPv4(10, 2, 0, 1), Port: int(port)})
				check(t, err)
				check(t, q.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
				if n, _, err := q.ReadFrom(got); err == nil && string(got[:n]) == "pong" {
					break
				} else if pings > 500 {
					t.Fatalf("no answer: %v", c.Stats())
				}
			}
			shutdown(t, c)
			s := c.Stats()
			if s.WriteErrors == 0 || s.WriteDatagrams > replies {
				t.Errorf("%v: the slow client was sent all of it first", s)
			}
			if n := uint64(late.Load()); way != "Queue" && (n == 0 || n > s.WriteErrors) {
				t.Errorf("%d are late, and %d counted", n, s.WriteErrors)
			}
		})
	}
}

// TestWriteTimeouts fills the send buffer: what does not fit fails at once
// below zero, each writer waits its own time above, and what zero waits for is
// sent.
func TestWriteTimeouts(t *testing.T) {
	server, slow, _ := slowLink(t)
	p := slow.bare("10.1.0.2:0")
	for _, timeout := range []time.Duration{-1, 2 * time.Millisecond} {
		for _, batch := range []bool{false, true} {
			t.Run(fmt.Sprint(timeout, " batch ", batch), func(t *testing.T) {
				c := server.listen(udp.ListenConfig{WriteBuffer: 10000, WriteTimeout: timeout, NoOffload: true}, ":0", nil)
				write := func() (int, error) { return c.WriteTo(make([]byte, 1200), p.addr) }
				if batch {
					d := udp.Datagram{Payload: make([]byte, 1200), Addr: p.addr}
					write = func() (int, error) { return c.WriteBatch([]udp.Datagram{d, d, d}) }
				}
				const writers = 8
				results := make(chan error, writers)
				for range writers {
					go func() {
						for {
							if _, err := write(); err != nil {
								results <- err
								return
							}
						}
					}()
				}
				for range writers {
					isError(t, wait(t, results), os.ErrDeadlineExceeded)
				}
			})
		}
	}
	t.Run("Close", func(t *testing.T) {
		c := server.listen(udp.ListenConfig{WriteBuffer: 10000, WriteTimeout: time.Hour, NoOffload: true}, ":0", nil)
		const writers = 4
		results := make(chan error, writers)
		for range writers {
			go func() {
				for {
					if _, err := c.WriteTo(make([]byte, 1200), p.addr); err != nil {
						results <- err
						return
					}
				}
			}()
		}
		eventually(t, "the send buffer is full", func() bool { return c.Stats().WriteDatagrams > 5 })
		check(t, c.Close())
		for range writers {
			isError(t, wait(t, results), net.ErrClosed)
		}
	})
}
