package udp

import (
	"errors"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

const (
	writeNamesPeer = true
	mappedGroups   = false
)

// connectSocket connects the socket to peer, and returns its addresses as
// they are then. On failure old stays the peer.
func connectSocket(raw syscall.RawConn, local, old, peer netip.AddrPort, is6 bool) (newLocal, newPeer netip.AddrPort, err error) {
	cerr := raw.Control(func(fd uintptr) {
		if err = windows.Connect(windows.Handle(fd), sockaddr(fd, peer, is6)); err == nil {
			setReports(windows.Handle(fd), 1)
		} else if old.IsValid() {
			windows.Connect(windows.Handle(fd), sockaddr(fd, old, is6))
		}
		newLocal = localName(windows.Handle(fd), local)
	})
	if cerr != nil {
		err = cerr
	}
	return newLocal, peer, err
}

// disconnectSocket connects the socket to the address of zeros, which takes
// its peer from it.
func disconnectSocket(raw syscall.RawConn, local netip.AddrPort, is6 bool) (newLocal netip.AddrPort, err error) {
	none := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if is6 {
		none = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	cerr := raw.Control(func(fd uintptr) {
		if err = windows.Connect(windows.Handle(fd), sockaddr(fd, none, is6)); err == nil {
			setReports(windows.Handle(fd), 0)
		}
		newLocal = localName(windows.Handle(fd), local)
	})
	if cerr != nil {
		err = cerr
	}
	return newLocal, err
}

// setReports turns on or off that reads fail for a report of the network,
// which the package net has turned off. On a socket without a peer nobody
// could tell what it is about.
func setReports(fd windows.Handle, on uint32) {
	for _, option := range []uint32{windows.SIO_UDP_CONNRESET, windows.SIO_UDP_NETRESET} {
		var n uint32
		windows.WSAIoctl(fd, option, (*byte)(unsafe.Pointer(&on)), uint32(unsafe.Sizeof(on)), nil, 0, &n, nil, 0)
	}
}

// pendingError: reports come from reads alone.
func pendingError(syscall.RawConn) syscall.Errno { return 0 }

// onlyIPv6 reports whether the socket is closed to IPv4.
func onlyIPv6(raw syscall.RawConn) bool {
	only := 0
	raw.Control(func(fd uintptr) {
		only, _ = windows.GetsockoptInt(windows.Handle(fd), windows.IPPROTO_IPV6, windows.IPV6_V6ONLY)
	})
	return only != 0
}

func localName(fd windows.Handle, otherwise netip.AddrPort) netip.AddrPort {
	sa, err := windows.Getsockname(fd)
	if err != nil {
		return otherwise
	}
	switch sa := sa.(type) {
	case *windows.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *windows.SockaddrInet6:
		a := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.ZoneId != 0 {
			a = a.WithZone(zoneAt(uintptr(fd), int(sa.ZoneId)))
		}
		return netip.AddrPortFrom(a, uint16(sa.Port))
	}
	return otherwise
}

func sockaddr(fd uintptr, a netip.AddrPort, is6 bool) windows.Sockaddr {
	if !is6 {
		return &windows.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &windows.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: uint32(interfaceIndex(fd, a.Addr().Zone()))}
}

// isReport reports whether errno, from a read, is the system's word of an
// ICMP message about an earlier datagram: port unreachable, or TTL expired.
func isReport(errno syscall.Errno) bool {
	return errno == syscall.ECONNREFUSED || errno == syscall.EHOSTUNREACH
}

// standardErrno is the error number that package syscall has for errno on
// every system, which programs test for; Windows itself never returns those.
func standardErrno(errno syscall.Errno) syscall.Errno {
	switch errno {
	case windows.WSAECONNRESET, windows.WSAECONNREFUSED: // how reads say "port unreachable"
		return syscall.ECONNREFUSED
	case windows.WSAENETRESET, windows.WSAEHOSTUNREACH: // the former is "TTL expired"
		return syscall.EHOSTUNREACH
	case windows.WSAENETUNREACH:
		return syscall.ENETUNREACH
	case windows.WSAEMSGSIZE:
		return syscall.EMSGSIZE
	case windows.WSAEADDRINUSE:
		return syscall.EADDRINUSE
	case windows.WSAEADDRNOTAVAIL:
		return syscall.EADDRNOTAVAIL
	case windows.WSAEACCES:
		return syscall.EACCES
	case windows.WSAEINVAL:
		return syscall.EINVAL
	case windows.WSAENOBUFS:
		return syscall.ENOBUFS
	case windows.WSAENOTCONN:
		return syscall.ENOTCONN
	}
	return errno
}

// setReusePort: Windows does not share the load of a port.
func setReusePort(uintptr) error { return errors.ErrUnsupported }

// setReuseAddr lets several sockets have the port, each with all that comes
// to a group.
func setReuseAddr(fd uintptr) error {
	return windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_REUSEADDR, 1)
}

// ownGroupsOnly: Windows gives a socket what it joined itself.
func ownGroupsOnly(syscall.RawConn, bool) {}

// appendSource: there is no way to choose the source of one datagram.
func appendSource(b []byte, _ netip.Addr) []byte { return b }
