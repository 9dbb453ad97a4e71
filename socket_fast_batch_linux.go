//go:build linux && !udpbasic

package udp

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From the smallest to the largest:
//
//   - A datagram is what the caller gave: a payload, and where it is to go.
//   - A run is what stands side by side in a batch, to one peer and from one
//     source.
//   - A flow is all the runs to one peer, in the order of the batch.
//   - A message is what the kernel is given as one: datagrams of a flow from
//     one source, which it cuts apart again if there are several
//     (UDP_SEGMENT of udp(7)). One datagram is never sent in that way: it
//     would gain nothing, and fail where a device cannot segment.
//   - A batch is what one WriteBatch was given. Its messages leave in as few
//     sendmmsg(2) as they fit into.

const (
	// maxSegments and maxSegmented bound one message with UDP_SEGMENT, in
	// datagrams and bytes: UDP_MAX_SEGMENTS as it was until 6.9, and what
	// fits into an IP packet.
	maxSegments  = 64
	maxSegmented = 65000

	// maxMessages bounds a sendmmsg, maxIovecs all its messages together.
	maxMessages = 64
	maxIovecs   = 512

	// briefBytes is how much a sendmmsg may carry and still be brief, as
	// fastSocket means that.
	briefBytes = 128 << 10
)

// A sendBatch is the memory for sending many datagrams: the messages of one
// sendmmsg after the other, and which datagrams go the same way.
type sendBatch struct {
	run  func(fd uintptr)      // b.send, made once
	wait func(fd uintptr) bool // b.sendOrWait, likewise

	headers  [maxMessages]mmsghdr
	names    [maxMessages]rawName
	control  [maxMessages][controlSpace]byte
	messages [maxMessages]message
	iovecs   [maxIovecs]unix.Iovec
	filled   int // messages that are ready
	sent     int // those that the kernel took
	iovs     int // iovecs in use
	bytes    int // of payload in the messages
	errno    syscall.Errno
	single   bool          // one message for each call
	changing *sync.RWMutex // the socket's, for wait

	flows []flow           // in the order of their first datagrams
	runs  []run            // of all flows, in the order of the batch
	table [flowTable]int16 // flows by hash, plus one; zero: none
	mask  uint             // of the slots in use: as few as will do, for the cache
	seed  uint64           // of hash
}

// A message is what goes out as one: the datagrams of a flow from one place
// on, all from one source.
type message struct {
	first   place
	count   int
	segment int // the length of each, but for a shorter last one
	bytes   int
}

// A flow is what of a batch goes to one peer.
type flow struct {
	addr       netip.AddrPort
	scope      int   // the index of the interface that the zone of addr names
	head, tail int16 // its first and last run, by index
	slot       int16 // in the table
}

// A run is what stands side by side in a batch, from one source to one peer:
// the datagrams from first on, as far as end.
type run struct {
	first, end int16
	next       int16 // the next of the same flow; -1: none
}

// A place is that of a datagram in a flow. After the last, run is -1.
type place struct{ run, datagram int16 }

const (
	// maxWindow is how many datagrams are gathered at a time; a longer
	// batch is more than one.
	maxWindow = 1024

	// flowTable is the most slots for flows, a power of two.
	flowTable = 2 * maxWindow
)

var sendBatches = sync.Pool{New: func() any {
	b := &sendBatch{seed: rand.Uint64()}
	b.run = b.send
	b.wait = b.sendOrWait
	return b
}}

// sending is a WriteBatch under way.
type sending struct {
	c    *Conn
	s    *fastSocket
	b    *sendBatch
	ds   []Datagram // the window
	base int        // its place in the batch
	n    int        // datagrams sent

	own      syscall.Errno // why the last that failed did
	deadline time.Time     // of the call; zero: it has not waited yet
	late     error         // not nil: the deadline is over, and nothing is tried any more
	at       int           // the first that failed
	err      error         // and why
}

func (s *fastSocket) writeBatch(c *Conn, ds []Datagram) (n int, err error) {
	if !s.asked.Load() {
		s.askToSegment()
	}
	w := sending{c: c, s: s, b: sendBatches.Get().(*sendBatch)}
	for ; w.base < len(ds); w.base += len(w.ds) {
		w.ds = ds[w.base:min(len(ds), w.base+maxWindow)]
		w.gather()
		for i := range w.b.flows {
			w.pack(&w.b.flows[i])
		}
		w.flush()
		w.b.scatter()
	}
	sendBatches.Put(w.b)
	return w.n, w.err
}

