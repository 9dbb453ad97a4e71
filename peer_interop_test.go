package udp_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/udp"
)

// These tests run the programs of Twisted's UDP howto, which testdata holds,
// against the same programs written with this package.

// greetings are sent in both directions: an empty datagram, and one that
// exceeds what Twisted reads by default, included.
var greetings = []string{"hello", "", "0", strings.Repeat("long ", 3000)}

func TestInteropEcho(t *testing.T) {
	needTime(t)
	t.Parallel()
	onLoopback(t, "our client", func(t *testing.T, host string) {
		theirs := startTwisted(t, "echo_server.py", "--interface", host)
		server := theirs.address("listening ")
		w := newWitness()
		ours := listenOn(t, host, w)
		for _, s := range greetings {
			if _, err := ours.WriteTo([]byte(s), server); err != nil {
				t.Fatal(err)
			}
			w.wantDatagram(t, s, server)
			theirs.want("received b'%s' from %v", s, ours.LocalAddr())
		}
	})
	onLoopback(t, "our server", func(t *testing.T, host string) {
		ours := listenOn(t, host, echoHandler)
		theirs := startTwisted(t, "echo_client.py", host, portOf(ours), "--interface", host)
		theirs.address("listening ")
		for _, s := range greetings {
			theirs.send(s)
			theirs.want("received b'%s' from %v", s, ours.LocalAddr())
		}
	})
}

// A connectedHelloer is the howto's Helloer: it connects when it starts.
type connectedHelloer struct {
	*witness
	peer netip.AddrPort
}

func (h connectedHelloer) HandleStart(c *udp.Conn) error {
	if err := c.Connect(h.peer); err != nil {
		return err
	}
	_, err := c.Write([]byte("hello"))
	return err
}

func TestInteropHelloer(t *testing.T) {
	needTime(t)
	t.Parallel()
	onLoopback(t, "our client", func(t *testing.T, host string) {
		theirs := startTwisted(t, "echo_server.py", "--interface", host)
		server := theirs.address("listening ")
		h := connectedHelloer{newWitness(), server}
		ours := listenOn(t, host, h)
		h.wantDatagram(t, "hello", server)
		theirs.want("received b'hello' from %v", ours.LocalAddr())
		if got := ours.RemoteAddr(); got != server {
			t.Errorf("RemoteAddr = %v, want %v", got, server)
		}
	})
	onLoopback(t, "our server", func(t *testing.T, host string) {
		ours := listenOn(t, host, echoHandler)
		theirs := startTwisted(t, "helloer.py", host, portOf(ours), "--interface", host)
		theirs.address("listening ")
		theirs.want("now we can only send to host %s port %s", host, portOf(ours))
		theirs.want("received b'hello' from %v", ours.LocalAddr())
	})
	onLoopback(t, "both connected", func(t *testing.T, host string) {
		w := newWitness()
		ours := listenOn(t, host, w)
		theirs := startTwisted(t, "helloer.py", host, portOf(ours), "--interface", host)
		client := theirs.address("listening ")
		w.wantDatagram(t, "hello", client)
		if err := ours.Connect(client); err != nil {
			t.Fatal(err)
		}
		theirs.want("now we can only send to host %s port %s", host, portOf(ours))
		if _, err := ours.Write([]byte("welcome")); err != nil {
			t.Fatal(err)
		}
		theirs.want("received b'welcome' from %v", ours.LocalAddr())
		theirs.send("thanks")
		w.wantDatagram(t, "thanks", client)
	})
}

