//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The load is made with system calls by hand, on one locked thread, so that it
// costs as little as it can. The calls are raw: nothing else runs in this
// process that would need the thread meanwhile.

const (
	echoSize = 64                     // bytes of payload of the echo rows
	stale    = 200 * time.Millisecond // an echo that takes longer is lost
	wait     = 20 * time.Millisecond  // for one system call, at most
)

type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// dial returns a socket that is connected to the port on loopback.
func dial(port, flags int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|flags, 0)
	if err != nil {
		return -1, err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bufferSize)
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, bufferSize)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: loopback.As4(), Port: port}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func msg(call uintptr, fd int, ms []mmsghdr, flags int) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&ms[0])), uintptr(len(ms)), uintptr(flags), 0, 0)
	return int(n), e
}

// segmentControl is the control message that has the kernel cut a message
// into datagrams of that length.
func segmentControl(length uint16) []byte {
	b := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], length)
	return b
}

// segmentLength returns what the kernel says a message it has coalesced is to
// be cut into; 0: it is one datagram.
func segmentLength(control []byte) int {
	if len(control) < unix.CmsgLen(4) {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if h.Level != unix.SOL_UDP || h.Type != unix.UDP_GRO {
		return 0
	}
	return int(binary.NativeEndian.Uint32(control[unix.CmsgLen(0):]))
}

// An echoLoad keeps a window of datagrams in flight on each of its flows, and
// checks every echo, byte by byte.
type echoLoad struct {
	flows   []*flow
	epoll   int
	load    load
	out, in []mmsghdr
	control []byte // for segmentation
	events  []unix.EpollEvent
	serial  uint64
	now     time.Time

	verified, lost uint64
}

type flow struct {
	fd, index int
	slots     []slot
}

// A slot is a place in a flow's window.
type slot struct {
	payload [echoSize]byte
	serial  uint64 // of the datagram in flight
	flying  bool
	sent    time.Time
}

func newEchoLoad(port int, how load) (*echoLoad, error) {
	epoll, err := unix.EpollCreate1(0)
	if err != nil {
		return nil, err
	}
	l := &echoLoad{
		epoll: epoll, load: how, control: segmentControl(echoSize),
		out: make([]mmsghdr, how.window), in: make([]mmsghdr, how.window), events: make([]unix.EpollEvent, how.flows),
	}
	iovs, outIovs := make([]unix.Iovec, how.window), make([]unix.Iovec, how.window)
	for i := range l.in {
		room := make([]byte, 64*echoSize)
		iovs[i].Base = &room[0]
		iovs[i].SetLen(len(room))
		control := make([]byte, 64)
		l.in[i].hdr = unix.Msghdr{Iov: &iovs[i], Iovlen: 1, Control: &control[0]}
		l.out[i].hdr = unix.Msghdr{Iov: &outIovs[i], Iovlen: 1}
		outIovs[i].SetLen(echoSize)
	}
	for i := range how.flows {
		fd, err := dial(port, unix.SOCK_NONBLOCK)
		if err != nil {
			l.close()
			return nil, err
		}
		l.flows = append(l.flows, &flow{fd: fd, index: i, slots: make([]slot, how.window)})
		if how.offload {
			err = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1)
		}
		if err := errors.Join(err, unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)})); err != nil {
			l.close()
			return nil, err
		}
	}
	return l, nil
}

func (l *echoLoad) close() {
	for _, f := range l.flows {
		unix.Close(f.fd)
	}
	unix.Close(l.epoll)
}

// run makes load for that long and returns how many echoes came back.
func (l *echoLoad) run(d time.Duration) (uint64, error) {
	before := l.verified
	l.now = time.Now()
	end, sweep := l.now.Add(d), l.now
	for l.now.Before(end) {
		if !l.now.Before(sweep) { // the first time too: this starts the flows
			l.sweep()
			sweep = l.now.Add(stale / 4)
		}
		n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events[0])),
			uintptr(len(l.events)), uintptr(wait.Milliseconds()), 0, 0)
		if e != 0 && e != unix.EINTR {
			return 0, e
		}
		l.now = time.Now()
		if e != 0 {
			continue
		}
		// Everything is read before anything is sent, so that datagrams come
		// in bursts, as from a network card. Were each flow answered at once,
		// a server that is faster than this load would be kept in step with
		// it, and read what one flow had just sent, however much is in flight.
		ready := l.events[:n]
		for i := range ready {
			if err := l.read(l.flows[ready[i].Fd]); err != nil {
				return 0, err
			}
		}
		l.fill(len(ready), func(i int) *flow { return l.flows[ready[i].Fd] })
	}
	return l.verified - before, nil
}

