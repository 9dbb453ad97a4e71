//go:build unix

package udp_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"weak"

	"example.com/udp"
)

// TestIdleMemory opens many Conns: while they wait, each has at most 5 KiB of
// Go's memory; or 8, when its stack has grown for calls of the handler. It
// does so in a process of its own, as Go makes the stacks of new goroutines
// as large as others have needed so far.
func TestIdleMemory(t *testing.T) {
	if portable() {
		t.Skip("here each Conn keeps a buffer: try Linux, without the tag udpbasic")
	}
	if raceDetector() {
		t.Skip("the race detector has memory of its own: try without -race")
	}
	const variable = "UDP_TEST_IDLE_MEMORY"
	if os.Getenv(variable) == "" {
		self := again(t, "TestIdleMemory", "-test.v")
		cmd := exec.Command(self[0], self[1:]...)
		cmd.Env = append(os.Environ(), variable+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v:\n%s", err, out)
		}
		return
	}
	const count, fresh, used = 1000, 5 << 10, 8 << 10
	n := setup{bind: "127.0.0.1:0", host: loopback4}
	from := n.listen(t, nil)
	arrived := make(chan int, count)
	h := batchFuncs{batch: func(c *udp.Conn, ds []udp.Datagram) {
		c.WriteBatch(ds)
		arrived <- len(ds)
	}}
	conns := make([]*udp.Conn, count)
	before := memory()
	for i := range conns {
		c, err := n.config.Listen(t.Context(), n.bind, h)
		check(t, err)
		defer c.Wait()
		defer c.Close()
		conns[i] = c
	}
	wantMemory := func(what string, most int) {
		t.Helper()
		waitUntilIdle(t, count+1)
		if got := (memory() - before) / count; got > most {
			t.Errorf("a Conn that %s has %d bytes, more than %d", what, got, most)
		} else {
			t.Logf("a Conn that %s has %d bytes", what, got)
		}
	}
	wantMemory("waits", fresh)
	for _, c := range conns {
		check(t, second(from.WriteTo([]byte("hello"), c.LocalAddr())))
		wait(t, arrived)
	}
	wantMemory("waits again", used)
}

// TestMemoryAfterFlood floods a Conn whose handler is slow: what it takes to
// read that much is given back when it is idle.
func TestMemoryAfterFlood(t *testing.T) {
	needTime(t)
	const spare = 1 << 20 // for what the runtime keeps; a buffer for one read has four
	for _, n := range kernelSetups() {
		for _, inBatches := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, in batches: %v", n.name, inBatches), func(t *testing.T) {
				g := newGate()
				defer g.open()
				total := 0
				arrived := make(chan int, 1)
				take := func(count int) {
					g.pass()
					if total += count; total%301 == 0 {
						arrived <- total
					}
				}
				h := udp.Handler(udp.HandlerFunc(func(*udp.Conn, udp.Datagram) { take(1) }))
				if inBatches {
					h = batchFuncs{batch: func(_ *udp.Conn, ds []udp.Datagram) { take(len(ds)) }}
				}
				n.config.ReadBuffer = roomForAll
				c, from := n.listen(t, h), n.listen(t, nil)
				before := memory()
				ds := slices.Repeat([]udp.Datagram{{Payload: make([]byte, 5000), Addr: n.reach(c)}}, 300)
				check(t, second(from.WriteTo(ds[0].Payload, n.reach(c))))
				g.wait(t)
				check(t, second(from.WriteBatch(ds)))
				g.open()
				wait(t, arrived)
				ds = nil
				waitUntilIdle(t, 2)
				if got := memory(); got > before+spare {
					t.Errorf("%d bytes before, %d after", before, got)
				}
				runtime.KeepAlive(c)
			})
		}
	}
}

// TestWritesForget sees to it that no write keeps what it was given.
func TestWritesForget(t *testing.T) {
	for _, n := range kernelSetups() {
		t.Run(n.name, func(t *testing.T) {
			c, to := n.listen(t, nil), n.listen(t, nil)
			connected := n.dial(t, n.reach(to), nil)
			dead := n.dial(t, n.dead(t), nil)
			addr := n.reach(to)
			for name, write := range map[string]func(payload []byte){
				"WriteTo": func(b []byte) { c.WriteTo(b, addr) },
				"Write":   func(b []byte) { connected.Write(b) },
				"Reply":   func(b []byte) { c.Reply(udp.Datagram{Addr: addr, Local: n.host}, b) },
				"WriteBatch": func(b []byte) {
					c.WriteBatch([]udp.Datagram{{Addr: addr, Payload: b[:1000]}, {Addr: addr, Payload: b[1000:2000]}, {Addr: addr, Payload: b[:1]}})
				},
				"WriteBatch that fails": func(b []byte) {
					c.WriteBatch([]udp.Datagram{{Addr: addr, Payload: b}, {Payload: b}, {Addr: addr, Payload: make([]byte, 1<<16)}})
				},
				"WriteBatch that is refused": func(b []byte) {
					dead.WriteBatch([]udp.Datagram{{Payload: b}, {Payload: b[:1]}, {Payload: b}})
				},
			} {
				payload := make([]byte, 50_000)
				left := weak.Make(&payload[0])
				write(payload)
				payload = nil
				// Once: what a pool holds, it gives up only the second time.
				runtime.GC()
				if left.Value() != nil {
					t.Errorf("%s keeps the payload", name)
				}
			}
		})
	}
}

// TestNothingLeft opens and closes Conns in the midst of their work: no
// descriptor and no goroutine is left.
func TestNothingLeft(t *testing.T) {
	for _, n := range kernelSetups() {
		t.Run(n.name, func(t *testing.T) {
			from := n.listen(t, nil)
			descriptorsBefore, goroutinesBefore := descriptors(t), stacks()
			for i := range 60 {
				entered := make(chan struct{}, 1000)
				h := batchFuncs{batch: func(c *udp.Conn, ds []udp.Datagram) {
					entered <- struct{}{}
					c.WriteBatch(ds)
				}}
				c, err := n.config.Listen(t.Context(), n.bind, h)
				check(t, err)
				if i%2 == 0 {
					check(t, second(from.WriteBatch(slices.Repeat([]udp.Datagram{{Payload: make([]byte, 10), Addr: n.reach(c)}}, 20))))
					wait(t, entered)
				}
				if i%3 == 0 {
					check(t, c.Connect(n.reach(from)))
				}
				check(t, c.Close())
				check(t, wait(t, async(c.Wait)))
			}
			if got := descriptors(t); got != descriptorsBefore {
				t.Errorf("%d descriptors before, %d after", descriptorsBefore, got)
			}
			if left := leaked(goroutinesBefore); left != "" {
				t.Errorf("goroutines are left:\n%s", left)
			}
		})
	}
}

// memory is how many bytes Go has in use, after all has been collected.
func memory() int {
	for range 4 {
		// What pools hold goes at the second; stacks shrink by half at each.
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// waitUntilIdle waits until that many goroutines wait in the network.
func waitUntilIdle(t *testing.T, count int) {
	t.Helper()
	buf := make([]byte, 4<<20)
	eventually(t, "all wait", func() bool {
		return bytes.Count(buf[:runtime.Stack(buf, true)], []byte("[IO wait")) >= count
	})
}