func TestInteropResolve(t *testing.T) {
	needTime(t)
	t.Parallel()
	const name = "localhost"

	t.Run("our client", func(t *testing.T) {
		theirs := startTwisted(t, "echo_server.py")
		server := theirs.address("listening ")
		named := net.JoinHostPort(name, strconv.Itoa(int(server.Port())))
		resolved, err := udp.Resolve(t.Context(), "udp4", named)
		if err != nil {
			t.Fatal(err)
		}
		if resolved != server {
			t.Fatalf("Resolve(%q) = %v, want %v", named, resolved, server)
		}
		w := newWitness()
		lc := udp.ListenConfig{Network: "udp4"}
		ours, err := lc.Dial(t.Context(), named, w)
		if err != nil {
			t.Fatal(err)
		}
		closeAfter(t, ours)
		if _, err := ours.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		w.wantDatagram(t, "hello", server)
		theirs.want("received b'hello' from %v", ours.LocalAddr())
	})
	t.Run("our server", func(t *testing.T) {
		ip := startTwisted(t, "resolve.py", name).rest("IP of '" + name + "' is ")
		ours := listenOn(t, "127.0.0.1", echoHandler)
		theirs := startTwisted(t, "helloer.py", ip, portOf(ours))
		theirs.address("listening ")
		theirs.want("now we can only send to host %s port %s", ip, portOf(ours))
		theirs.want("received b'hello' from %v", ours.LocalAddr())
	})
}

// A port dies and comes back, first under our client, then under theirs. On
// its default reactor Twisted's would not survive it.
func TestInteropRefused(t *testing.T) {
	needTime(t)
	t.Parallel()
	onLoopback(t, "our client", func(t *testing.T, host string) {
		theirs := startTwisted(t, "echo_server.py", "--interface", host)
		server := theirs.address("listening ")
		w := newWitness()
		ours, err := udp.Dial(t.Context(), server.String(), w)
		if err != nil {
			t.Fatal(err)
		}
		closeAfter(t, ours)
		theirs.end()

		if _, err := ours.Write([]byte("anyone?")); err != nil {
			t.Fatal(err)
		}
		u := heard(t, w.undelivered)
		if u.Addr != server || !errors.Is(u.Err, syscall.ECONNREFUSED) {
			t.Errorf("HandleUndelivered got %+v, want %v, %v", u, server, syscall.ECONNREFUSED)
		}

		theirs = startTwisted(t, "echo_server.py",
			"--interface", host, "--port", strconv.Itoa(int(server.Port())))
		theirs.address("listening ")
		if _, err := ours.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		w.wantDatagram(t, "hello", server)
	})
	onLoopback(t, "our server", func(t *testing.T, host string) {
		ours := listenOn(t, host, nil)
		server := ours.LocalAddr()
		closeNow(t, ours)

		theirs := startTwisted(t, "helloer.py", host, portOf(ours),
			"--interface", host, "--reactor", "select")
		client := theirs.address("listening ")
		theirs.want("now we can only send to host %s port %d", host, server.Port())
		theirs.want("No one listening")

		w := newWitness()
		again, err := udp.Listen(server.String(), w)
		if err != nil {
			t.Fatal(err)
		}
		closeAfter(t, again)
		theirs.send("now?")
		w.wantDatagram(t, "now?", client)
		if _, err := again.WriteTo([]byte("yes"), client); err != nil {
			t.Fatal(err)
		}
		theirs.want("received b'yes' from %v", server)
	})
}

// A pinger is the howto's MulticastPingPong.
type pinger struct{ *witness }

func (p pinger) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	if string(d.Payload) == "Client: Ping" {
		if _, err := c.Reply(d, []byte("Server: Pong")); err != nil {
			p.stopped <- err
		}
	}
	p.witness.HandleDatagram(c, d)
}

