package udp

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A fakeHost is a socket on a host whose interfaces are what the test says.
type fakeHost struct {
	*memSocket
	changes  chan struct{} // nil: the host does not tell
	watchErr error
	stops    int
	stopped  chan struct{} // if not nil, stopping waits for it

	fakeMu sync.Mutex // guards what follows
	ifis   []net.Interface
	err    error         // of listing them
	fails  map[int]error // of joining on them
	looks  int
}

func (h *fakeHost) interfaces() ([]net.Interface, error) {
	h.fakeMu.Lock()
	defer h.fakeMu.Unlock()
	h.looks++
	return slices.Clone(h.ifis), h.err
}

// looked returns how often the interfaces have been listed.
func (h *fakeHost) looked() int {
	h.fakeMu.Lock()
	defer h.fakeMu.Unlock()
	return h.looks
}

func (h *fakeHost) memberAt(netip.Addr, int) bool        { return false }
func (h *fakeHost) hasAddress(*net.Interface, bool) bool { return false }

func (h *fakeHost) watchInterfaces() (<-chan struct{}, func(), error) {
	return h.changes, func() {
		h.stops++
		if h.stopped != nil {
			<-h.stopped
		}
	}, h.watchErr
}

func (h *fakeHost) join(group, source netip.Addr, index int) error {
	h.fakeMu.Lock()
	defer h.fakeMu.Unlock()
	if err := h.fails[index]; err != nil {
		return err
	}
	return h.memSocket.join(group, source, index)
}

// has changes the interfaces to those with the indexes.
func (h *fakeHost) has(indexes ...int) {
	h.fakeMu.Lock()
	defer h.fakeMu.Unlock()
	h.ifis = nil
	for _, i := range indexes {
		h.ifis = append(h.ifis, net.Interface{Index: i, Name: fmt.Sprintf("eth%d", i), Flags: net.FlagUp | net.FlagMulticast,
			HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, byte(i)}})
	}
}

// change changes the interface of that index.
func (h *fakeHost) change(index int, f func(ifi *net.Interface)) {
	h.fakeMu.Lock()
	defer h.fakeMu.Unlock()
	h.ifis = slices.Clone(h.ifis)
	for i := range h.ifis {
		if h.ifis[i].Index == index {
			f(&h.ifis[i])
		}
	}
}

func (h *fakeHost) rename(index int, name string) {
	h.change(index, func(ifi *net.Interface) { ifi.Name = name })
}

func (h *fakeHost) flags(index int, flags net.Flags) {
	h.change(index, func(ifi *net.Interface) { ifi.Flags = flags })
}

// replace makes the interface another one, of the same index and name.
func (h *fakeHost) replace(index int) {
	h.change(index, func(ifi *net.Interface) {
		ifi.HardwareAddr = slices.Clone(ifi.HardwareAddr)
		ifi.HardwareAddr[1]++
	})
}

// fail makes joining on an interface fail.
func (h *fakeHost) fail(index int, err error) {
	h.fakeMu.Lock()
	defer h.fakeMu.Unlock()
	h.fails[index] = err
}

// failLists makes listing the interfaces fail.
func (h *fakeHost) failLists(err error) {
	h.fakeMu.Lock()
	defer h.fakeMu.Unlock()
	h.err = err
}

var everywhereGroup = netip.MustParseAddr("239.1.2.3")

// onFakeHost runs test in a bubble, with a Conn on a host that has the
// interface 1.
func onFakeHost(t *testing.T, test func(t *testing.T, h *fakeHost, c *Conn, log *bytes.Buffer)) {
	testOnFakeHost(t, nil, test)
}

// testOnFakeHost is onFakeHost with a Handler.
func testOnFakeHost(t *testing.T, handler Handler, test func(t *testing.T, h *fakeHost, c *Conn, log *bytes.Buffer)) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		lc := &ListenConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))}
		pc, err := new(MemNet).ListenPacket(t.Context(), "udp4", ":0")
		if err != nil {
			t.Fatal(err)
		}
		c, err := lc.newConn(pc, "")
		if err != nil {
			t.Fatal(err)
		}
		h := &fakeHost{memSocket: pc.(*memSocket), changes: make(chan struct{}, 1), fails: make(map[int]error)}
		h.has(1)
		c.sock = h
		if c, err = c.start(handler, nil); err != nil {
			t.Fatal(err)
		}
		test(t, h, c, &log)
		c.Close()
		c.Wait()
		if h.stops != 1 && c.all.running {
			t.Errorf("what watches the interfaces was stopped %d times", h.stops)
		}
	})
}

