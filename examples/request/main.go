// Command request asks a server, and prints what it answers.
//
// It shows what every client writes: requests that are matched to answers by
// number, sent again with growing pauses, and given up in the end. All of that
// is done in the Conn's goroutine (Post, AfterFunc), so it needs no lock, and
// its test needs no port and no waiting. Any server that sends back the number
// will do:
//
//	go run ./examples/echo
//	go run ./examples/request -server 127.0.0.1:9999 one two three
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/udp"
)

func main() {
	server := flag.String("server", "127.0.0.1:9999", "`address` of the server")
	flag.Parse()
	if err := run(*server, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "request:", err)
		os.Exit(1)
	}
}

func run(server string, questions []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := dial(ctx, new(udp.ListenConfig), server)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	for _, q := range questions {
		a, err := c.ask(ctx, []byte(q))
		if err != nil {
			return err
		}
		fmt.Printf("%s: %q\n", q, a)
	}
	return nil
}

// A request is sent up to tries times, with firstPause after the first time,
// and twice as much after each. The server's answer to any of them will do.
const (
	firstPause = 200 * time.Millisecond
	tries      = 6
)

// A client sends requests that begin with a number of four bytes. An answer
// begins with the number of its request.
type client struct {
	conn    *udp.Conn
	waiting map[uint32]*request // in the Conn's goroutine alone
}

type request struct {
	number uint32
	packet []byte
	tries  int
	timer  *udp.Timer
	done   chan result // with room for the one result
}

type result struct {
	answer []byte
	err    error
}

var _ udp.StopHandler = (*client)(nil)

// dial makes a client. The ListenConfig is for tests to bring a network.
func dial(ctx context.Context, lc *udp.ListenConfig, server string) (*client, error) {
	c := &client{waiting: make(map[uint32]*request)}
	var err error
	c.conn, err = lc.Dial(ctx, server, c)
	return c, err
}

// ask returns the server's answer. Any goroutine may call it, but none of the
// Conn's own callbacks, which it would wait for.
func (c *client) ask(ctx context.Context, question []byte) ([]byte, error) {
	r := &request{done: make(chan result, 1)}
	if err := c.conn.Post(func() { c.begin(r, question) }); err != nil {
		return nil, err
	}
	select {
	case res := <-r.done:
		return res.answer, res.err
	case <-c.conn.Done(): // what was posted may not run any more
		return nil, net.ErrClosed
	case <-ctx.Done():
		c.conn.Post(func() { c.finish(r, result{}) })
		return nil, ctx.Err()
	}
}

// begin gives r a number. It cannot be guessed, so that only who sees the
// request can forge an answer.
func (c *client) begin(r *request, question []byte) {
	for r.number = rand.Uint32(); c.waiting[r.number] != nil; {
		r.number = rand.Uint32()
	}
	c.waiting[r.number] = r
	r.packet = append(binary.BigEndian.AppendUint32(nil, r.number), question...)
	c.send(r)
}

func (c *client) send(r *request) {
	if r.tries == tries {
		c.finish(r, result{err: os.ErrDeadlineExceeded})
		return
	}
	// An error is like a loss: it may be another the next time.
	c.conn.Write(r.packet)
	r.timer = c.conn.AfterFunc(firstPause<<r.tries, func() { c.send(r) })
	r.tries++
}

// finish is called for each request at least once; the first time counts.
func (c *client) finish(r *request, res result) {
	if c.waiting[r.number] == r {
		delete(c.waiting, r.number)
		r.timer.Stop()
		r.done <- res
	}
}

// HandleDatagram takes an answer. One that nobody waits for is late, or has
// come twice, or is forged.
func (c *client) HandleDatagram(_ *udp.Conn, d udp.Datagram) {
	if len(d.Payload) < 4 {
		return
	}
	if r := c.waiting[binary.BigEndian.Uint32(d.Payload)]; r != nil {
		c.finish(r, result{answer: bytes.Clone(d.Payload[4:])}) // the payload is lent
	}
}

// HandleStop tells those who still wait.
func (c *client) HandleStop(_ *udp.Conn, _ error) {
	for _, r := range c.waiting {
		c.finish(r, result{err: net.ErrClosed})
	}
}
