// Command discover finds the others that run it: on this host, or with -lan on
// every network that the host is on.
//
// It shows JoinAll, which follows interfaces as they come and go; answers by
// Reply to the one who asked; and a goodbye in HandleStop, before Shutdown
// closes the socket. By default all stays on the loopback interface.
//
//	go run ./examples/discover -lan -name kitchen
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/udp"
)

var group = netip.MustParseAddrPort("239.255.77.77:7777")

func main() {
	n := &node{out: os.Stdout}
	flag.StringVar(&n.name, "name", fmt.Sprintf("process-%d", os.Getpid()), "`name` to be found by")
	lan := flag.Bool("lan", false, "find others on the networks of this host, not on it alone")
	every := flag.Duration("every", 5*time.Second, "how often to announce; who is silent for three times as long is gone")
	flag.Parse()
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if err := n.run(ctx, udp.ListenConfig{Network: "udp4"}, *lan, *every); err != nil {
		log.Fatalln("discover:", err)
	}
}

// A node announces itself, and knows the others. It says "hello NAME" when it
// starts, "here NAME" to answer that and from time to time, and "bye NAME".
type node struct {
	name   string
	out    io.Writer
	member *udp.Conn // on the group's port, which several programs on a host may share
	mu     sync.Mutex
	peers  map[string]time.Time // when they were heard last
}

func (n *node) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	verb, name, _ := strings.Cut(string(d.Payload), " ")
	n.mu.Lock()
	defer n.mu.Unlock()
	_, known := n.peers[name]
	switch {
	case name == "" || name == n.name: // what it sends comes back too
	case verb == "bye" && known:
		delete(n.peers, name)
		fmt.Fprintf(n.out, "%q says goodbye\n", name)
	case (verb == "hello" || verb == "here") && (known || len(n.peers) < 1000): // anybody can make up names
		n.peers[name] = time.Now()
		if !known {
			fmt.Fprintf(n.out, "%q is at %v\n", name, d.Addr.Addr())
		}
		if verb == "hello" {
			c.Reply(d, []byte("here "+n.name))
		}
	}
}

// forget drops peers that have been silent.
func (n *node) forget(since time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, heard := range n.peers {
		if heard.Before(since) {
			delete(n.peers, name)
			fmt.Fprintf(n.out, "%q has fallen silent\n", name)
		}
	}
}

// A speaker is the Handler of the Conn that a node sends by. It has a port of
// its own, as answers to the group's would reach one program on a host only.
type speaker struct{ *node }

func (s speaker) HandleStop(c *udp.Conn, err error) { s.announce(c, "bye") }

// announce sends a message to the group, by each interface where it is joined.
func (n *node) announce(c *udp.Conn, verb string) {
	var ds []udp.Datagram
	for _, g := range n.member.Groups() {
		d := udp.Datagram{Payload: []byte(verb + " " + n.name), Addr: group}
		if g.Interface != nil {
			d.Interface = g.Interface.Index
		}
		ds = append(ds, d)
	}
	if _, err := c.WriteBatch(ds); err != nil {
		fmt.Fprintln(n.out, "not announced everywhere:", err)
	}
}

func (n *node) run(ctx context.Context, lc udp.ListenConfig, lan bool, every time.Duration) (err error) {
	n.peers = make(map[string]time.Time)
	if n.member, err = lc.ListenMulticast(ctx, fmt.Sprintf(":%d", group.Port()), n); err != nil {
		return err
	}
	defer n.member.Close()
	from := ":0"
	if lan {
		err = n.member.JoinAll(group.Addr())
	} else {
		from, err = "127.0.0.1:0", n.joinLoopback()
	}
	if err != nil {
		return err
	}
	c, err := lc.Listen(ctx, from, speaker{n})
	if err != nil {
		return err
	}
	fmt.Fprintf(n.out, "%q is looking for others\n", n.name)
	n.announce(c, "hello")
	for tick := time.Tick(every); ; {
		select {
		case <-tick:
			n.announce(c, "here")
			n.forget(time.Now().Add(-3 * every))
		case <-ctx.Done():
			stop, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return c.Shutdown(stop)
		}
	}
}

func (n *node) joinLoopback() error {
	ifis, err := net.Interfaces()
	for _, ifi := range ifis {
		if ifi.Flags&net.FlagLoopback != 0 {
			return n.member.Join(udp.Group{Addr: group.Addr(), Interface: &ifi})
		}
	}
	return errors.Join(errors.New("no loopback interface"), err)
}