// holds checks on which interfaces the group is joined, by the Conn and by
// the socket.
func holds(t *testing.T, h *fakeHost, c *Conn, want ...int) {
	t.Helper()
	synctest.Wait()
	var got, joined []int
	for _, g := range c.Groups() {
		got = append(got, g.Interface.Index)
	}
	for _, m := range h.members {
		joined = append(joined, m.index)
	}
	if !slices.Equal(got, want) || !slices.Equal(joined, want) {
		t.Errorf("Groups are those on %v, the socket is a member on %v, want %v", got, joined, want)
	}
}

// TestFollowerSettles changes the interfaces in bursts: the Conn acts when
// they have been quiet for a while, or have not for long.
func TestFollowerSettles(t *testing.T) {
	onFakeHost(t, func(t *testing.T, h *fakeHost, c *Conn, log *bytes.Buffer) {
		if err := c.JoinAll(everywhereGroup); err != nil {
			t.Fatal(err)
		}
		holds(t, h, c, 1)
		if settleMost+settleTime > 2*time.Second || pollInterval > 2*time.Second {
			t.Error("JoinAll promises to follow within two seconds")
		}
		looks := h.looked()
		for range 5 {
			h.changes <- struct{}{}
			time.Sleep(settleTime - time.Millisecond)
		}
		h.has(1, 2)
		if more := h.looked() - looks; more != 0 {
			t.Errorf("looked %d times during a burst", more)
		}
		time.Sleep(time.Millisecond)
		holds(t, h, c, 1, 2)

		h.has(2, 3)
		start := time.Now()
		for time.Since(start) < settleMost {
			h.changes <- struct{}{}
			time.Sleep(settleTime / 2)
		}
		holds(t, h, c, 2, 3)

		h.has()
		looks = h.looked()
		time.Sleep(time.Hour)
		if more := h.looked() - looks; more != 0 {
			t.Errorf("looked %d times without being told", more)
		}
		h.changes <- struct{}{}
		time.Sleep(settleTime)
		holds(t, h, c)
		h.has(4)
		h.changes <- struct{}{}
		time.Sleep(settleTime)
		holds(t, h, c, 4)
	})
}

// TestFollowerPolls follows interfaces on a system that does not tell of them,
// or stops to.
func TestFollowerPolls(t *testing.T) {
	for _, test := range []struct {
		name  string
		setUp func(h *fakeHost)
		after func(h *fakeHost)
	}{
		{"never", func(h *fakeHost) { h.changes = nil }, func(*fakeHost) {}},
		{"fails", func(h *fakeHost) { h.changes, h.watchErr = nil, syscall.EPERM }, func(*fakeHost) {}},
		{"stops", func(*fakeHost) {}, func(h *fakeHost) { close(h.changes) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			onFakeHost(t, func(t *testing.T, h *fakeHost, c *Conn, log *bytes.Buffer) {
				test.setUp(h)
				if err := c.JoinAll(everywhereGroup); err != nil {
					t.Fatal(err)
				}
				test.after(h)
				for i := range 4 {
					h.has(i+1, i+2)
					time.Sleep(2 * pollInterval)
					holds(t, h, c, i+1, i+2)
				}
				if got := strings.Contains(log.String(), "operation not permitted"); got != (h.watchErr != nil) {
					t.Errorf("the Logger was told of the failure: %t", got)
				}
			})
		})
	}
}

// TestWaitForFollower holds up what watches the interfaces, at the end: Wait
// waits for it.
func TestWaitForFollower(t *testing.T) {
	onFakeHost(t, func(t *testing.T, h *fakeHost, c *Conn, _ *bytes.Buffer) {
		h.stopped = make(chan struct{})
		if err := c.JoinAll(everywhereGroup); err != nil {
			t.Fatal(err)
		}
		c.Close()
		waited := make(chan struct{})
		go func() {
			c.Wait()
			close(waited)
		}()
		synctest.Wait()
		select {
		case <-waited:
			t.Error("Wait returned before it had ended")
		default:
		}
		close(h.stopped)
		<-waited
	})
}

