//go:build linux && !race

package udp_test

import (
	"testing"

	"example.com/udp"
)

// TestAllocations makes round trips in each of the ways there are: none
// allocates.
func TestAllocations(t *testing.T) {
	const size = 16
	for _, n := range kernelSetups() {
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
