package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// A notebook is what a node has printed and not been asked for yet.
type notebook struct {
	mu    sync.Mutex
	lines []string
}

func (b *notebook) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, strings.TrimSpace(string(line)))
	return len(line), nil
}

// says checks what has been printed once nothing more happens by itself.
func (b *notebook) says(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.Sort(b.lines)
	slices.Sort(want)
	if !slices.Equal(b.lines, want) {
		t.Errorf("printed %q, want %q", b.lines, want)
	}
	b.lines = nil
}

// TestDiscover lets three nodes find each other, say goodbye and fall silent,
// on a network in memory and by its clock.
func TestDiscover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const every = 5 * time.Second
		var cut atomic.Bool // what 10.0.0.3 sends is lost
		silent := netip.MustParseAddr("10.0.0.3")
		network := &udp.MemNet{Drop: func(from, to netip.AddrPort, _ []byte) bool { return cut.Load() && from.Addr() == silent }}
		var running sync.WaitGroup
		start := func(i int, name string) (*notebook, context.CancelFunc) {
			lc := udp.ListenConfig{Network: "udp4", PacketListener: network.Host(netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i)))}
			book := new(notebook)
			ctx, cancel := context.WithCancel(t.Context())
			running.Go(func() {
				if err := (&node{name: name, out: book}).run(ctx, lc, true, every); err != nil {
					t.Error(err)
				}
			})
			return book, cancel
		}
		one, stopOne := start(1, "one")
		one.says(t, `"one" is looking for others`)
		two, stopTwo := start(2, "two")
		two.says(t, `"two" is looking for others`, `"one" is at 10.0.0.1`)
		one.says(t, `"two" is at 10.0.0.2`)
		three, stopThree := start(3, "three")
		three.says(t, `"three" is looking for others`, `"one" is at 10.0.0.1`, `"two" is at 10.0.0.2`)
		one.says(t, `"three" is at 10.0.0.3`)
		two.says(t, `"three" is at 10.0.0.3`)

		stopTwo()
		one.says(t, `"two" says goodbye`)
		three.says(t, `"two" says goodbye`)

		time.Sleep(10 * every) // as they announce themselves, nobody is forgotten
		one.says(t)
		cut.Store(true)
		time.Sleep(3 * every)
		one.says(t)
		time.Sleep(every)
		one.says(t, `"three" has fallen silent`)
		three.says(t)
		cut.Store(false)
		time.Sleep(every)
		one.says(t, `"three" is at 10.0.0.3`)

		stopOne()
		stopThree()
		running.Wait()
	})
}

// TestStrangers sends what no node sends.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lc := udp.ListenConfig{Network: "udp4", PacketListener: new(udp.MemNet)}
		book := new(notebook)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- (&node{name: "one", out: book}).run(ctx, lc, true, time.Hour) }()
		book.says(t, `"one" is looking for others`)

		answers := 0
		stranger, err := lc.Listen(ctx, ":0", udp.HandlerFunc(func(*udp.Conn, udp.Datagram) { answers++ }))
		if err != nil {
			t.Fatal(err)
		}
		for _, payload := range []string{"", " ", "hello", "hello ", "hello one", "bye two", "welcome two", "HELLO two"} {
			stranger.WriteTo([]byte(payload), group)
		}
		book.says(t)
		if answers != 0 {
			t.Errorf("%d of them were answered", answers)
		}
		for i := range 1001 {
			stranger.WriteTo(fmt.Appendf(nil, "hello %d", i), group)
			synctest.Wait()
		}
		if answers != 1000 || len(book.lines) != 1000 {
			t.Errorf("of 1001 names %d were answered and %d printed, want 1000", answers, len(book.lines))
		}
		stranger.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
