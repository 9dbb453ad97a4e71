//go:build darwin || dragonfly || freebsd || netbsd || openbsd || windows

package udp

import "syscall"

// setBroadcast allows or forbids to send to broadcast addresses.
func setBroadcast(raw syscall.RawConn, on bool) {
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(descriptor(fd), syscall.SOL_SOCKET, syscall.SO_BROADCAST, boolInt(on))
	})
}
