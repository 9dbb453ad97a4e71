// probe says what package udp can do where it runs, a line for each thing. The
// lines are the same on every run: .ci/run compares them with those in the
// files beside it.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	"example.com/udp"
)

// A handler keeps what it is called with.
type handler struct {
	datagrams chan udp.Datagram
	reports   chan udp.Undelivered
}

func newHandler() handler {
	return handler{make(chan udp.Datagram, 1000), make(chan udp.Undelivered, 1000)}
}

func (h handler) HandleDatagram(_ *udp.Conn, d udp.Datagram)       { h.datagrams <- d.Clone() }
func (h handler) HandleUndelivered(_ *udp.Conn, u udp.Undelivered) { h.reports <- u }

// patience is how long to wait for what may not come at all.
const patience = time.Second

func next[T any](ch chan T) (v T, ok bool) {
	select {
	case v = <-ch:
		return v, true
	case <-time.After(patience):
		return v, false
	}
}

func say(what string, result any) { fmt.Printf("%s: %v\n", what, result) }

// result is err in words that hold no port, no index and no text of a system.
func result(err error) string {
	var errno syscall.Errno
	var address *net.AddrError
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, errors.ErrUnsupported):
		return "unsupported"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.As(err, &errno):
		return fmt.Sprintf("errno %d", errno)
	case errors.As(err, &address):
		return address.Err
	}
	return err.Error()
}

func known(yes bool) string {
	if yes {
		return "known"
	}
	return "unknown"
}

var ctx = context.Background()

func main() {
	for _, at := range []string{"127.0.0.1:0", ":0", "[::1]:0"} {
		if err := unicast(at); err != nil {
			say("listen "+at, result(err))
		}
	}
	anotherAddress()
	for _, g := range []string{"239.255.0.5", "ff02::99"} {
		for _, network := range []string{"udp", "udp4", "udp6"} {
			if network != "udp4" || g[0] != 'f' {
				if network != "udp6" || g[0] == 'f' {
					multicast(network, netip.MustParseAddr(g))
				}
			}
		}
	}
	lc := udp.ListenConfig{ReusePort: true, ReadBuffer: 100000, WriteBuffer: 100000}
	c, err := lc.Listen(ctx, "127.0.0.1:0", nil)
	say("shared port, sizes of buffers", result(err))
	if err == nil {
		c.Close()
	}
	drops()
	memory()
}

func local(c *udp.Conn, at string) netip.AddrPort {
	host := netip.MustParseAddr("127.0.0.1")
	if at[0] == '[' {
		host = netip.MustParseAddr("::1")
	}
	return netip.AddrPortFrom(host, c.LocalAddr().Port())
}

// unicast goes through the life of a socket and one that is connected to it.
func unicast(at string) error {
	server, client := newHandler(), newHandler()
	s, err := udp.Listen(at, server)
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := udp.Dial(ctx, local(s, at).String(), client)
	if err != nil {
		return err
	}
	defer c.Close()
	say("listen "+at, "ok")

	c.Write([]byte("hello"))
	d, ok := next(server.datagrams)
	if !ok {
		return errors.New("no datagram arrives")
	}
	say("  read", fmt.Sprintf("%q, Local %s, Interface %s, TTL %s", d.Payload, known(d.Local.IsValid()), known(d.Interface != 0), known(d.TTL != 0)))
	_, err = s.Reply(d, []byte("back"))
	b, ok := next(client.datagrams)
	say("  reply", fmt.Sprintf("%s, arrives %v", result(err), ok && string(b.Payload) == "back"))

	for _, sizes := range []string{"equal", "different"} {
		ds := make([]udp.Datagram, 100)
		for i := range ds {
			ds[i].Payload = make([]byte, 100)
			if sizes == "different" {
				ds[i].Payload = make([]byte, 100+i*i%7)
			}
		}
		_, err := c.WriteBatch(ds)
		got := 0
		for range ds {
			if _, ok := next(server.datagrams); !ok {
				break
			}
			got++
		}
		say("  batch of 100, "+sizes, fmt.Sprintf("%s, %d arrive", result(err), got))
	}

	s.Close()
	s.Wait()
	c.Write([]byte("nobody"))
	u, ok := next(client.reports)
	say("  refusal, connected", report(u, ok))
	bystander := newHandler()
	o, err := udp.Listen(at, bystander)
	if err != nil {
		return err
	}
	defer o.Close()
	o.WriteTo([]byte("nobody"), local(s, at))
	u, ok = next(bystander.reports)
	say("  refusal, not connected", report(u, ok))

	before := o.LocalAddr()
	say("  connect", result(o.Connect(c.LocalAddr())))
	say("  disconnect", result(o.Disconnect()))
	say("  the same address then", o.LocalAddr() == before)
	c.WriteTo([]byte("again"), local(o, at))
	c.Close()
	again, err := udp.Listen(at, nil)
	if err != nil {
		return err
	}
	defer again.Close()
	again.WriteTo([]byte("again"), local(o, at))
	_, ok = next(bystander.datagrams)
	say("  it reads then", ok)
	shutdown, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	say("  shutdown", result(o.Shutdown(shutdown)))
	return nil
}

