//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package udp

import (
	"errors"
	"net/netip"
	"syscall"
)

// The systems without the calls of BSD sockets: what only those can do is
// errors.ErrUnsupported, or left undone where nobody would notice.

const (
	writeNamesPeer = true
	mappedGroups   = false
)

func connectSocket(_ syscall.RawConn, _, _, _ netip.AddrPort, _ bool) (local, peer netip.AddrPort, err error) {
	return local, peer, errors.ErrUnsupported
}

func disconnectSocket(syscall.RawConn, netip.AddrPort, bool) (local netip.AddrPort, err error) {
	return local, errors.ErrUnsupported
}

func pendingError(syscall.RawConn) syscall.Errno      { return 0 }
func onlyIPv6(syscall.RawConn) bool                   { return false }
func isReport(errno syscall.Errno) bool               { return errno == syscall.ECONNREFUSED } // of a MemNet
func standardErrno(errno syscall.Errno) syscall.Errno { return errno }
func setReusePort(uintptr) error                      { return errors.ErrUnsupported }
func setReuseAddr(uintptr) error                      { return errors.ErrUnsupported }
func ownGroupsOnly(syscall.RawConn, bool)             {}
func appendSource(b []byte, _ netip.Addr) []byte      { return b }
