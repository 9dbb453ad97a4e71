//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package udp

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"
)

// The systems without the calls of BSD sockets: what only those can do is
// errors.ErrUnsupported, or left undone where nobody would notice.

const (
	writeNamesPeer = true
	mappedGroups   = false
)

// Package net cannot connect a socket that listens: the Conn alone keeps to
// its peer, as plainSocket says.

func pendingError(syscall.RawConn) syscall.Errno      { return 0 }
func isReport(errno syscall.Errno) bool               { return errno == syscall.ECONNREFUSED } // of a MemNet
func standardErrno(errno syscall.Errno) syscall.Errno { return errno }
func setReusePort(uintptr) error                      { return errors.ErrUnsupported }
func setReuseAddr(uintptr) error                      { return errors.ErrUnsupported }
func setDualStack(uintptr) error                      { return errors.ErrUnsupported }
func bindInterface(uintptr, int, bool) error          { return errors.ErrUnsupported }
func setBroadcast(syscall.RawConn, bool)              {}
func (*udpSocket) onlyIPv6() bool                     { return false }
func (s *udpSocket) askLocalAddr() netip.AddrPort     { return *s.local.Load() }
func (*udpSocket) leaveShare()                        {}
func routeSource(netip.AddrPort) netip.Addr           { return netip.Addr{} }
func (*udpSocket) restoreAfter(syscall.Errno) bool    { return false }
func (*udpSocket) rememberDevice()                    {}
func appendSource(b []byte, _ netip.Addr) []byte      { return b }

func (s *udpSocket) setInterface(index int) (err error) {
	cerr := s.raw.Control(func(fd uintptr) { err = bindInterface(fd, index, s.is6) })
	return cmp.Or(cerr, err)
}

func (s *udpSocket) connect(peer netip.AddrPort) (netip.AddrPort, error) {
	return peer, s.disconnect()
}

func (s *udpSocket) disconnect() error {
	if s.dialed {
		return errors.ErrUnsupported // package net sends to its peer alone
	}
	return nil
}
func parseReceiveTime([]byte) time.Time { return time.Time{} }

func askForMore(_ syscall.RawConn, lc *ListenConfig, _, _ bool) error {
	if lc.DontFragment {
		return fmt.Errorf("DontFragment: %w", errors.ErrUnsupported)
	}
	return nil
}
