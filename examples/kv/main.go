// Command kv keeps values by key, for clients that ask by UDP. The same program
// is the server and the client:
//
//	go run ./examples/kv -listen 127.0.0.1:9999
//	go run ./examples/kv -server 127.0.0.1:9999 add visits 1
//
// It shows a protocol that is right on a network that is not: what is lost is
// sent again, and what arrives twice is done once. The server has a session for
// each client, and no lock. Its test, kv_test.go, is the reason for a MemNet:
// eleven clients on a network that loses 40 %.
//
// A request is "NUMBER get KEY", "NUMBER set KEY VALUE" or "NUMBER add KEY
// INTEGER", where the numbers of a client grow. The answer is "NUMBER VALUE",
// with the value that KEY then has, or "NUMBER ! MISTAKE".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.com/udp"
)

func main() {
	listen := flag.String("listen", "", "serve at this `address`")
	server := flag.String("server", "127.0.0.1:9999", "`address` of the server to ask")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *listen != "" {
		err = serve(ctx, *listen)
	} else {
		err = ask(ctx, *server, strings.Join(flag.Args(), " "))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kv:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, address string) error {
	c, err := udp.Listen(address, newStore())
	if err != nil {
		return err
	}
	fmt.Println("listening on", c.LocalAddr())
	<-ctx.Done()
	return c.Shutdown(context.Background())
}

func ask(ctx context.Context, server, command string) error {
	c, err := dial(ctx, new(udp.ListenConfig), server)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	value, err := c.do(ctx, command)
	if err == nil {
		fmt.Println(value)
	}
	return err
}

// A store is the server's values. One Conn uses it, all in its goroutine.
type store map[string]string

// newStore returns a Handler with a session for each client. A session is kept
// for longer than any client sends the same request, so that its copies find
// the answer there.
func newStore() udp.Handler {
	s := make(store)
	return &udp.Sessions{
		New:  func(*udp.Conn, udp.Datagram) udp.Handler { return &session{store: s} },
		Idle: 10 * time.Minute,
	}
}

// A session is what the server knows of one client.
type session struct {
	store  store
	number uint64 // of the last request
	answer []byte // to it
}

// HandleDatagram does what is asked for, once. An answer that was lost is sent
// again; an older request, of which a copy was late, is not done again.
func (s *session) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	number, command, err := parse(d.Payload)
	if err != nil || number < s.number {
		return
	}
	if number > s.number {
		value, err := s.store.do(strings.SplitN(command, " ", 3))
		if err != nil {
			value = "! " + err.Error()
		}
		s.number, s.answer = number, fmt.Appendf(nil, "%d %s", number, value)
	}
	c.Reply(d, s.answer)
}

func (s store) do(command []string) (value string, err error) {
	if len(command) < 2 {
		return "", errors.New("unknown request")
	}
	key := command[1]
	switch {
	case command[0] == "get" && len(command) == 2:
	case command[0] == "set" && len(command) == 3:
		s[key] = command[2]
	case command[0] == "add" && len(command) == 3:
		have, _ := strconv.Atoi(s[key])
		more, err := strconv.Atoi(command[2])
		if err != nil {
			return "", errors.New("not an integer")
		}
		s[key] = strconv.Itoa(have + more)
	default:
		return "", errors.New("unknown request")
	}
	return s[key], nil
}

// parse divides a request or an answer.
func parse(payload []byte) (number uint64, rest string, err error) {
	first, rest, _ := strings.Cut(string(payload), " ")
	number, err = strconv.ParseUint(first, 10, 64)
	return number, rest, err
}

// A client asks one thing after the other.
type client struct {
	conn *udp.Conn

	// In the Conn's goroutine alone.
	number  uint64
	request []byte // under way; nil: none
	pause   time.Duration
	timer   *udp.Timer
	answer  chan string // for the answer
}

// dial takes a ListenConfig, so that a test can give it a MemNet.
func dial(ctx context.Context, lc *udp.ListenConfig, server string) (*client, error) {
	c := new(client)
	var err error
	c.conn, err = lc.Dial(ctx, server, c)
	return c, err
}

// do has the server do what command says, and returns the value, for as long as
// ctx allows. One goroutine at a time calls it.
func (c *client) do(ctx context.Context, command string) (value string, err error) {
	answer := make(chan string, 1)
	if err := c.conn.Post(func() { c.start(command, answer) }); err != nil {
		return "", err
	}
	select {
	case value = <-answer:
		if mistake, ok := strings.CutPrefix(value, "! "); ok {
			return "", errors.New(mistake)
		}
		return value, nil
	case <-ctx.Done():
		c.conn.Post(c.stop)
		return "", ctx.Err()
	case <-c.conn.Done():
		return "", net.ErrClosed
	}
}

func (c *client) start(command string, answer chan string) {
	c.number++
	c.request, c.answer = fmt.Appendf(nil, "%d %s", c.number, command), answer
	c.pause = 100 * time.Millisecond
	c.send()
}

// send sends the request, and again after a pause that doubles up to 2 s.
func (c *client) send() {
	c.conn.Write(c.request)
	c.timer = c.conn.AfterFunc(c.pause, c.send)
	c.pause = min(2*c.pause, 2*time.Second)
}

func (c *client) stop() {
	c.timer.Stop()
	c.request = nil
}

// HandleDatagram takes the answer to the request that is under way.
func (c *client) HandleDatagram(_ *udp.Conn, d udp.Datagram) {
	number, value, err := parse(d.Payload)
	if err != nil || c.request == nil || number != c.number {
		return
	}
	c.stop()
	c.answer <- value
}