// TestJoinAllFailures has some interfaces fail, then all.
func TestJoinAllFailures(t *testing.T) {
	onFakeHost(t, func(t *testing.T, h *fakeHost, c *Conn, log *bytes.Buffer) {
		said := func(want int) {
			t.Helper()
			if got := strings.Count(log.String(), "cannot join"); got != want {
				t.Errorf("the Logger was told %d times of failures, want %d:\n%s", got, want, log)
			}
		}
		change := func() {
			h.changes <- struct{}{}
			time.Sleep(settleTime)
			synctest.Wait()
		}
		h.has(1, 2)
		h.fail(2, syscall.EINVAL)
		if err := c.JoinAll(everywhereGroup); err != nil {
			t.Fatalf("JoinAll with one interface that can: %v", err)
		}
		holds(t, h, c, 1)
		change()
		change()
		said(1)
		h.fail(2, syscall.EADDRNOTAVAIL)
		change()
		change()
		said(2)
		h.fail(2, nil)
		change()
		holds(t, h, c, 1, 2)
		said(2)

		other := netip.MustParseAddr("239.1.2.4")
		h.fail(1, syscall.EINVAL)
		h.fail(2, syscall.EINVAL)
		if err := c.JoinAll(other); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("JoinAll where no interface can: %v, want EINVAL", err)
		}
		h.failLists(syscall.EMFILE)
		if err := c.JoinAll(other); !errors.Is(err, syscall.EMFILE) {
			t.Errorf("JoinAll without a list of interfaces: %v, want EMFILE", err)
		}
		h.failLists(nil)
		h.has()
		if err := c.JoinAll(other); err != nil {
			t.Errorf("JoinAll without interfaces: %v", err)
		}
		h.fail(3, nil)
		h.has(3)
		change()
		if got := len(c.Groups()); got != 2 {
			t.Errorf("%d groups on the new interface, want 2", got)
		}
		if err := c.JoinAll(other.WithZone("eth3")); err == nil {
			t.Error("JoinAll takes a zone")
		}
		if err := c.JoinAll(netip.MustParseAddr("192.0.2.1")); err == nil {
			t.Error("JoinAll takes an address that is no group")
		}
	})
}

// TestJoinAllInMemory joins wherever a MemNet delivers.
func TestJoinAllInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lc := &ListenConfig{PacketListener: new(MemNet)}
		var got []string
		c, err := lc.ListenMulticast(t.Context(), ":5000", HandlerFunc(func(_ *Conn, d Datagram) { got = append(got, string(d.Payload)) }))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.JoinAll(everywhereGroup); err != nil {
			t.Fatal(err)
		}
		if err := c.JoinAll(everywhereGroup); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a second JoinAll: %v, want EADDRINUSE", err)
		}
		send := func(payload string, index int) {
			d := Datagram{Payload: []byte(payload), Addr: netip.AddrPortFrom(everywhereGroup, 5000), Interface: index}
			if _, err := c.WriteBatch([]Datagram{d}); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		send("by one", 1)
		send("by seven", 7)
		if err := c.Leave(Group{Addr: everywhereGroup}); err != nil {
			t.Error(err)
		}
		send("left", 1)
		if want := []string{"by one", "by seven"}; !slices.Equal(got, want) {
			t.Errorf("received %q, want %q", got, want)
		}
		c.Close()
		c.Wait()
	})
}

// A groupRecorder is a Handler that keeps what it is told of groups, as text.
type groupRecorder struct{ told []string }

func (r *groupRecorder) HandleDatagram(*Conn, Datagram) {}
func (r *groupRecorder) HandleGroups(_ *Conn, joined, left []Group) {
	r.told = append(r.told, fmt.Sprint("joined ", joined, " left ", left))
}

// expect checks what the handler was told since the last time.
func (r *groupRecorder) expect(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if !slices.Equal(r.told, want) {
		t.Errorf("told %q, want %q", r.told, want)
	}
	r.told = nil
}