// fail notes that d, which is datagram i of the window, was not sent.
func (w *sending) fail(d *Datagram, i int, addr netip.AddrPort, err error) {
	w.c.stats.writeErrors.Add(1)
	if i += w.base; w.err == nil || i < w.at {
		w.at, w.err = i, w.c.opError(opWrite, addr, w.c.explainWrite(d, err))
	}
}

// gather finds the runs of the window, and the flows that they belong to.
func (w *sending) gather() {
	b := w.b
	b.mask = 2<<bits.Len(uint(len(w.ds)-1)) - 1
	for i, end := 0, 0; i < len(w.ds); i = end {
		d := &w.ds[i]
		for end = i + 1; end < len(w.ds) && d.Addr == w.ds[end].Addr && sameSource(d, &w.ds[end]); end++ {
		}
		scope := 0
		addr, err := w.c.destination(d, true)
		if err == nil {
			scope, err = w.s.scope(addr.Addr())
		}
		if err == nil {
			err = w.late
		}
		if err != nil {
			for ; i < end; i++ {
				w.fail(d, i, addr, err)
			}
			continue
		}
		f, r := w.find(addr, scope), int16(len(b.runs))
		if f.head < 0 {
			f.head = r
		} else {
			b.runs[f.tail].next = r
		}
		f.tail = r
		b.runs = append(b.runs, run{first: int16(i), end: int16(end), next: -1})
	}
}

// find returns the flow to addr, whatever its zone is called there, or a new
// one without runs.
func (w *sending) find(addr netip.AddrPort, scope int) *flow {
	b := w.b
	slot := b.hash(addr)
	for ; b.table[slot] != 0; slot = (slot + 1) & b.mask {
		if f := &b.flows[b.table[slot]-1]; f.scope == scope && (f.addr == addr || scope != 0 && sameButZone(f.addr, addr)) {
			return f
		}
	}
	b.flows = append(b.flows, flow{addr: addr, scope: scope, head: -1, slot: int16(slot)})
	b.table[slot] = int16(len(b.flows))
	return &b.flows[len(b.flows)-1]
}

// hash returns a slot for addr, whatever its zone is called. Without the seed
// nobody can tell which addresses share one.
func (b *sendBatch) hash(addr netip.AddrPort) uint {
	const odd = 0x9E3779B97F4A7C15
	var high, low uint64
	if a := addr.Addr(); a.Is4() { // cheaper than As16
		a4 := a.As4()
		low = uint64(binary.NativeEndian.Uint32(a4[:]))
	} else {
		a16 := a.As16()
		high, low = binary.NativeEndian.Uint64(a16[:8]), binary.NativeEndian.Uint64(a16[8:])
	}
	h, l := bits.Mul64(high^b.seed, low^bits.RotateLeft64(b.seed, 32)^odd)
	h, l = bits.Mul64(h^l^uint64(addr.Port()), odd)
	return uint(h^l^(h^l)>>32) & b.mask
}

// scatter forgets the flows.
func (b *sendBatch) scatter() {
	for i := range b.flows {
		b.table[b.flows[i].slot] = 0
	}
	clear(b.flows)
	b.flows, b.runs = b.flows[:0], b.runs[:0]
}

// after returns the place that follows p in its flow.
func (b *sendBatch) after(p place) place {
	r := &b.runs[p.run]
	if p.datagram++; p.datagram == r.end {
		if p.run = r.next; p.run >= 0 {
			p.datagram = b.runs[p.run].first
		}
	}
	return p
}

// pack makes messages of a flow: one of as many datagrams as can be segments
// of one, which have the same length, but that the last may be shorter.
func (w *sending) pack(f *flow) {
	b := w.b
	longest := w.s.segments.longest(f.addr.Addr())
	known := -1 // the message before, whose name serves for this one; -1: none
	for p := (place{f.head, b.runs[f.head].first}); p.run >= 0; {
		if b.filled == maxMessages || b.iovs+maxSegments > maxIovecs {
			w.flush()
			known = -1
		}
		if w.late != nil {
			for ; p.run >= 0; p = b.after(p) {
				w.fail(&w.ds[p.datagram], int(p.datagram), f.addr, w.late)
			}
			return
		}
		m := &b.messages[b.filled]
		iovs, next := w.fill(m, p, longest)
		w.address(f, m, iovs, known)
		known, p = b.filled, next
		b.iovs += len(iovs)
		b.bytes += m.bytes
		b.filled++
	}
}

