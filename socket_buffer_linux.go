package udp

import (
	"math"
	"syscall"

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
