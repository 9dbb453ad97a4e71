//go:build unix

package udp_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"example.com/udp"
)

// TestInherited makes a Conn of a socket that came as a file, and in which
// datagrams have been waiting: the handler gets them all, and then more.
func TestInherited(t *testing.T) {
	for _, n := range kernelSetups() {
		t.Run(n.name, func(t *testing.T) {
			const waiting = 100
			pc, err := net.ListenPacket("udp", n.bind)
			check(t, err)
			to := netip.AddrPortFrom(n.host, addrPort(pc.LocalAddr()).Port())
			p := n.peer(t)
			for i := range waiting {
				p.send(t, to, fmt.Sprint(i))
			}
			r := record()
			c, err := n.config.NewConn(throughFile(t, pc.(*net.UDPConn)), r)
			check(t, err)
			closeAtEnd(t, c)
			p.send(t, to, fmt.Sprint(waiting))
			for i := range waiting + 1 {
				r.expect(t, fmt.Sprint(i), p.addr)
			}
			check(t, second(c.WriteTo([]byte("answer"), p.addr)))
			p.expect(t, "answer", to)
		})
	}
}

// TestRestart hands the socket of a server from process to process, under
// load: each datagram is answered, once.
func TestRestart(t *testing.T) {
	needTime(t)
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("%v: install Go", err)
	}
	bin := t.TempDir() + "/restart"
	if out, err := exec.Command("go", "build", "-o", bin, "./examples/restart").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	// All processes print to one pipe.
	out, in, err := os.Pipe()
	check(t, err)
	defer out.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := exec.CommandContext(ctx, bin, "-listen", "127.0.0.1:0")
	first.Stdout, first.Stderr = in, in
	check(t, first.Start())
	in.Close()
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()

	const restarts = 3
	var process int // which listens now
	answered, ended := 0, 0
	defer func() {
		if ended <= restarts && process != 0 {
			syscall.Kill(process, syscall.SIGKILL)
		}
	}()
	var to netip.AddrPort
	understand := func(line string) {
		t.Helper()
		var pid, count int
		var address string
		if _, err := fmt.Sscanf(line, "process %d answered %d", &pid, &count); err == nil {
			answered += count
			ended++
		} else if _, err := fmt.Sscanf(line, "process %d listening on %s", &process, &address); err == nil {
			to = netip.MustParseAddrPort(address)
		} else {
			t.Fatalf("it says %q", line)
		}
	}
	signal := func(sig syscall.Signal) {
		t.Helper()
		check(t, syscall.Kill(process, sig))
	}
	understand(wait(t, lines))
	if process != first.Process.Pid {
		t.Fatalf("it is process %d, not %d", process, first.Process.Pid)
	}

	// Between 25 and 50 datagrams are under way all the time.
	answers := make(chan string, 100)
	c, err := udp.Dial(t.Context(), to.String(), udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) { answers <- string(d.Payload) }))
	check(t, err)
	closeAtEnd(t, c)
	asked, open := 0, make(map[string]bool)
	settle := func(most int) {
		t.Helper()
		for len(open) > most {
			answer := wait(t, answers)
			if !open[answer] {
				t.Fatalf("%q is answered again", answer)
			}
			delete(open, answer)
		}
	}
	ask := func() {
		t.Helper()
		for ; len(open) < 50; asked++ {
			open[fmt.Sprint(asked)] = true
			check(t, second(c.Write([]byte(fmt.Sprint(asked)))))
		}
		settle(25)
	}
	for i := range restarts {
		for range 20 {
			ask()
		}
		signal(syscall.SIGHUP)
		for ended <= i {
			ask()
			select {
			case line := <-lines:
				understand(line)
			default:
			}
		}
	}
	settle(0)
	signal(syscall.SIGINT)
	for ended <= restarts {
		understand(wait(t, lines))
	}
	for range lines { // until the last process has ended
		t.Error("there are more lines")
	}
	check(t, first.Wait())
	if s := c.Stats(); answered != asked || s.Undelivered != 0 {
		t.Errorf("%d of %d are answered, %+v", answered, asked, s)
	}
}