// sweep gives up what is in flight for too long, and fills the windows.
func (l *echoLoad) sweep() {
	for _, f := range l.flows {
		for i := range f.slots {
			if s := &f.slots[i]; s.flying && l.now.Sub(s.sent) > stale {
				s.flying = false
				l.lost++
			}
		}
	}
	l.fill(len(l.flows), func(i int) *flow { return l.flows[i] })
}

func (l *echoLoad) read(f *flow) error {
	for i := range l.in {
		h := &l.in[i].hdr
		h.Flags = 0
		h.SetControllen(64)
	}
	n, e := msg(unix.SYS_RECVMMSG, f.fd, l.in, unix.MSG_DONTWAIT)
	if e == unix.EAGAIN || e == unix.EINTR {
		return nil
	}
	if e != 0 {
		return fmt.Errorf("the server does not answer: %w", e)
	}
	for i := range l.in[:n] {
		m := &l.in[i]
		b := unsafe.Slice(m.hdr.Iov.Base, m.n)
		length := len(b)
		if k := segmentLength(unsafe.Slice(m.hdr.Control, m.hdr.Controllen)); k > 0 {
			length = k
		}
		for {
			k := min(len(b), length)
			if err := l.verify(f, b[:k]); err != nil {
				return err
			}
			if b = b[k:]; len(b) == 0 {
				break
			}
		}
	}
	return nil
}

func (l *echoLoad) verify(f *flow, b []byte) error {
	var want [echoSize]byte
	if len(b) == echoSize {
		fillPayload(&want, binary.NativeEndian.Uint64(b))
	}
	if !bytes.Equal(b, want[:]) {
		return fmt.Errorf("wrong echo of %d bytes: %x", len(b), b)
	}
	serial := binary.NativeEndian.Uint64(b)
	if int(serial/uint64(len(f.slots))%uint64(len(l.flows))) != f.index {
		return errors.New("an echo came to another flow than its own")
	}
	s := &f.slots[serial%uint64(len(f.slots))]
	if !s.flying || s.serial != serial {
		return nil // late, or twice
	}
	s.flying = false
	l.verified++
	return nil
}

// fill sends what the windows of n flows have room for: all of one flow, then
// all of the next, or, if they are to be mixed, one of each in turn.
func (l *echoLoad) fill(n int, flow func(i int) *flow) {
	turns, each := 1, l.load.window
	if l.load.mixed {
		turns, each = each, 1
	}
	for range turns {
		for i := range n {
			l.fillFlow(flow(i), each)
		}
	}
}

// fillFlow sends what the flow's window has room for, but not more than limit.
// What the kernel does not take is tried again by the next sweep.
func (l *echoLoad) fillFlow(f *flow, limit int) {
	if l.load.offload && slices.ContainsFunc(f.slots, func(s slot) bool { return s.flying }) {
		return
	}
	n := 0
	for i := range f.slots {
		s := &f.slots[i]
		if s.flying || n == limit {
			continue
		}
		l.serial++
		s.serial = (l.serial*uint64(len(l.flows))+uint64(f.index))*uint64(len(f.slots)) + uint64(i)
		s.flying, s.sent = true, l.now
		fillPayload(&s.payload, s.serial)
		l.out[n].hdr.Iov.Base = &s.payload[0]
		n++
	}
	switch {
	case n == 0:
	case l.load.offload && n > 1:
		h := unix.Msghdr{Iov: l.out[0].hdr.Iov, Control: &l.control[0]}
		h.SetIovlen(n)
		h.SetControllen(len(l.control))
		unix.RawSyscall(unix.SYS_SENDMSG, uintptr(f.fd), uintptr(unsafe.Pointer(&h)), 0)
	default:
		msg(unix.SYS_SENDMMSG, f.fd, l.out[:n], 0)
	}
}