// TestHandleGroups tells a handler what JoinAll has joined and left, by one
// call for all that one look at the interfaces has changed.
func TestHandleGroups(t *testing.T) {
	r := new(groupRecorder)
	testOnFakeHost(t, r, func(t *testing.T, h *fakeHost, c *Conn, _ *bytes.Buffer) {
		change := func(indexes ...int) {
			h.has(indexes...)
			h.changes <- struct{}{}
			time.Sleep(settleTime)
		}
		other := netip.MustParseAddr("239.1.2.4")
		h.has()
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		check(c.JoinAll(everywhereGroup))
		r.expect(t)
		change(1, 2)
		r.expect(t, "joined [239.1.2.3 on eth1 239.1.2.3 on eth2] left []")
		check(c.JoinAll(other))
		r.expect(t, "joined [239.1.2.4 on eth1 239.1.2.4 on eth2] left []")
		change(2, 3)
		r.expect(t, "joined [239.1.2.3 on eth3 239.1.2.4 on eth3] left [239.1.2.3 on eth1 239.1.2.4 on eth1]")
		change(2, 3)
		r.expect(t)

		// The name that an interface has is told, of one that has gone its last.
		h.rename(3, "wan")
		h.changes <- struct{}{}
		time.Sleep(settleTime)
		r.expect(t)
		check(c.Leave(Group{Addr: everywhereGroup, Interface: &net.Interface{Index: 2}}))
		check(c.Leave(Group{Addr: other}))
		r.expect(t)
		change()
		r.expect(t, "joined [] left [239.1.2.3 on wan]")

		// What fails is not told.
		h.has(4, 5)
		h.fail(4, syscall.EINVAL)
		h.fail(5, syscall.EINVAL)
		if err := c.JoinAll(other); err == nil {
			t.Error("JoinAll where no interface can: no error")
		}
		r.expect(t)
		h.fail(5, nil)
		check(c.JoinAll(other))
		r.expect(t, "joined [239.1.2.4 on eth5] left []")
	})
}

// TestHandleGroupsAtOnce joins in HandleStart, and panics in HandleGroups.
func TestHandleGroupsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []any
		lc := &ListenConfig{PacketListener: new(MemNet), Recover: func(_ *Conn, v any) { got = append(got, v) }}
		c, err := lc.ListenMulticast(t.Context(), ":5000", panicker{})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		c.Wait()
		if got != nil {
			t.Errorf("called after Close: %v", got)
		}
		if c, err = lc.ListenMulticast(t.Context(), ":5000", panicker{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if want := "[[239.1.2.3]]"; fmt.Sprint(got) != want || c.Stats().Panics != 1 {
			t.Errorf("HandleGroups panicked with %v, want %v; counted %d", got, want, c.Stats().Panics)
		}
		c.Close()
		c.Wait()
	})
}

type panicker struct{}

func (panicker) HandleDatagram(*Conn, Datagram)             {}
func (panicker) HandleStart(c *Conn) error                  { return c.JoinAll(everywhereGroup) }
func (panicker) HandleGroups(_ *Conn, joined, left []Group) { panic(joined) }

// TestJoinAllKnowsInterfaces gives an index to another interface between two
// looks at them. It is joined there, also where Leave named the one before.
func TestJoinAllKnowsInterfaces(t *testing.T) {
	r := new(groupRecorder)
	testOnFakeHost(t, r, func(t *testing.T, h *fakeHost, c *Conn, _ *bytes.Buffer) {
		look := func() {
			h.changes <- struct{}{}
			time.Sleep(settleTime)
		}
		h.has(1, 2)
		if err := c.JoinAll(everywhereGroup); err != nil {
			t.Fatal(err)
		}
		holds(t, h, c, 1, 2)
		r.told = nil
		if err := c.Leave(Group{Addr: everywhereGroup, Interface: &net.Interface{Index: 1}}); err != nil {
			t.Fatal(err)
		}
		look()
		h.rename(1, "left")
		look()
		h.flags(1, 0)
		look()
		h.flags(1, net.FlagUp|net.FlagMulticast)
		look()
		holds(t, h, c, 2)
		h.replace(1)
		look()
		holds(t, h, c, 2, 1)
		r.expect(t, "joined [239.1.2.3 on left] left []")
		h.replace(1)
		if got := len(c.Groups()); got != 1 {
			t.Errorf("%d groups where the interface of one is another now, want 1", got)
		}
		look()
		holds(t, h, c, 2, 1)
		r.expect(t, "joined [239.1.2.3 on left] left [239.1.2.3 on left]")
	})
}

// TestJoinAllBesideSources joins a group for one source on the only interface,
// where it cannot be joined for any.
func TestJoinAllBesideSources(t *testing.T) {
	onFakeHost(t, func(t *testing.T, h *fakeHost, c *Conn, _ *bytes.Buffer) {
		g := Group{Addr: everywhereGroup, Source: netip.MustParseAddr("192.0.2.7"), Interface: &net.Interface{Index: 1}}
		if err := c.Join(g); err != nil {
			t.Fatal(err)
		}
		if err := c.JoinAll(everywhereGroup); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("JoinAll where the group is joined for one source: %v, want EINVAL", err)
		}
		h.has(1, 2)
		if err := c.JoinAll(everywhereGroup); err != nil {
			t.Error(err)
		}
		holds(t, h, c, 1, 2)
	})
}
