//go:build linux

package udp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/udp"
	"golang.org/x/sys/unix"
)

// A message goes between a test and a peer, which is this test binary run
// again in a namespace: requests one way, one a line; replies and events the
// other.
type message struct {
	Op       string          // of a request; "reply", "datagram" and "log" from a peer
	Conn     int             // which of the peer's Conns, from 1
	Network  string          // listen
	Address  string          // listen
	Shared   bool            // listen: with ListenMulticast
	Handler  string          // listen: "reply" and "batch" answer what comes
	Group    *group          // join and the like
	Int      int             // settings, and numbers in replies
	Datagram *udp.Datagram   // write, and received
	To       *netip.AddrPort // write: by WriteTo, a payload alone
	Groups   []group         // in a reply
	Stats    *udp.Stats      // in a reply
	Text     string          // the line for the Logger, or the interface
	Error    string          // in a reply
	Errno    syscall.Errno
}

// A group is a udp.Group, its interface by name.
type group struct {
	Addr, Source netip.Addr
	Interface    string
}

func (g group) group() (udp.Group, error) {
	out := udp.Group{Addr: g.Addr, Source: g.Source}
	if g.Interface == "" {
		return out, nil
	}
	var err error
	out.Interface, err = net.InterfaceByName(g.Interface)
	return out, err
}

// peerVariable is set in the environment of peers.
const peerVariable = "UDP_TEST_PEER"

// TestPeer is what peers run. It does nothing otherwise.
func TestPeer(t *testing.T) {
	if os.Getenv(peerVariable) == "" {
		return
	}
	p := &peerProcess{out: json.NewEncoder(os.Stdout)}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var m message
		if err := json.Unmarshal(in.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		reply := message{Op: "reply"}
		if err := p.do(m, &reply); err != nil {
			reply.Error = err.Error()
			errors.As(err, &reply.Errno)
		}
		p.say(reply)
	}
	for _, c := range p.conns {
		c.Close()
		c.Wait()
	}
	for _, end := range p.atEnd {
		end()
	}
}

// peerProcess is the peer's side.
type peerProcess struct {
	mu    sync.Mutex
	out   *json.Encoder
	conns []*udp.Conn
	atEnd []func()
}

func (p *peerProcess) say(m message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out.Encode(m)
}

func (p *peerProcess) do(m message, reply *message) (err error) {
	if m.Op == "listen" {
		reply.Conn, err = p.listen(m)
		if err == nil {
			reply.Int = int(p.conns[reply.Conn-1].LocalAddr().Port())
		}
		return err
	}
	if m.Op == "resources" {
		reply.Text, reply.Int = resources()
		return nil
	}
	if m.Op == "capture" {
		return p.capture(m.Text)
	}
	c := p.conns[m.Conn-1]
	var g udp.Group
	if m.Group != nil {
		if g, err = m.Group.group(); err != nil {
			return err
		}
	}
	switch m.Op {
	case "join":
		return c.Join(g)
	case "joinAll":
		return c.JoinAll(g.Addr)
	case "leave":
		return c.Leave(g)
	case "block":
		return c.Block(g)
	case "unblock":
		return c.Unblock(g)
	case "groups":
		for _, g := range c.Groups() {
			out := group{Addr: g.Addr, Source: g.Source}
			if g.Interface != nil {
				out.Interface = g.Interface.Name
			}
			reply.Groups = append(reply.Groups, out)
		}
	case "ttl":
		return c.SetMulticastTTL(m.Int)
	case "loopback":
		return c.SetMulticastLoopback(m.Int != 0)
	case "interface":
		ifi, err := net.InterfaceByName(m.Text)
		if err != nil {
			return err
		}
		return c.SetMulticastInterface(ifi)
	case "allGroups":
		return allGroups(c)
	case "write":
		if m.To != nil {
			_, err := c.WriteTo(m.Datagram.Payload, *m.To)
			return err
		}
		_, err := c.WriteBatch([]udp.Datagram{*m.Datagram})
		return err
	case "stats":
		s := c.Stats()
		reply.Stats = &s
	case "close":
		c.Close()
		return c.Wait()
	default:
		return fmt.Errorf("unknown request %q", m.Op)
	}
	return nil
}