func TestInteropMulticast(t *testing.T) {
	needTime(t)
	t.Parallel()
	lo := loopbackInterface(t)
	group := netip.MustParseAddr("228.0.0.5")
	ping := []byte("Client: Ping")

	listen := func(t *testing.T, port uint16, h udp.Handler) *udp.Conn {
		t.Helper()
		c, err := udp.ListenMulticast(fmt.Sprintf(":%d", port), h, udp.Group{Addr: group, Interface: lo})
		if err != nil {
			t.Fatal(err)
		}
		closeAfter(t, c)
		if err := c.SetMulticastInterface(lo); err != nil {
			t.Fatal(err)
		}
		return c
	}

	// What leaves a wildcard socket by the loopback interface for a group has
	// a source of the system's choice: only the port is known.
	wantPing := func(t *testing.T, theirs *twisted, ours *udp.Conn) {
		t.Helper()
		from := theirs.address("Datagram b'Client: Ping' received from ")
		if from.Port() != ours.LocalAddr().Port() {
			t.Errorf("theirs has a datagram from %v, want port %s", from, portOf(ours))
		}
	}

	t.Run("our client", func(t *testing.T) {
		theirs := startTwisted(t, "multicast_server.py", group.String())
		server := theirs.address("joined ")
		w := newWitness()
		ours := listen(t, 0, w)
		if _, err := ours.WriteTo(ping, server); err != nil {
			t.Fatal(err)
		}
		wantPing(t, theirs, ours)
		if d := heard(t, w.datagrams); string(d.Payload) != "Server: Pong" || d.Addr.Port() != server.Port() {
			t.Errorf("got %q from %v, want Server: Pong from port %d", d.Payload, d.Addr, server.Port())
		}
	})
	t.Run("our server", func(t *testing.T) {
		p := pinger{newWitness()}
		ours := listen(t, 0, p)
		if err := ours.SetMulticastTTL(5); err != nil {
			t.Fatal(err)
		}
		theirs := startTwisted(t, "multicast_client.py", group.String(), portOf(ours))
		client := theirs.address("joined ")
		d := p.wantDatagram(t, string(ping), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), client.Port()))
		if d.Local != group || d.Interface != lo.Index {
			t.Errorf("Local = %v, Interface = %d; want %v, %d", d.Local, d.Interface, group, lo.Index)
		}
		theirs.want("Datagram b'Server: Pong' received from 127.0.0.1:%s", portOf(ours))
	})
	// As the howto has it: server and client on one host and one port. Both
	// hear the group; which of them gets the answer is the system's choice.
	t.Run("one port", func(t *testing.T) {
		theirs := startTwisted(t, "multicast_server.py", group.String())
		server := theirs.address("joined ")
		w := newWitness()
		ours := listen(t, server.Port(), w)
		if _, err := ours.WriteTo(ping, server); err != nil {
			t.Fatal(err)
		}
		d := heard(t, w.datagrams)
		if string(d.Payload) != string(ping) || d.Local != group {
			t.Errorf("got %q to %v, want %q to %v", d.Payload, d.Local, ping, group)
		}
		wantPing(t, theirs, ours)
	})
}

// failSafe ends a test that hangs. No test waits for it otherwise.
const failSafe = 20 * time.Second

// heard returns what ch brings.
func heard[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-ch:
		if !ok {
			t.Fatal("ended too early")
		}
		return v
	case <-time.After(failSafe):
		t.Fatalf("no %T came", *new(T))
		panic("unreachable")
	}
}

// A witness hands all that its Conn tells it to the test.
type witness struct {
	started     chan *udp.Conn
	datagrams   chan udp.Datagram
	undelivered chan udp.Undelivered
	stopped     chan error
}

func newWitness() *witness {
	return &witness{
		started:     make(chan *udp.Conn, 16),
		datagrams:   make(chan udp.Datagram, 16),
		undelivered: make(chan udp.Undelivered, 16),
		stopped:     make(chan error, 16),
	}
}

func (w *witness) HandleStart(c *udp.Conn) error { w.started <- c; return nil }

func (w *witness) HandleDatagram(_ *udp.Conn, d udp.Datagram) { w.datagrams <- d.Clone() }

func (w *witness) HandleUndelivered(_ *udp.Conn, u udp.Undelivered) { w.undelivered <- u }

func (w *witness) HandleStop(_ *udp.Conn, err error) { w.stopped <- err }

// wantDatagram checks the next datagram.
func (w *witness) wantDatagram(t *testing.T, payload string, from netip.AddrPort) udp.Datagram {
	t.Helper()
	d := heard(t, w.datagrams)
	if string(d.Payload) != payload || d.Addr != from {
		t.Fatalf("got %.80q from %v, want %.80q from %v", d.Payload, d.Addr, payload, from)
	}
	return d
}

