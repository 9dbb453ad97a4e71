//go:build linux && !udpbasic

package udp

import (
	"math"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readClasses are the numbers of messages that a read may ask for. A socket
// begins with one, which is the cheapest call where datagrams come one by one,
// and asks for more when they wait for it.
var readClasses = [...]int{1, 8, 64}

// enoughBytes in one read: more would leave the processor's cache before the
// handler comes to it, and make the call a long one.
const enoughBytes = 256 << 10

// How much a brief call (fastSocket) may read: so many messages, however long
// they are; or as many as it likes, if all that waits takes so many bytes. Long
// datagrams that come after short ones find memory that has never been touched:
// 64 of 64 KB took from 18 to 138 ms to read.
const (
	briefMessages = 16
	briefQueue    = 512 << 10
)

// manySingles is how many reads of one datagram, that had to be waited for,
// make a socket ask for one at a time again.
const manySingles = 16

// slotStride is the distance of buffers. Each holds the longest datagram; the
// rest keeps their beginnings, which is all that short datagrams touch, from
// falling into the same lines of the cache.
const slotStride = readBuffer + 3*64

// A readBatch is the memory for one read: what the kernel writes, and the
// Datagrams made of it. It is borrowed when there is something to read and
// given back when the handler has returned, so that a socket that waits holds
// none. Pages of a buffer that no datagram has reached cost nothing.
type readBatch struct {
	class   int
	headers []mmsghdr
	names   []rawName
	control [][controlSpace]byte
	ds      []Datagram
}

// readBatches are those that no socket has borrowed, by class.
var readBatches [len(readClasses)]sync.Pool

func borrow(class int) *readBatch {
	if b, ok := readBatches[class].Get().(*readBatch); ok {
		return b
	}
	n := readClasses[class]
	b := &readBatch{
		class:   class,
		headers: make([]mmsghdr, n),
		names:   make([]rawName, n),
		control: make([][controlSpace]byte, n),
		ds:      make([]Datagram, 0, n),
	}
	iovecs := make([]unix.Iovec, n)
	buffer := make([]byte, n*slotStride)
	for i := range b.headers {
		iovecs[i].Base = &buffer[i*slotStride]
		iovecs[i].SetLen(readBuffer)
		h := &b.headers[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		h.Control = &b.control[i][0]
		h.Iov = &iovecs[i]
		h.SetIovlen(1)
		b.reset(i)
	}
	return b
}

// giveBack returns b to those that can be borrowed.
func (b *readBatch) giveBack() { readBatches[b.class].Put(b) }

// reset makes message i ready for the kernel, which has written to these
// fields if it has used it.
func (b *readBatch) reset(i int) {
	h := &b.headers[i].hdr
	h.Namelen = unix.SizeofSockaddrInet6
	h.SetControllen(controlSpace)
	h.Flags = 0
}

func (s *fastSocket) read(wait time.Duration) ([]Datagram, error) {
	s.waited, s.err = false, nil
	var err error
	if wait == forever {
		err = s.raw.Read(s.receive)
	} else if err = s.readNow(); err == nil && s.batch == nil && s.err == nil {
		err = os.ErrDeadlineExceeded
	}
	if err == nil {
		err = s.err
	}
	if err != nil {
		s.restoreAfter(errnoOf(err))
		return nil, err
	}
	return s.batch.ds, nil
}

// readNow reads what is there, without waiting.
func (s *fastSocket) readNow() error {
	if s.receiveNow == nil {
		s.receiveNow = func(fd uintptr) { s.receiveOnce(fd) }
	}
	return s.raw.Control(s.receiveNow)
}

func (s *fastSocket) release() {
	if s.batch != nil {
		clear(s.batch.ds) // or it would keep what handlers put there
		s.batch.giveBack()
		s.batch = nil
	}
}

// receiveOnce reads what is there, and reports whether that was anything: a
// batch, or an error.
func (s *fastSocket) receiveOnce(fd uintptr) bool {
	if s.idle {
		// Most sockets have nothing to read when they are new. To find that
		// out without a batch keeps the goroutine's stack as it begins.
		s.idle = false
		_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, 0, 0, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case unix.EAGAIN:
			s.quiet.Store(true)
			return false
		case 0, unix.ENOSYS, unix.EPERM: // the last two: a sandbox refuses the call
		default:
			s.err = os.NewSyscallError("recvmsg", errno) // it is not pending any more
			return true
		}
	}
	b := borrow(s.class)
	n, errno := b.receive(fd)
	if s.class > 0 && (errno == unix.ENOSYS || errno == unix.EPERM) {
		// A sandbox refuses recvmmsg. It has read nothing.
		s.plain, s.class = true, 0
		b.giveBack()
		b = borrow(s.class)
		n, errno = b.receive(fd)
	}
	if errno != 0 {
		b.giveBack()
		if errno == unix.EAGAIN {
			s.mixed.Store(false)
			s.waited = true
			return false
		}
		s.err = os.NewSyscallError("recvmsg", errno)
		return true
	}
	if s.quiet.Load() {
		s.quiet.Store(false)
	}
	s.batch = b
	bytes := s.decode(b, n)
	s.adapt(n, bytes)
	if s.joins && s.class > 0 {
		s.joinDatagrams(fd)
	}
	return true
}

// receive fills b with as many messages as there are, and have room.
func (b *readBatch) receive(fd uintptr) (n int, errno syscall.Errno) {
	for {
		var r uintptr
		if count := uintptr(len(b.headers)); count == 1 {
			r, _, errno = unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&b.headers[0].hdr)), unix.MSG_DONTWAIT)
			b.headers[0].size, n = uint32(r), 1
		} else {
			if count > briefMessages && queued(fd) > briefQueue {
				count = briefMessages
			}
			r, _, errno = unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.headers[0])), count, unix.MSG_DONTWAIT, 0, 0)
			n = int(r)
		}
		if errno != unix.EINTR {
			return n, errno
		}
	}
}

