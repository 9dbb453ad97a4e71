package udp_test

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/udp"
	"golang.org/x/sys/unix"
)

// TestSoakFlapping needs root and ip(8): an interface goes down and up, and
// away and back, while Conns send and receive by it, and one has joined a
// group on it. In the end all of them work as at first.
func TestSoakFlapping(t *testing.T) {
	needTime(t)
	t.Parallel()
	f := newFollowed(t, "udp4", "239.1.2.3")
	f.c.must("joinAll", f.group)
	f.joined("eth0")

	echo := udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) { c.Reply(d, d.Payload) })
	lc := udp.ListenConfig{Network: "udp4", ReadBuffer: 4 << 20} // where the last datagram has room
	server := f.b.listen(lc, ":0", echo)
	to := netip.AddrPortFrom(netip.MustParseAddr("10.1.1.2"), server.LocalAddr().Port())
	got := make(chan string, 1)
	var cs []*udp.Conn
	for _, at := range []string{":0", "10.1.1.1:0", ":0"} {
		cs = append(cs, f.a.listen(lc, at, funcs{
			datagram: func(_ *udp.Conn, d udp.Datagram) {
				if string(d.Payload) == "last" {
					got <- "last"
				}
			},
			undelivered: func(_ *udp.Conn, u udp.Undelivered) {
				if u.Addr != to || u.Err != unix.EHOSTUNREACH && u.Err != unix.ENETUNREACH && u.Err != unix.ECONNREFUSED {
					t.Errorf("%+v", u)
				}
			},
		}))
	}
	check(t, cs[2].Connect(to))

	stop := make(chan struct{})
	var done sync.WaitGroup
	for _, c := range cs {
		done.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				_, err := c.WriteBatch(slices.Repeat(batch(to, text(100)), 20))
				for _, reason := range []error{nil, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EINVAL, syscall.ENETDOWN, syscall.ENODEV, syscall.ENOBUFS} {
					if errors.Is(err, reason) {
						err = nil
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	flaps := 0
	for start := time.Now(); flaps < 3 || time.Since(start) < *soak; flaps++ {
		if flaps%3 == 2 {
			f.a.ip("link delete eth0")
			f.left("eth0")
			f.subnet = 0 // the same address again
			f.add("eth0")
			f.joined("eth0")
			continue
		}
		f.a.ip("link set eth0 down")
		f.left("eth0")
		f.a.ip("link set eth0 up")
		f.joined("eth0")
	}
	close(stop)
	done.Wait()
	f.a.ready("eth0")
	f.holds("eth0")
	f.receives("eth0")
	for _, c := range cs {
		check(t, second(c.WriteTo([]byte("last"), to)))
		wait(t, got)
		if s := c.Stats(); s.ReadErrors != 0 {
			t.Errorf("%v: %+v", c, s)
		}
	}
	t.Logf("%d flaps", flaps)
}