// fill makes m the message that begins at p, and returns its payload and what
// comes after it.
func (w *sending) fill(m *message, p place, longest int) (iovs []unix.Iovec, next place) {
	b, d := w.b, &w.ds[p.datagram]
	*m = message{first: p, segment: len(d.Payload)}
	limit := 0
	if m.segment > 0 && m.segment <= longest {
		limit = maxSegmented
	}
	iovs = b.iovecs[b.iovs:b.iovs]
	for {
		size := len(d.Payload)
		iovs = appendPayload(iovs, d.Payload)
		m.count++
		m.bytes += size
		before := p.run
		if p = b.after(p); p.run < 0 || size < m.segment || m.count == maxSegments {
			return iovs, p
		}
		d = &w.ds[p.datagram]
		size = len(d.Payload)
		if size == 0 || size > m.segment || m.bytes+size > limit || p.run != before && !sameSource(&w.ds[m.first.datagram], d) {
			return iovs, p
		}
	}
}

// sameSource reports whether a and b leave from the same place, in the same
// class: the segments of a message do.
func sameSource(a, b *Datagram) bool {
	return a.Local == b.Local && a.Interface == b.Interface && a.TrafficClass == b.TrafficClass
}

// appendPayload appends p, as part of the last one where it follows that in
// memory: the kernel is quicker with fewer.
func appendPayload(iovs []unix.Iovec, p []byte) []unix.Iovec {
	start := unsafe.SliceData(p)
	if n := len(iovs); n > 0 {
		last := &iovs[n-1]
		if uintptr(unsafe.Pointer(last.Base))+uintptr(last.Len) == uintptr(unsafe.Pointer(start)) {
			last.SetLen(int(last.Len) + len(p))
			return iovs
		}
	}
	iov := unix.Iovec{Base: start}
	iov.SetLen(len(p))
	return append(iovs, iov)
}

// address completes the header of the next message. Its name is that of
// message known, if there is one.
func (w *sending) address(f *flow, m *message, iovs []unix.Iovec, known int) {
	b := w.b
	h := &b.headers[b.filled].hdr
	h.Iov = &iovs[0]
	h.SetIovlen(len(iovs))
	if known >= 0 {
		h.Name, h.Namelen = b.headers[known].hdr.Name, b.headers[known].hdr.Namelen
	} else {
		name := &b.names[b.filled]
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(name)), w.s.encodeName(name, f.addr, f.scope)
	}
	d := &w.ds[m.first.datagram]
	control := w.s.appendControl(b.control[b.filled][:0], d, f.addr.Addr(), f.scope)
	if m.count > 1 {
		control = appendSegment(control, m.segment)
	}
	h.Control = nil
	if len(control) > 0 {
		h.Control = &control[0]
	}
	h.SetControllen(len(control))
}

// appendSegment appends the control message that cuts a payload into
// datagrams of so many bytes.
func appendSegment(b []byte, segment int) []byte {
	b, end := appendControlHeader(b, 2, unix.SOL_UDP, unix.UDP_SEGMENT)
	return pad(binary.NativeEndian.AppendUint16(b, uint16(segment)), end)
}

// flush sends the messages that are ready.
func (w *sending) flush() {
	b := w.b
	t := writeTry{} // of the message that failed
	failed := -1    // which that is
	for b.sent = 0; b.sent < b.filled; {
		if failed != b.sent {
			failed, t = b.sent, writeTry{reports: w.c.stats.undelivered.Load(), own: w.own}
		}
		from := b.sent
		err := w.sendSome()
		w.count(from)
		errno := errnoOf(err)
		switch {
		case b.sent > from:
			if b.sent < b.filled {
				w.c.lookForReports() // why it stopped is lost; it may have been one
			}
		case errors.Is(err, os.ErrDeadlineExceeded):
			w.failRest(err)
		case w.refusesBatches(errno):
		case b.messages[from].count > 1 && isReport(errno) && t.errno == 0 && w.c.wasPending(errno, &t):
			// It is tried once more.
		default:
			w.sendEach(b.sent, err, t)
			b.sent++
		}
	}
	clear(b.iovecs[:b.iovs]) // the payloads are the caller's
	b.filled, b.iovs, b.bytes = 0, 0, 0
}