// echoHandler is the howto's Echo.
var echoHandler = udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
	c.Reply(d, d.Payload)
})

func listenOn(t *testing.T, host string, h udp.Handler) *udp.Conn {
	t.Helper()
	c, err := udp.Listen(net.JoinHostPort(host, "0"), h)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, c)
	return c
}

func closeAfter(t *testing.T, c *udp.Conn) {
	t.Cleanup(func() {
		c.Close()
		c.Wait()
	})
}

func closeNow(t *testing.T, c *udp.Conn) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
}

// onLoopback runs a test on each loopback address.
func onLoopback(t *testing.T, name string, test func(t *testing.T, host string)) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(name+"/"+host, func(t *testing.T) {
			skipWithout(t, host)
			test(t, host)
		})
	}
}

// skipWithout skips a test where the host has no such address.
func skipWithout(t *testing.T, host string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Skipf("%v: try ip addr add %s dev lo", err, host)
	}
	pc.Close()
}

func portOf(c *udp.Conn) string { return strconv.Itoa(int(c.LocalAddr().Port())) }

func loopbackInterface(t *testing.T) *net.Interface {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, ifi := range all {
		if ifi.Flags&net.FlagLoopback != 0 && ifi.Flags&net.FlagUp != 0 {
			return &ifi
		}
	}
	t.Skip("no loopback interface is up: try ip link set lo up")
	return nil
}

// A twisted is a running program of testdata.
type twisted struct {
	t       *testing.T
	program string
	cmd     *exec.Cmd
	input   io.WriteCloser
	lines   chan string
	ended   bool
}

// python finds an interpreter that has Twisted; not every python3 of a host
// sees the packages of its system.
var python = sync.OnceValue(func() string {
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(name, "-c", "import twisted.internet.udp").Run() == nil {
			return name
		}
	}
	return ""
})

// startTwisted starts a program, which ends with the test at the latest.
func startTwisted(t *testing.T, program string, args ...string) *twisted {
	t.Helper()
	if python() == "" {
		t.Skip("Twisted is missing: try apt-get install python3-twisted")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*failSafe)
	t.Cleanup(cancel)
	args = append([]string{"-B", filepath.Join("testdata", program)}, args...)
	cmd := exec.CommandContext(ctx, python(), args...)
	cmd.Stderr = new(bytes.Buffer)
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &twisted{t: t, program: program, cmd: cmd, input: input, lines: make(chan string)}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(output); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(p.end)
	return p
}

// end closes the program's input and waits for it.
func (p *twisted) end() {
	p.t.Helper()
	if p.ended {
		return
	}
	p.ended = true
	p.input.Close()
	for range p.lines { // until it has closed its output: Wait would cut that short
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("%s: %v\n%s", p.program, err, p.cmd.Stderr)
	}
}

// send has the program send a datagram.
func (p *twisted) send(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.input, line+"\n"); err != nil {
		p.t.Fatalf("%s: %v", p.program, err)
	}
}

// want checks the next line that the program prints.
func (p *twisted) want(format string, args ...any) {
	p.t.Helper()
	if got, want := heard(p.t, p.lines), fmt.Sprintf(format, args...); got != want {
		p.t.Fatalf("%s: %.200q, want %.200q", p.program, got, want)
	}
}

// rest returns what follows prefix in the next line.
func (p *twisted) rest(prefix string) string {
	p.t.Helper()
	line := heard(p.t, p.lines)
	rest, ok := strings.CutPrefix(line, prefix)
	if !ok {
		p.t.Fatalf("%s: %.200q, want %q and more", p.program, line, prefix)
	}
	return rest
}

// address returns the address that follows prefix in the next line.
func (p *twisted) address(prefix string) netip.AddrPort {
	p.t.Helper()
	addr, err := netip.ParseAddrPort(p.rest(prefix))
	if err != nil {
		p.t.Fatalf("%s: %v", p.program, err)
	}
	return addr
}
