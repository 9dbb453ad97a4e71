//go:build linux && !udpbasic

package udp

import (
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A sendOne is the memory for sending one datagram.
type sendOne struct {
	run     func(fd uintptr)      // op.send, made once
	wait    func(fd uintptr) bool // op.sendOrWait, likewise
	header  unix.Msghdr
	iovec   unix.Iovec
	name    rawName
	control [controlSpace]byte
	errno   syscall.Errno

	changing *sync.RWMutex // the socket's, for wait
}

var sendOnes = sync.Pool{New: func() any {
	op := new(sendOne)
	op.run = op.send
	op.wait = op.sendOrWait
	op.header.Iov = &op.iovec
	op.header.SetIovlen(1)
	return op
}}

// send sends without waiting.
func (op *sendOne) send(fd uintptr) {
	for {
		if op.header.Control == nil {
			// Cheaper than sendmsg, and without a name than with one.
			_, _, op.errno = unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(op.iovec.Base)), uintptr(op.iovec.Len),
				unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(op.header.Name)), uintptr(op.header.Namelen))
		} else {
			_, _, op.errno = unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&op.header)), unix.MSG_DONTWAIT)
		}
		if op.errno != unix.EINTR {
			return
		}
	}
}

func (op *sendOne) sendOrWait(fd uintptr) bool {
	op.changing.RLock()
	defer op.changing.RUnlock()
	op.send(fd)
	return op.errno != unix.EAGAIN
}

// sendNow sends without waiting.
func (op *sendOne) sendNow(s *fastSocket, addr netip.AddrPort, scope int) error {
	s.changing.RLock()
	defer s.changing.RUnlock()
	if peer := s.peer.Load(); peer != nil && *peer == addr {
		op.header.Name, op.header.Namelen = nil, 0 // the kernel has the route already
	} else {
		op.setName(s, addr, scope)
	}
	return s.raw.Control(op.run)
}

func (s *fastSocket) write(d Datagram) error {
	scope, err := s.scope(d.Addr.Addr())
	if err != nil {
		return err
	}
	op := sendOnes.Get().(*sendOne)
	if op.iovec.Base = unsafe.SliceData(d.Payload); len(d.Payload) == 0 {
		op.iovec.Base = nil
	}
	op.iovec.SetLen(len(d.Payload))
	op.header.Control = nil
	if control := s.appendControl(op.control[:0], &d, d.Addr.Addr(), scope); len(control) > 0 {
		op.header.Control = &op.control[0]
		op.header.SetControllen(len(control))
	}
	err = op.sendNow(s, d.Addr, scope)
	if err == nil && s.restoreAfter(op.errno) {
		err = op.sendNow(s, d.Addr, scope)
	}
	if err == nil && op.errno == unix.EAGAIN {
		op.setName(s, d.Addr, scope)
		op.changing = &s.changing
		var deadline time.Time
		err = s.waitToSend(op.wait, &deadline)
	}
	if err == nil && op.errno != 0 {
		err = os.NewSyscallError("sendmsg", op.errno)
	}
	op.iovec.Base = nil // the payload is the caller's
	sendOnes.Put(op)
	return err
}

func (op *sendOne) setName(s *fastSocket, addr netip.AddrPort, scope int) {
	op.header.Name = (*byte)(unsafe.Pointer(&op.name))
	op.header.Namelen = s.encodeName(&op.name, addr, scope)
}
