package udp

import (
	"math"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	receiveBuffer = bufferKind{"receive", "net.core.rmem_max", unix.SO_RCVBUF, unix.SO_RCVBUFFORCE}
	sendBuffer    = bufferKind{"send", "net.core.wmem_max", unix.SO_SNDBUF, unix.SO_SNDBUFFORCE}
)

// bufferSize returns the size that the buffer has, in bytes as the kernel
// counts them: its own data included, for which it doubles what it is asked
// for (socket(7)).
func bufferSize(raw syscall.RawConn, kind bufferKind) (size int) {
	raw.Control(func(fd uintptr) {
		size, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, kind.option)
	})
	return size
}

// grantedSize returns how much of what was asked for the buffer has. Up to
// the limit the kernel gives it to everyone, without a word about the rest;
// past it to those who may (CAP_NET_ADMIN).
func grantedSize(raw syscall.RawConn, kind bufferKind, asked int) int {
	if size := bufferSize(raw, kind) / 2; size == 0 || size >= asked {
		return asked
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, kind.force, min(asked, math.MaxInt32))
	})
	return bufferSize(raw, kind) / 2
}

// dropCount follows the kernel's count of what the socket dropped. The
// goroutine asks for it now and then, so all but the first time costs no
// allocation.
type dropCount struct {
	counter
	raw syscall.RawConn
	ask func(fd uintptr) // n.askKernel, made at the first use
	now uint32           // the answer, under the mutex of counter
	ok  bool
}

// start takes what a socket has dropped so far for nothing, which a fresh one
// need not be asked for.
func (n *dropCount) start(s *udpSocket, fresh bool) {
	n.raw = s.raw
	if !fresh {
		n.last, _ = n.drops()
	}
}

func (n *dropCount) read(*udpSocket) uint64 { return n.advance(n.drops) }

func (n *dropCount) drops() (now uint32, ok bool) {
	if n.ok = false; n.ask == nil {
		n.ask = n.askKernel
	}
	n.raw.Control(n.ask)
	return n.now, n.ok
}

// queued reads SK_MEMINFO_RMEM_ALLOC.
func (s *udpSocket) queued() (bytes uint64) {
	s.raw.Control(func(fd uintptr) {
		if info, ok := memInfo(fd, unix.SK_MEMINFO_RMEM_ALLOC); ok {
			bytes = uint64(info)
		}
	})
	return bytes
}

// askKernel reads SK_MEMINFO_DROPS: the datagrams that did not fit into the
// receive buffer, modulo 2^32.
func (n *dropCount) askKernel(fd uintptr) { n.now, n.ok = memInfo(fd, unix.SK_MEMINFO_DROPS) }

// memInfo reads one of the counts of SO_MEMINFO (socket(7)).
func memInfo(fd uintptr, index int) (count uint32, ok bool) {
	var info [16]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	return info[index], errno == 0 && size >= uint32(index+1)*4
}
