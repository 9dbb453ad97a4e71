//go:build linux && !race

package udp_test

import (
	"testing"
	"time"

	"example.com/udp"
)

// TestAllocations makes round trips in each of the ways there are: none
// allocates.
func TestAllocations(t *testing.T) {
	const size = 16
	all := kernelSetups()
	for _, n := range kernelSetups() {
		n.name += ", all that can be read"
		n.config.ReadTime, n.config.ReadTrafficClass = true, true
		all = append(all, n)
	}
	for _, n := range all {
		t.Run(n.name, func(t *testing.T) {
			arrived := make(chan int, size)
			count := funcs{datagram: func(*udp.Conn, udp.Datagram) { arrived <- 1 }}
			countBatch := batchFuncs{batch: func(_ *udp.Conn, ds []udp.Datagram) { arrived <- len(ds) }}
			reply := funcs{datagram: func(c *udp.Conn, d udp.Datagram) { c.Reply(d, d.Payload) }}
			replyBatch := batchFuncs{batch: func(c *udp.Conn, ds []udp.Datagram) { c.WriteBatch(ds) }}
			queue := funcs{datagram: func(c *udp.Conn, d udp.Datagram) { c.Queue(d) }}
			a, b, q := n.listen(t, reply), n.listen(t, replyBatch), n.listen(t, queue)
			c, cBatch := n.listen(t, count), n.listen(t, countBatch)
			connected := n.dial(t, n.reach(a), count)
			toA, toB, toQ := n.reach(a), n.reach(b), n.reach(q)
			payload := []byte("hello")
			d := udp.Datagram{Addr: toA}
			var toOne, toTwo, toQueue []udp.Datagram
			for i := range size {
				toOne = append(toOne, udp.Datagram{Addr: toA, Payload: payload})
				d := udp.Datagram{Addr: toA, Payload: payload[:i%5]}
				if i%2 == 1 {
					d.Addr = toB
				}
				toTwo = append(toTwo, d)
				toQueue = append(toQueue, udp.Datagram{Addr: toQ, Payload: payload})
			}
			for _, test := range []struct {
				name  string
				count int
				send  func()
			}{
				{"WriteTo", 1, func() { c.WriteTo(payload, toA) }},
				{"Reply", 1, func() { c.Reply(d, payload) }},
				{"Write", 1, func() { connected.Write(payload) }},
				{"WriteBatch", size, func() { c.WriteBatch(toOne) }},
				{"WriteBatch mixed", size, func() { cBatch.WriteBatch(toTwo) }},
				{"Queue", size, func() { c.WriteBatch(toQueue) }},
				{"HandleBatch", 1, func() { cBatch.WriteTo(payload, toB) }},
			} {
				roundTrip := func() {
					test.send()
					for left := test.count; left > 0; {
						left -= <-arrived
					}
				}
				// The first rounds let the buffers grow to what they will be.
				for range 20 {
					roundTrip()
				}
				if got := testing.AllocsPerRun(200, roundTrip); got != 0 {
					t.Errorf("%s: %v allocations for %d datagrams", test.name, got, test.count)
				}
			}
		})
	}
}

// TestReportAllocations has refusals come, which anyone who can forge them can
// make many of: each costs a few allocations at most.
func TestReportAllocations(t *testing.T) {
	const few = 12
	for _, n := range kernelSetups() {
		t.Run(n.name, func(t *testing.T) {
			told := make(chan struct{}, 1)
			c := n.listen(t, funcs{undelivered: func(*udp.Conn, udp.Undelivered) { told <- struct{}{} }})
			dead, payload := n.dead(t), []byte("x")
			refuse := func() {
				c.WriteTo(payload, dead)
				<-told
			}
			refuse()
			if got := testing.AllocsPerRun(200, refuse); got > few {
				t.Errorf("%v allocations for a report, more than %d", got, few)
			} else {
				t.Logf("%v allocations for a report", got)
			}
		})
	}
}

// TestPostAllocations posts, and sets a timer again: there is an allocation or
// two where that ends a read, of package net's error.
func TestPostAllocations(t *testing.T) {
	n := setup{bind: "127.0.0.1:0", host: loopback4}
	c := n.listen(t, nil)
	done := make(chan struct{}, 1)
	f := func() { done <- struct{}{} }
	again := func() { c.Post(f) }
	timer := c.AfterFunc(time.Hour, f)
	for name, once := range map[string]func(){
		"Post":           func() { c.Post(f); <-done },
		"Timer":          func() { timer.Reset(0); <-done },
		"Timer.Reset":    func() { timer.Reset(time.Hour) },
		"Reset, Stop":    func() { timer.Reset(time.Hour); timer.Stop() },
		"Post in a post": func() { c.Post(again); <-done },
	} {
		if got := testing.AllocsPerRun(200, once); got > 4 {
			t.Errorf("%s: %v allocations", name, got)
		} else {
			t.Logf("%s: %v allocations", name, got)
		}
	}
}
