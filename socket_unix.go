//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package udp

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// A descriptor is what the system calls of package syscall take.
type descriptor = int

// pendingError takes from the socket the error that its next call would
// return.
func pendingError(raw syscall.RawConn) (errno syscall.Errno) {
	raw.Control(func(fd uintptr) {
		code, _ := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		errno = syscall.Errno(code)
	})
	return errno
}

// isReport reports whether errno, from a read, is the system's word of an
// ICMP message about an earlier datagram. Linux has the most: those of
// icmp_err_convert, and of the like for ICMPv6.
func isReport(errno syscall.Errno) bool {
	switch errno {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EMSGSIZE, unix.EHOSTDOWN,
		unix.EPROTO, unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.EACCES, errHostIsolated:
		return true
	}
	return false
}

// standardErrno is the error number that package syscall has for errno on
// every system.
func standardErrno(errno syscall.Errno) syscall.Errno { return errno }