// sendSome makes one system call for the messages that are not sent yet, and
// waits before it while the send buffer is full. It returns why none was sent.
func (w *sending) sendSome() error {
	b := w.b
	b.single = w.s.single.Load()
	err := w.sendNow()
	if err == nil && w.s.restoreAfter(b.errno) {
		err = w.sendNow()
	}
	if err == nil && b.errno == unix.EAGAIN {
		b.changing = &w.s.changing
		err = w.s.waitToSend(b.wait, &w.deadline)
	}
	if err == nil && b.errno != 0 {
		err = os.NewSyscallError("sendmmsg", b.errno)
	}
	return err
}

func (w *sending) sendNow() error {
	w.s.changing.RLock()
	defer w.s.changing.RUnlock()
	return w.s.raw.Control(w.b.run)
}

// refusesBatches reports whether errno says that sendmmsg is refused, by a
// kernel or a sandbox: then each message has a call of its own from now on.
// EPERM is also what a firewall makes of one message, so that it is tried by
// itself first.
func (w *sending) refusesBatches(errno syscall.Errno) bool {
	b := w.b
	if b.single || b.filled-b.sent < 2 || errno != unix.ENOSYS && errno != unix.EPERM {
		return false
	}
	if errno == unix.EPERM {
		from := b.sent
		b.single = true
		if err := w.sendNow(); err != nil || b.errno != 0 {
			return false
		}
		w.count(from)
	}
	w.s.single.Store(true)
	w.c.log(slog.LevelWarn, "udp: sendmmsg is refused; one system call for each message from now on", "error", errno)
	return true
}

// failRest says of all that is not sent yet that there was no more time.
func (w *sending) failRest(err error) {
	for b := w.b; b.sent < b.filled; b.sent++ {
		m := &b.messages[b.sent]
		for p := m.first; m.count > 0; m.count-- {
			w.fail(&w.ds[p.datagram], int(p.datagram), w.ds[p.datagram].Addr, err)
			p = b.after(p)
		}
	}
	w.late = err
}

// send sends without waiting. sendmmsg stops at the first message that fails,
// and says why only if that was its first.
func (b *sendBatch) send(fd uintptr) {
	for {
		var r uintptr
		next := unsafe.Pointer(&b.headers[b.sent])
		switch n := uintptr(b.filled - b.sent); {
		case n == 1 || b.single:
			_, _, b.errno = unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(next), unix.MSG_DONTWAIT)
			r = 1
		case b.bytes <= briefBytes:
			r, _, b.errno = unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(next), n, unix.MSG_DONTWAIT, 0, 0)
		default:
			r, _, b.errno = unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(next), n, unix.MSG_DONTWAIT, 0, 0)
		}
		if b.errno == 0 {
			b.sent += int(r)
		}
		if b.errno != unix.EINTR {
			return
		}
	}
}

func (b *sendBatch) sendOrWait(fd uintptr) bool {
	b.changing.RLock()
	defer b.changing.RUnlock()
	b.send(fd)
	return b.errno != unix.EAGAIN
}

// count counts what a system call sent, from that message on.
func (w *sending) count(from int) {
	if from == w.b.sent {
		return
	}
	n, bytes := 0, 0
	for _, m := range w.b.messages[from:w.b.sent] {
		n += m.count
		bytes += m.bytes
	}
	w.n += n
	w.c.stats.wrote(n, bytes)
}

// sendEach sends the datagrams of a message that failed: those that can be sent
// are, and each that cannot says why.
func (w *sending) sendEach(index int, cause error, t writeTry) {
	m := w.b.messages[index]
	errno := errnoOf(cause)
	sent, p := 0, m.first
	for range m.count {
		d := w.ds[p.datagram]
		addr, err := w.c.destination(&d, true)
		d.Addr = addr
		switch {
		case err != nil:
		case m.count == 1 && errno != unix.ENOSYS && errno != unix.EPERM:
			err = w.c.resend(&d, cause, t)
		default:
			err = w.c.send(&d, w.own) // by another call, which may be allowed
		}
		if err != nil {
			w.own = errnoOf(err)
			w.fail(&d, int(p.datagram), addr, err)
		} else {
			sent++
		}
		p = w.b.after(p)
	}
	w.n += sent
	if m.count == 1 || sent < m.count || errno == 0 || errno == unix.ENOBUFS || errno == unix.ENOMEM {
		return
	}
	peer := w.ds[m.first.datagram].Addr.Addr().Unmap()
	if what := w.s.segments.fail(peer, m.segment, errno); what != "" {
		w.c.log(slog.LevelWarn, "udp: segmentation offload failed: "+what, "error", cause, "peer", peer)
	}
}