// queued returns how many bytes of memory the receive queue takes (SO_MEMINFO
// of socket(7)), at least as many as it has of payload.
func queued(fd uintptr) uint32 {
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return math.MaxUint32
	}
	return info[unix.SK_MEMINFO_RMEM_ALLOC]
}

// decode makes Datagrams of the n messages in b.
func (s *fastSocket) decode(b *readBatch, n int) (bytes int) {
	b.ds = b.ds[:0]
	for i := range n {
		m := &b.headers[i]
		d := b.next()
		*d = Datagram{Local: s.bound}
		var scope int
		d.Addr, scope = decodeName(&b.names[i])
		segment := parseControl(b.control[i][:m.hdr.Controllen], d)
		s.addZones(d, scope)
		s.markForged(d)
		if s.mixed.Load() {
			s.markForeign(d)
		}
		d.Payload = unsafe.Slice(m.hdr.Iov.Base, int(m.size))
		d.Truncated = m.hdr.Flags&unix.MSG_TRUNC != 0
		bytes += len(d.Payload)
		b.cut(segment, s.max)
		b.reset(i)
	}
	return bytes
}

// next appends a Datagram to b.ds, for the caller to set.
func (b *readBatch) next() *Datagram {
	if len(b.ds) == cap(b.ds) {
		b.ds = slices.Grow(b.ds, 1)
	}
	b.ds = b.ds[:len(b.ds)+1]
	return &b.ds[len(b.ds)-1]
}

// cut makes of the last Datagram those of segment bytes, but for a shorter
// last one, that the kernel has joined in its payload; a segment of zero
// stands for one datagram. None is longer than limit.
func (b *readBatch) cut(segment, limit int) {
	first := len(b.ds) - 1
	payload := b.ds[first].Payload
	if segment <= 0 || segment >= len(payload) {
		b.ds[first].keep(payload, limit)
		return
	}
	b.ds[first].keep(payload[:segment], limit)
	for payload = payload[segment:]; len(payload) > 0; {
		d, end := b.next(), min(segment, len(payload))
		*d = b.ds[first]
		d.Truncated = false
		d.keep(payload[:end], limit)
		payload = payload[end:]
	}
}

// adapt chooses how much to ask for next: more if there was as much as had
// room, and it had been there before; one only after a row of reads that found
// no more than that.
func (s *fastSocket) adapt(n, bytes int) {
	if s.plain {
		return
	}
	if n > 1 || !s.waited {
		s.singles = 0
	} else if s.singles++; s.singles >= manySingles {
		s.class = 0
		return
	}
	switch {
	case n == readClasses[s.class] && (n > 1 || !s.waited) && s.class+1 < len(readClasses) && bytes < enoughBytes/8:
		s.class++
	case bytes > enoughBytes && s.class > 1:
		s.class--
	}
}