func (p *peerProcess) listen(m message) (id int, err error) {
	h := peerHandler{p, len(p.conns) + 1}
	lc := udp.ListenConfig{Network: m.Network, Broadcast: true, Logger: slog.New(slog.NewTextHandler(h, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))}
	var handler udp.Handler = h
	switch m.Handler {
	case "reply":
		handler = replyHandler{h}
	case "batch":
		handler = batchHandler{h}
	}
	var c *udp.Conn
	if m.Shared {
		c, err = lc.ListenMulticast(context.Background(), m.Address, handler)
	} else {
		c, err = lc.Listen(context.Background(), m.Address, handler)
	}
	if err == nil {
		p.conns = append(p.conns, c)
	}
	return h.id, err
}

// allGroups undoes what keeps the groups of other sockets away, as it is on
// systems without such options.
func allGroups(c *udp.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 1)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 1) // on IPv6 sockets
	}), err)
}

// resources returns the goroutines of Conns, and how many descriptors are
// open.
func resources() (goroutines string, descriptors int) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err.Error(), 0
	}
	stacks := make([]byte, 1<<20)
	for g := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if strings.Contains(g, "example.com/udp.(") {
			goroutines += g + "\n\n"
		}
	}
	return goroutines, len(fds)
}

// peerHandler tells the test of datagrams and log lines.
type peerHandler struct {
	p  *peerProcess
	id int
}

func (h peerHandler) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	h.p.say(message{Op: "datagram", Conn: h.id, Datagram: &d})
}

func (h peerHandler) Write(line []byte) (int, error) {
	h.p.say(message{Op: "log", Conn: h.id, Text: strings.TrimSpace(string(line))})
	return len(line), nil
}

type replyHandler struct{ peerHandler }

func (h replyHandler) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	h.peerHandler.HandleDatagram(c, d)
	if _, err := c.Reply(d, append([]byte("re: "), d.Payload...)); err != nil {
		h.Write([]byte("reply: " + err.Error()))
	}
}

type batchHandler struct{ peerHandler }

func (h batchHandler) HandleBatch(c *udp.Conn, ds []udp.Datagram) {
	for i := range ds {
		h.HandleDatagram(c, ds[i])
		ds[i].Payload = append([]byte("re: "), ds[i].Payload...)
	}
	if _, err := c.WriteBatch(ds); err != nil {
		h.Write([]byte("batch: " + err.Error()))
	}
}

// A peer is the test's side.
type peer struct {
	t       *testing.T
	host    *host
	in      io.WriteCloser
	replies chan message
	mu      sync.Mutex
	events  map[int]*remote
}

// peer starts this test binary in the namespace.
func (h *host) peer() *peer {
	h.t.Helper()
	self := again(h.t, "TestPeer", "-test.timeout=2m")
	cmd := h.command(self[0], self[1:]...)
	cmd.Env = append(os.Environ(), peerVariable+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	p := &peer{t: h.t, host: h, in: in, replies: make(chan message, 1), events: make(map[int]*remote)}
	ended := make(chan string, 1)
	go func() { ended <- p.receive(out) }()
	h.t.Cleanup(func() {
		in.Close()
		last := <-ended
		if err := cmd.Wait(); err != nil {
			h.t.Errorf("peer in %s: %v: %s", h.name, err, last)
		}
	})
	return p
}

// receive sorts what the peer says, until it ends, and returns what it said
// that is no message.
func (p *peer) receive(out io.Reader) (other string) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var m message
		if json.Unmarshal(lines.Bytes(), &m) != nil {
			other += lines.Text() + "\n"
			continue
		}
		switch m.Op {
		case "reply":
			p.replies <- m
		case "datagram":
			p.remote(m.Conn).datagrams <- m
		case "log":
			p.remote(m.Conn).logs <- m.Text
		}
	}
	close(p.replies)
	return other
}

func (p *peer) remote(id int) *remote {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.events[id] == nil {
		p.events[id] = &remote{p: p, id: id, datagrams: make(chan message, 1000), logs: make(chan string, 1000)}
	}
	return p.events[id]
}

// try sends a request and returns the reply, with its error.
func (p *peer) try(m message) (message, error) {
	p.t.Helper()
	b, err := json.Marshal(m)
	if err == nil {
		_, err = p.in.Write(append(b, '\n'))
	}
	if err != nil {
		p.t.Fatalf("peer in %s: %v", p.host.name, err)
	}
	select {
	case reply, ok := <-p.replies:
		if !ok {
			p.t.Fatalf("peer in %s: no reply to %q", p.host.name, m.Op)
		}
		if reply.Error != "" {
			return reply, remoteError{reply.Error, reply.Errno}
		}
		return reply, nil
	case <-time.After(patience):
		p.t.Fatalf("peer in %s: no reply to %q in time", p.host.name, m.Op)
	}
	panic("unreachable")
}

