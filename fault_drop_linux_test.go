package udp_test

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"example.com/udp"
	"golang.org/x/sys/unix"
)

// TestDropped blocks the handler under more than the buffer holds: what was
// sent is what it gets and what is counted, to the datagram.
func TestDropped(t *testing.T) {
	for _, n := range kernelSetups() {
		t.Run(n.name, func(t *testing.T) {
			n.config.ReadBuffer = 50000
			needCounts(t, n)
			for _, size := range []int{0, 700} {
				var open chan struct{}
				entered := make(chan struct{})
				c := n.listen(t, udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) {
					if string(d.Payload) == "block" {
						entered <- struct{}{}
						<-open
					}
				}))
				p := n.peer(t)
				sent := uint64(0)
				for range 2 {
					open = make(chan struct{})
					p.send(t, n.reach(c), "block")
					wait(t, entered)
					for range 400 {
						p.send(t, n.reach(c), text(size))
					}
					sent += 401
					dropped := c.Stats().Dropped
					if dropped == 0 {
						t.Fatal("nothing is dropped while the handler blocks")
					}
					close(open)
					eventually(t, "all is read", func() bool { return c.Stats().ReadDatagrams+dropped >= sent })
					if s := c.Stats(); s.ReadDatagrams+s.Dropped != sent {
						t.Errorf("%d bytes each: %d are sent, %+v", size, sent, s)
					}
				}
				c.Close()
				if s := c.Stats(); s.ReadDatagrams+s.Dropped != sent {
					t.Errorf("after Close: %d are sent, %+v", sent, s)
				}
			}
		})
	}
}

// needCounts skips the test where the system does not say what it drops.
func needCounts(t *testing.T, n setup) {
	t.Helper()
	raw, err := n.listen(t, nil).SyscallConn()
	check(t, err)
	check(t, raw.Control(func(fd uintptr) {
		if _, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MEMINFO); err != nil {
			t.Skipf("SO_MEMINFO: %v: try Linux 4.12 or later, not emulated", err)
		}
	}))
}

// TestBuffers asks for buffers within the limit and past it, with the right
// to exceed it and without: what the system made of it is what it is, and
// less than was asked for is logged with the name of the limit.
func TestBuffers(t *testing.T) {
	probe, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	check(t, err)
	defer unix.Close(probe)
	if err := unix.SetsockoptInt(probe, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<16); err != nil {
		t.Skipf("SO_RCVBUFFORCE: %v: run as root, with CAP_NET_ADMIN", err)
	}
	for _, test := range []struct {
		option     int
		limit      string
		force      bool
		want, past int
	}{
		{unix.SO_RCVBUF, "net.core.rmem_max", true, 1 << 16, 0},
		{unix.SO_SNDBUF, "net.core.wmem_max", true, 1 << 16, 0},
		{unix.SO_RCVBUF, "net.core.rmem_max", true, 0, 1 << 16},
		{unix.SO_SNDBUF, "net.core.wmem_max", true, 0, 1 << 16},
		{unix.SO_RCVBUF, "net.core.rmem_max", false, 0, 1 << 16},
		{unix.SO_SNDBUF, "net.core.wmem_max", false, 0, 1 << 16},
	} {
		b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(test.limit, ".", "/"))
		check(t, err)
		most, err := strconv.Atoi(strings.TrimSpace(string(b)))
		check(t, err)
		asked := test.want
		if test.past != 0 {
			asked = most + test.past
		}
		var log logBuffer
		lc := udp.ListenConfig{Logger: slog.New(slog.NewTextHandler(&log, nil)), ReadBuffer: asked}
		if test.option == unix.SO_SNDBUF {
			lc.ReadBuffer, lc.WriteBuffer = 0, asked
		}
		opened := make(chan *udp.Conn)
		go func() {
			if !test.force {
				// The thread ends with the goroutine.
				runtime.LockOSThread()
				header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				var none [2]unix.CapUserData
				if err := unix.Capset(&header, &none[0]); err != nil {
					t.Error(err)
				}
			}
			c, err := lc.Listen(t.Context(), "127.0.0.1:0", nil)
			if err != nil {
				t.Error(err)
			}
			opened <- c
		}()
		c := wait(t, opened)
		if c == nil {
			return
		}
		closeAtEnd(t, c)
		size := option(t, c, unix.SOL_SOCKET, test.option) / 2
		line := fmt.Sprintf("asked=%d size=%d limit=%s", asked, most, test.limit)
		if clamped := strings.Contains(log.String(), line); clamped != !test.force || (size == asked) != test.force {
			t.Errorf("%+v: the size is %d of %d, and the log says %s", test, size, asked, log.String())
		}
	}
}