func report(u udp.Undelivered, ok bool) string {
	if !ok {
		return "nothing is said"
	}
	return fmt.Sprintf("%s, peer %s", result(u.Err), known(u.Addr.IsValid()))
}

// anotherAddress asks a socket by the second of two addresses.
func anotherAddress() {
	server, client := newHandler(), newHandler()
	s, err := udp.Listen(":0", server)
	if err != nil {
		return
	}
	defer s.Close()
	c, err := udp.Listen("127.0.0.1:0", client)
	if err != nil {
		return
	}
	defer c.Close()
	second := netip.MustParseAddr("127.0.0.2")
	_, err = c.WriteTo([]byte("hello"), netip.AddrPortFrom(second, s.LocalAddr().Port()))
	d, ok := next(server.datagrams)
	if !ok {
		say("asked at 127.0.0.2", "nothing arrives, "+result(err))
		return
	}
	_, err = s.Reply(d, nil)
	b, ok := next(client.datagrams)
	switch {
	case !ok:
		say("asked at 127.0.0.2", "no answer, "+result(err))
	case b.Addr.Addr() == second:
		say("asked at 127.0.0.2", "it answers from there")
	default:
		say("asked at 127.0.0.2", "it answers from another address")
	}
}

// multicast joins a group on the loopback interface, hears itself, and leaves.
func multicast(network string, group netip.Addr) {
	what := fmt.Sprintf("group %v, %s", group, network)
	all, err := net.Interfaces()
	i := slices.IndexFunc(all, func(ifi net.Interface) bool { return ifi.Flags&net.FlagLoopback != 0 })
	if i < 0 {
		say(what, "no loopback interface, "+result(err))
		return
	}
	h, g := newHandler(), udp.Group{Addr: group, Interface: &all[i]}
	lc := udp.ListenConfig{Network: network}
	c, err := lc.ListenMulticast(ctx, ":0", h, g)
	if err != nil {
		say(what+": join", result(err))
		return
	}
	defer c.Close()
	err = c.SetMulticastInterface(&all[i])
	_, errWrite := c.WriteTo([]byte("hello"), netip.AddrPortFrom(group, c.LocalAddr().Port()))
	d, ok := next(h.datagrams)
	say(what, fmt.Sprintf("interface %s, write %s, arrives %v, Local right %v", result(err), result(errWrite), ok, d.Local == group))
	err = c.SetMulticastTTL(3)
	ttl, errGet := c.MulticastTTL()
	say("  TTL", fmt.Sprintf("set %s, get %s, %d", result(err), result(errGet), ttl))
	say("  leave", result(c.Leave(g)))
	c.WriteTo([]byte("hello"), netip.AddrPortFrom(group, c.LocalAddr().Port()))
	_, ok = next(h.datagrams)
	say("  arrives then", ok)
}

// drops sends more than a small buffer holds.
func drops() {
	blocked := make(chan struct{})
	lc := udp.ListenConfig{ReadBuffer: 4096}
	c, err := lc.Listen(ctx, "127.0.0.1:0", udp.HandlerFunc(func(*udp.Conn, udp.Datagram) { <-blocked }))
	if err != nil {
		say("drops", result(err))
		return
	}
	defer c.Close()
	defer close(blocked)
	for range 500 {
		c.WriteTo(make([]byte, 1000), c.LocalAddr())
	}
	for end := time.Now().Add(patience); c.Stats().Dropped == 0 && time.Now().Before(end); {
		runtime.Gosched()
	}
	say("drops counted", c.Stats().Dropped > 0)
}

// memory uses a MemNet.
func memory() {
	var network udp.MemNet
	lc := udp.ListenConfig{PacketListener: &network}
	h := newHandler()
	c, err := lc.Listen(ctx, "10.0.0.1:9", h)
	if err != nil {
		say("MemNet", result(err))
		os.Exit(1)
	}
	defer c.Close()
	c.WriteTo([]byte("hello"), c.LocalAddr())
	_, ok := next(h.datagrams)
	say("MemNet", ok)
}