func (p *peer) do(m message) message {
	p.t.Helper()
	reply, err := p.try(m)
	if err != nil {
		p.t.Fatalf("%s: %v", m.Op, err)
	}
	return reply
}

// remoteError is an error that a Conn of a peer returned.
type remoteError struct {
	text  string
	errno syscall.Errno
}

func (e remoteError) Error() string { return e.text }
func (e remoteError) Unwrap() error { return e.errno }

// A remote is a Conn of a peer.
type remote struct {
	p         *peer
	id        int
	port      uint16
	datagrams chan message
	logs      chan string
}

// listen opens a Conn in the peer. The answering handlers are "reply" and
// "batch".
func (p *peer) listen(network, address, handler string) *remote {
	p.t.Helper()
	return p.open(message{Op: "listen", Network: network, Address: address, Handler: handler})
}

func (p *peer) listenMulticast(network, address, handler string) *remote {
	p.t.Helper()
	return p.open(message{Op: "listen", Network: network, Address: address, Handler: handler, Shared: true})
}

func (p *peer) open(m message) *remote {
	p.t.Helper()
	reply := p.do(m)
	r := p.remote(reply.Conn)
	r.port = uint16(reply.Int)
	return r
}

func (r *remote) do(m message) message {
	r.p.t.Helper()
	m.Conn = r.id
	return r.p.do(m)
}

// on asks for something about a group, which is written as
// "group[%interface][<source]".
func (r *remote) on(op, spec string) error {
	r.p.t.Helper()
	spec, source, _ := strings.Cut(spec, "<")
	addr, ifname, _ := strings.Cut(spec, "%")
	g := &group{Addr: netip.MustParseAddr(addr), Interface: ifname}
	if source != "" {
		g.Source = netip.MustParseAddr(source)
	}
	_, err := r.p.try(message{Op: op, Conn: r.id, Group: g})
	return err
}

// must is on for what must work.
func (r *remote) must(op, spec string) {
	r.p.t.Helper()
	if err := r.on(op, spec); err != nil {
		r.p.t.Fatalf("%s %s: %v", op, spec, err)
	}
}

// groups returns what Groups returns, written as for on.
func (r *remote) groups() []string {
	r.p.t.Helper()
	var specs []string
	for _, g := range r.do(message{Op: "groups"}).Groups {
		spec := g.Addr.String()
		if g.Interface != "" {
			spec += "%" + g.Interface
		}
		if g.Source.IsValid() {
			spec += "<" + g.Source.String()
		}
		specs = append(specs, spec)
	}
	return specs
}

// write sends a datagram: by WriteTo, if d has nothing but a payload and an
// address.
func (r *remote) write(d udp.Datagram) {
	r.p.t.Helper()
	m := message{Op: "write", Datagram: &d}
	if !d.Local.IsValid() && d.Interface == 0 {
		m.To = &d.Addr
	}
	r.do(m)
}

func (r *remote) writeTo(payload, addr string) {
	r.p.t.Helper()
	r.write(udp.Datagram{Payload: []byte(payload), Addr: netip.MustParseAddrPort(addr)})
}

// any returns the next datagram that the Conn was handed.
func (r *remote) any() udp.Datagram {
	r.p.t.Helper()
	select {
	case m := <-r.datagrams:
		return *m.Datagram
	case <-time.After(patience):
		r.p.t.Fatalf("%s: waited for a datagram in vain", r.p.host.name)
	}
	panic("unreachable")
}

// next is any for what must have that payload.
func (r *remote) next(payload string) udp.Datagram {
	r.p.t.Helper()
	d := r.any()
	if string(d.Payload) != payload {
		r.p.t.Fatalf("%s: received %q (from %v to %v by %d), want %q", r.p.host.name,
			d.Payload, d.Addr, d.Local, d.Interface, payload)
	}
	return d
}

// log waits until the Conn has told its Logger a line with all of the words,
// for as long as limit, and returns it.
func (r *remote) log(limit time.Duration, words ...string) string {
	r.p.t.Helper()
	end := time.After(limit)
	var others []string
	for {
		select {
		case line := <-r.logs:
			found := true
			for _, word := range words {
				found = found && strings.Contains(line, word)
			}
			if found {
				return line
			}
			others = append(others, line)
		case <-end:
			r.p.t.Fatalf("%s: no log line with %q, only %q", r.p.host.name, words, others)
		}
	}
}
