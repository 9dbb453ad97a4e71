package udp_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"example.com/udp"
)

// TestShutdownUnderFlood shuts down while others send without end, faster
// than the handler takes it: what waited is handled, the rest of the flood is
// left to itself, and HandleStop is called.
func TestShutdownUnderFlood(t *testing.T) {
	for _, n := range []setup{
		{name: "udp4", bind: "127.0.0.1:0", host: loopback4},
		{name: "plain", bind: "127.0.0.1:0", host: loopback4, config: udp.ListenConfig{NoOffload: true}},
		foreignSetup(),
	} {
		t.Run(n.name, func(t *testing.T) {
			for _, size := range []int{0, 1000} {
				const waiting = 100
				stop := make(chan struct{})
				var flood sync.WaitGroup
				open, entered := make(chan struct{}), make(chan struct{})
				var handled int
				r := record()
				begin := make(chan struct{})
				c := n.listen(t, funcs{
					datagram: func(_ *udp.Conn, d udp.Datagram) {
						switch {
						case handled == 0:
							close(entered)
							<-open
							close(begin)
						case handled <= waiting && string(d.Payload) != fmt.Sprint(handled-1):
							t.Errorf("datagram %d is %q", handled-1, d.Payload)
						case handled > waiting:
							spin()
						}
						handled++
					},
					stop: r.HandleStop,
				})
				p := n.peer(t)
				p.send(t, n.reach(c), "block")
				wait(t, entered)
				for i := range waiting {
					p.send(t, n.reach(c), fmt.Sprint(i))
				}
				var sent atomic.Int64
				sender := n.listen(t, nil)
				for range 2 {
					flood.Go(func() {
						<-begin
						for {
							select {
							case <-stop:
								return
							default:
								sender.WriteTo([]byte(text(size)), n.reach(c))
								sent.Add(1)
							}
						}
					})
				}
				done := async(func() error { return c.Shutdown(context.Background()) })
				close(open)
				check(t, wait(t, done))
				check(t, wait(t, r.stopped))
				close(stop)
				flood.Wait()
				if handled <= waiting {
					t.Errorf("%d are handled", handled)
				}
			}
		})
	}
}

// spin takes longer than a system call.
func spin() {
	for i := range 2000 {
		sink.Store(int64(i))
	}
}

var sink atomic.Int64

// TestShutdownOfOne has four sockets share a port, and shuts one of them down
// under load: it handles all that waited in it, the others go on without a
// loss, and take over its peers. It is not the one bound last: while that one
// is closed, Linux may give it a datagram of any peer, and now and then one of
// the load would be lost.
func TestShutdownOfOne(t *testing.T) {
	n := setup{bind: "127.0.0.1:0", host: loopback4}
	n.config.ReusePort, n.config.ReadBuffer = true, 4<<20
	const members, flows, rounds = 4, 32, 60
	type got struct{ member, flow, number int }
	all := make(chan got, flows*rounds*4)
	var cs []*udp.Conn
	var open atomic.Pointer[chan struct{}]
	entered := make(chan struct{}, 1)
	address := n.bind
	for i := range members {
		c, err := n.config.Listen(t.Context(), address, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
			if string(d.Payload) == "block" {
				entered <- struct{}{}
				<-*open.Load()
				return
			}
			g := got{member: i}
			if _, err := fmt.Sscan(string(d.Payload), &g.flow, &g.number); err != nil {
				t.Error(err)
			}
			all <- g
		}))
		if err != nil {
			t.Skipf("%v: try a system that shares the load of a port", err)
		}
		closeAtEnd(t, c)
		cs = append(cs, c)
		address = c.LocalAddr().String()
	}
	to := cs[0].LocalAddr()
	var peers []bare
	for range flows {
		peers = append(peers, n.peer(t))
	}
	send := func(flow, number int) { peers[flow].send(t, to, fmt.Sprint(flow, number)) }
	collect := func(what string, count int, wants func(g got) bool) {
		t.Helper()
		for range count {
			if g := wait(t, all); !wants(g) {
				t.Fatalf("%s: socket %d gets %d of flow %d", what, g.member, g.number, g.flow)
			}
		}
	}

	// Whose peers are whose?
	owner := make([]int, flows)
	for flow := range flows {
		send(flow, -1)
		owner[flow] = wait(t, all).member
	}
	leaving := slices.Min(owner)

	// One is blocked, and gets 4 from each of its peers, which wait.
	block := make(chan struct{})
	open.Store(&block)
	peers[slices.Index(owner, leaving)].send(t, to, "block")
	wait(t, entered)
	waiting := 0
	for flow := range flows {
		for number := range 4 {
			send(flow, number)
			if owner[flow] == leaving {
				waiting++
			}
		}
	}
	collect("before", 4*flows-waiting, func(g got) bool { return g.member == owner[g.flow] && g.member != leaving })

	// The peers of the others go on sending while it shuts down.
	stop := make(chan struct{})
	counts := make([]int, flows)
	var load sync.WaitGroup
	load.Go(func() {
		for number := 4; ; number++ {
			for flow := range flows {
				select {
				case <-stop:
					return
				default:
				}
				if owner[flow] != leaving && number < rounds {
					send(flow, number)
					counts[flow]++
				}
			}
		}
	})
	done := async(func() error { return cs[leaving].Shutdown(context.Background()) })
	close(block)
	check(t, wait(t, done))
	close(stop)
	load.Wait()
	sent := waiting
	for _, count := range counts {
		sent += count
	}
	byLeaving := 0
	collect("while it shuts down", sent, func(g got) bool {
		if owner[g.flow] == leaving {
			byLeaving++
			return g.member == leaving
		}
		return g.number >= 4
	})
	if byLeaving != waiting {
		t.Errorf("of %d that waited, it handles %d", waiting, byLeaving)
	}

	// Afterwards the others have them all.
	for flow := range flows {
		send(flow, rounds)
	}
	collect("after", flows, func(g got) bool { return g.member != leaving && g.number == rounds })
	var s udp.Stats
	for _, c := range cs {
		s.Dropped += c.Stats().Dropped
	}
	if s.Dropped != 0 {
		t.Errorf("%d are dropped", s.Dropped)
	}
}
