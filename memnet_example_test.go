package udp_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// A client asks a server by datagrams that begin with a number, and takes as
// the answer the first that comes back with it.
type client struct {
	conn *udp.Conn

	mu      sync.Mutex
	last    uint32
	waiting map[uint32]chan []byte
}

// dial makes a client. It takes a ListenConfig, so that a test can give it one
// with a network in memory.
func dial(ctx context.Context, lc *udp.ListenConfig, address string) (*client, error) {
	c := &client{waiting: make(map[uint32]chan []byte)}
	var err error
	c.conn, err = lc.Dial(ctx, address, c)
	return c, err
}

// HandleDatagram takes an answer. The channel has room for the first; what
// comes later is for a number that nobody waits for.
func (c *client) HandleDatagram(_ *udp.Conn, d udp.Datagram) {
	if len(d.Payload) < 4 {
		return
	}
	number := binary.BigEndian.Uint32(d.Payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer, ok := c.waiting[number]; ok {
		delete(c.waiting, number)
		answer <- bytes.Clone(d.Payload[4:]) // the payload is lent
	}
}

// ask sends question, again and again, until it is answered or ctx ends. The
// pauses double.
func (c *client) ask(ctx context.Context, question string) (string, error) {
	answer := make(chan []byte, 1)
	c.mu.Lock()
	c.last++
	number := c.last
	c.waiting[number] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, number)
		c.mu.Unlock()
	}()
	request := append(binary.BigEndian.AppendUint32(nil, number), question...)
	for pause := 100 * time.Millisecond; ; pause *= 2 {
		if _, err := c.conn.Write(request); err != nil {
			return "", err
		}
		select {
		case a := <-answer:
			return string(a), nil
		case <-time.After(pause):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// testClient is the test of the client, TestClient in a program of one's own.
// In its network, 30 % of the datagrams are lost, half of the others arrive
// twice, and all overtake each other. It needs no port, takes some
// milliseconds, and has the same result on every run.
func testClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		down := false
		lc := &udp.ListenConfig{PacketListener: &udp.MemNet{
			Drop: func(from, to netip.AddrPort, payload []byte) bool {
				return down || random.Float64() < 0.3
			},
			Delay: func(from, to netip.AddrPort, payload []byte) time.Duration {
				return time.Duration(random.Int64N(int64(100 * time.Millisecond)))
			},
			Copies: func(from, to netip.AddrPort, payload []byte) int {
				return random.IntN(2)
			},
		}}
		server, err := lc.Listen(t.Context(), "10.0.0.1:53", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
			c.Reply(d, append(d.Payload, ": yes"...))
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		client, err := dial(t.Context(), lc, "10.0.0.1:53")
		if err != nil {
			t.Fatal(err)
		}
		defer client.conn.Close()

		start := time.Now()
		for i := range 100 {
			question := fmt.Sprint("question ", i)
			answer, err := client.ask(t.Context(), question)
			if answer != question+": yes" || err != nil {
				t.Errorf("%q is answered by %q, %v", question, answer, err)
			}
		}
		result := fmt.Sprintf("%d requests in %v", client.conn.Stats().WriteDatagrams, time.Since(start))
		if want := "194 requests in 45.715329408s"; result != want {
			t.Errorf("100 answers took %s, want %s", result, want)
		}

		down = true
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start = time.Now()
		if _, err := client.ask(ctx, "anybody?"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Hour {
			t.Errorf("after %v without an answer: %v", time.Since(start), err)
		}
	})
}

// A client that asks until it is answered, and its test: on a network in
// memory that loses, duplicates and reorders, by a clock that does not have to
// be waited for. The test is a function that go test calls, here by the name
// testClient.
func ExampleMemNet() {
	var t *testing.T
	testClient(t)
}
