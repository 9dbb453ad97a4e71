// Command proxy passes datagrams on between clients and a server.
//
// It shows Sessions: each client has one, with a socket of its own towards the
// server, so that the server tells clients apart and its answers find their
// way back. A session ends when its client is silent for a while, or when
// nobody listens at the server. Nothing here needs a lock.
//
//	go run ./examples/echo
//	go run ./examples/proxy -listen 127.0.0.1:9998 -to 127.0.0.1:9999
//	go run ./examples/helloer -server 127.0.0.1:9998
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/udp"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:9998", "`address` to listen on")
	to := flag.String("to", "127.0.0.1:9999", "`address` of the server")
	idle := flag.Duration("idle", time.Minute, "`time` without a datagram after which a client is forgotten")
	flag.Parse()
	if err := run(*listen, *to, *idle); err != nil {
		fmt.Fprintln(os.Stderr, "proxy:", err)
		os.Exit(1)
	}
}

func run(listen, to string, idle time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := newProxy(new(udp.ListenConfig), idle)
	c, err := p.start(ctx, listen, to)
	if err != nil {
		return err
	}
	fmt.Printf("listening on %v, for %v\n", c.LocalAddr(), p.server)
	context.AfterFunc(ctx, func() { c.Close() })
	err = c.Wait()
	fmt.Printf("passed on: %+v\n", c.Stats())
	return err
}

type proxy struct {
	config   *udp.ListenConfig // for a test to bring a network
	server   netip.AddrPort
	sessions udp.Sessions
}

func newProxy(lc *udp.ListenConfig, idle time.Duration) *proxy {
	p := &proxy{config: lc}
	p.sessions = udp.Sessions{Idle: idle, Max: 10000, New: p.newSession} // a socket each: Max is below the limit of open files
	return p
}

// start looks up the server once, so that no session waits for that.
func (p *proxy) start(ctx context.Context, listen, to string) (c *udp.Conn, err error) {
	if p.server, err = udp.Resolve(ctx, "udp", to); err != nil {
		return nil, err
	}
	return p.config.Listen(ctx, listen, &p.sessions)
}

// A session is a client's: it has what comes from the client. Its upstream
// Conn has what comes from the server.
type session struct {
	proxy    *proxy
	client   udp.Datagram // where it is, and the address of ours that it knows
	upstream *udp.Conn
}

var (
	_ udp.StartHandler = (*session)(nil)
	_ udp.StopHandler  = (*session)(nil)
)

func (p *proxy) newSession(c *udp.Conn, d udp.Datagram) udp.Handler {
	d.Payload = nil // it is lent
	return &session{proxy: p, client: d}
}

// HandleStart opens the upstream socket. If that fails, too many files being
// open for instance, the client is refused, and may try again.
func (s *session) HandleStart(front *udp.Conn) (err error) {
	s.upstream, err = s.proxy.config.Dial(context.Background(), s.proxy.server.String(), back{front, s})
	return err
}

// HandleDatagram passes on what comes from the client. What cannot be sent is
// lost, as on any network.
func (s *session) HandleDatagram(_ *udp.Conn, d udp.Datagram) { s.upstream.Write(d.Payload) }

func (s *session) HandleStop(*udp.Conn, error) { s.upstream.Close() }

// back is the Handler of an upstream Conn. It runs in that Conn's goroutine,
// and reads of the session only what does not change.
type back struct {
	front   *udp.Conn
	session *session
}

var _ udp.UndeliveredHandler = back{}

// HandleDatagram passes on what comes from the server, to the client and from
// the address that the client knows. Any goroutine may write.
func (b back) HandleDatagram(_ *udp.Conn, d udp.Datagram) { b.front.Reply(b.session.client, d.Payload) }

// HandleUndelivered ends the session if nobody listens. That is done in the
// goroutine of the sessions.
func (b back) HandleUndelivered(_ *udp.Conn, u udp.Undelivered) {
	if errors.Is(u.Err, syscall.ECONNREFUSED) {
		b.front.Post(func() { b.session.proxy.sessions.End(b.session.client.Addr) })
	}
}