// fillPayload writes what belongs to the serial number, which comes first.
func fillPayload(b *[echoSize]byte, serial uint64) {
	for i := uint64(0); i < echoSize/8; i++ {
		binary.NativeEndian.PutUint64(b[8*i:], serial*(2*i*0x9e3779b97f4a7c15+1))
	}
}

// pingPong sends a datagram, waits for its echo, and so on, and returns how
// long each took.
func pingPong(fd int, d time.Duration) ([]time.Duration, error) {
	tv := unix.NsecToTimeval(wait.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return nil, err
	}
	var out [echoSize]byte
	times := make([]time.Duration, 0, 1<<20)
	start := time.Now()
	for now, end := start, start.Add(d); now.Before(end) && len(times) < cap(times); {
		fillPayload(&out, uint64(now.UnixNano()))
		unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&out)), echoSize, 0, 0, 0)
		ok, err := await(fd, &out, now.Add(stale))
		if err != nil {
			return nil, err
		}
		t := time.Now()
		if ok {
			times = append(times, t.Sub(now))
		}
		now = t
	}
	if len(times) == 0 {
		return nil, errors.New("not one round trip")
	}
	return times, nil
}

// await returns whether the echo came in time. One of an earlier datagram,
// that was given up, is passed over.
func await(fd int, out *[echoSize]byte, deadline time.Time) (bool, error) {
	var in, want [echoSize]byte
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&in)), echoSize, 0, 0, 0)
		switch {
		case e == unix.EAGAIN || e == unix.EINTR: // a signal of the runtime's, that wants this thread
			if time.Now().After(deadline) {
				return false, nil
			}
			runtime.Gosched()
			continue
		case e != 0:
			return false, e
		}
		fillPayload(&want, binary.NativeEndian.Uint64(in[:]))
		if n != echoSize || in != want {
			return false, fmt.Errorf("wrong echo of %d bytes: %x", n, in)
		}
		if in == *out {
			return true, nil
		}
	}
}

// flood sends segmented messages of full size datagrams for that long. With
// bursts it pauses after some, for longer than any server takes to read them:
// on the server's core, the server then has them all waiting when it wakes.
func flood(fd int, d time.Duration, bursts bool) error {
	const messages, pause = 32, 5 * time.Millisecond
	b := bytes.Join(payloads(), nil)[:65000/size*size]
	control := segmentControl(size)
	iov := unix.Iovec{Base: &b[0]}
	iov.SetLen(len(b))
	h := unix.Msghdr{Iov: &iov, Iovlen: 1, Control: &control[0]}
	h.SetControllen(len(control))
	for end := time.Now().Add(d); time.Now().Before(end); {
		for range messages {
			if _, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), 0); e != 0 && e != unix.EINTR {
				return e
			}
		}
		if bursts {
			time.Sleep(pause)
		}
	}
	return nil
}

// A sink is what the senders send to: a socket that takes coalesced messages,
// as a network card that segments does, and that nobody reads. Once its
// buffer is full the kernel drops what comes, and tells no sender.
type sink struct{ fd, port int }

func newSink() (*sink, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, err
	}
	s := &sink{fd: fd}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20),
		unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback.As4()}),
	)
	if a, e := unix.Getsockname(fd); e == nil {
		s.port = a.(*unix.SockaddrInet4).Port
	}
	return s, err
}

func (s *sink) close() { unix.Close(s.fd) }

// verify checks what fits into the buffer before it was full.
func (s *sink) verify() error {
	b, control := make([]byte, 65536), make([]byte, 64)
	taken := 0
	for {
		n, k, _, _, err := unix.Recvmsg(s.fd, b, control, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN && taken > 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("nothing came: %w", err)
		}
		taken++
		length := n
		if l := segmentLength(control[:k]); l > 0 {
			length = l
		}
		for p := b[:n]; len(p) > 0; p = p[min(length, len(p)):] {
			if d := p[:min(length, len(p))]; len(d) != size || bytes.Count(d, d[:1]) != size {
				return fmt.Errorf("a wrong datagram of %d bytes came", len(d))
			}
		}
	}
}
