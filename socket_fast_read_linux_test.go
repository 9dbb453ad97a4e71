//go:build linux && !udpbasic

package udp

import (
	"bytes"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

// TestReadClasses follows how much a socket asks for: one datagram while they
// come one by one, more when more wait, and one again when that is over.
func TestReadClasses(t *testing.T) {
	const most = len(readClasses) - 1
	s := new(fastSocket)
	read := func(waited bool, n, size int) int {
		s.waited = waited
		s.adapt(n, n*size)
		return s.class
	}
	for range 100 {
		if class := read(true, 1, 100); class != 0 {
			t.Fatalf("class %d for one at a time", class)
		}
	}
	for want := 1; want <= most; want++ {
		if class := read(false, readClasses[want-1], 100); class != want {
			t.Fatalf("class %d after as many as had room, want %d", class, want)
		}
	}
	if class := read(false, readClasses[most], 100); class != most {
		t.Fatalf("class %d after as many as had room in the last", class)
	}
	if class := read(true, 1, 100); class == 0 {
		t.Error("one at once after a single read")
	}
	for range 100 {
		read(true, 1, 100)
	}
	if s.class != 0 {
		t.Errorf("class %d after many reads of one", s.class)
	}
	for range 20 {
		read(false, readClasses[s.class], readBuffer)
	}
	if bytes := readClasses[s.class] * readBuffer; bytes > 2*enoughBytes {
		t.Errorf("class %d for the longest datagrams: %d bytes in a read", s.class, bytes)
	}
}

// TestReadClassesOfConn sees a Conn grow for a flood and shrink after it.
func TestReadClassesOfConn(t *testing.T) {
	const flood, singles = 120, 50
	classes, opened := make(chan int, flood), make(chan struct{})
	entered := make(chan struct{}, flood+singles)
	c, err := Listen("127.0.0.1:0", HandlerFunc(func(c *Conn, d Datagram) {
		entered <- struct{}{}
		<-opened
		classes <- c.sock.(*fastSocket).class
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	defer c.Close()
	send := func() {
		if _, err := c.WriteTo([]byte("hello"), c.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	send()
	<-entered
	for range flood - 1 {
		send()
	}
	close(opened)
	grown := 0
	for range flood {
		grown = max(grown, <-classes)
	}
	if want := len(readClasses) - 1; grown != want {
		t.Errorf("class %d for %d that wait, want %d", grown, flood, want)
	}
	last := 0
	for range singles {
		for start := time.Now(); !bytes.Contains(allStacks(), []byte("[IO wait")); runtime.Gosched() {
			if time.Since(start) > 10*time.Second {
				t.Fatalf("nobody waits for a datagram:\n%s", allStacks())
			}
		}
		send()
		last = <-classes
	}
	if last != 0 {
		t.Errorf("class %d after %d, one by one", last, singles)
	}
}

func allStacks() []byte {
	buf := make([]byte, 1<<20)
	return buf[:runtime.Stack(buf, true)]
}

// TestCut cuts what the kernel has joined, or says that it has.
func TestCut(t *testing.T) {
	for _, test := range []struct {
		size, segment, limit int
		want                 []int // lengths; negative: truncated
	}{
		{0, 0, 10, []int{0}},
		{5, 0, 10, []int{5}},
		{15, 0, 10, []int{-10}},
		{5, -1, 10, []int{5}},
		{5, 5, 10, []int{5}},
		{5, 6, 10, []int{5}},
		{5, 1 << 30, 10, []int{5}},
		{5, 2, 10, []int{2, 2, 1}},
		{6, 2, 10, []int{2, 2, 2}},
		{6, 4, 4, []int{4, 2}},
		{6, 4, 3, []int{-3, 2}},
		{9, 4, 1, []int{-1, -1, 1}},
		{3, 1, 1, []int{1, 1, 1}},
	} {
		payload := make([]byte, test.size, test.size+10)
		for i := range payload {
			payload[i] = byte(i)
		}
		addr := netip.MustParseAddrPort("192.0.2.1:9")
		b := &readBatch{ds: []Datagram{{TTL: 1}, {Payload: payload, Addr: addr, TTL: 7}}}
		b.cut(test.segment, test.limit)
		got := b.ds[1:]
		if len(got) != len(test.want) {
			t.Errorf("%+v: %d datagrams", test, len(got))
			continue
		}
		for i, d := range got {
			size := max(test.want[i], -test.want[i])
			if len(d.Payload) != size || cap(d.Payload) != size || d.Truncated != (test.want[i] < 0) || d.Addr != addr || d.TTL != 7 {
				t.Errorf("%+v: number %d is %+v, with room for %d", test, i, d, cap(d.Payload))
			}
			if size > 0 && d.Payload[0] != byte(i*test.segment) {
				t.Errorf("%+v: number %d begins with byte %d", test, i, d.Payload[0])
			}
		}
	}
}

// TestLongAfterShort has long datagrams wait where many short ones have come
// at a time: no read takes more of them than a brief call may.
func TestLongAfterShort(t *testing.T) {
	const short, long, size = 100, 60, 60_000
	lc := ListenConfig{ReadBuffer: 16 << 20, NoOffload: true}
	entered, opened := make(chan struct{}, 2), make(chan struct{})
	lengths := make(chan int, short+long)
	c, err := lc.Listen(t.Context(), "127.0.0.1:0", BatchHandlerFunc(func(_ *Conn, ds []Datagram) {
		if len(ds) == 1 {
			select {
			case entered <- struct{}{}:
				<-opened
			default:
			}
		}
		n := 0
		for _, d := range ds {
			if len(d.Payload) == size {
				n++
			}
		}
		lengths <- n
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	defer c.Close()
	if bufferSize(c.sock.(*fastSocket).raw, receiveBuffer) < 2*long*(size+5000) {
		t.Skip("the receive buffer is too small: try root, or sysctl net.core.rmem_max=16777216")
	}
	send := func(count, size int) {
		for range count {
			if _, err := c.WriteTo(make([]byte, size), c.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(1, 1)
	<-entered
	send(short, 1)
	send(long, size)
	close(opened)
	for left := long; left > 0; {
		n := <-lengths
		if left -= n; n > briefMessages {
			t.Errorf("a read has %d long datagrams, more than %d", n, briefMessages)
		}
	}
}
