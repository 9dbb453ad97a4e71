//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package udp

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// connectSocket connects the socket to peer, and returns its addresses as
// they are then; old is the peer it has so far. On failure old stays the
// peer.
func connectSocket(raw syscall.RawConn, local, old, peer netip.AddrPort, is6 bool) (newLocal, newPeer netip.AddrPort, err error) {
	cerr := raw.Control(func(fd uintptr) {
		if old.IsValid() {
			// Without this, Linux keeps the source address of the old
			// peer, which need not reach the new one.
			if err = dissolve(int(fd), local, is6); err != nil {
				return
			}
		}
		if err = unix.Connect(int(fd), sockaddr(fd, peer, is6)); err != nil {
			// Linux has bound the socket to the zone already.
			dissolve(int(fd), local, is6)
			if old.IsValid() {
				unix.Connect(int(fd), sockaddr(fd, old, is6))
			}
			return
		}
		newLocal, newPeer = localName(int(fd)), peer
		if sa, err := unix.Getpeername(int(fd)); err == nil {
			// The wildcard address stands for this host.
			newPeer = addrPort(fd, sa)
		}
	})
	if cerr != nil {
		err = cerr
	}
	return newLocal, newPeer, err
}

// disconnectSocket takes its peer from the socket, and returns its local
// address as it is then; the port is that of local.
func disconnectSocket(raw syscall.RawConn, local netip.AddrPort, is6 bool) (newLocal netip.AddrPort, err error) {
	cerr := raw.Control(func(fd uintptr) {
		err = dissolve(int(fd), local, is6)
		newLocal = localName(int(fd))
	})
	if cerr != nil {
		err = cerr
	}
	return newLocal, err
}

// pendingError takes from the socket the error that its next call would
// return.
func pendingError(raw syscall.RawConn) (errno syscall.Errno) {
	raw.Control(func(fd uintptr) {
		code, _ := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		errno = syscall.Errno(code)
	})
	return errno
}

// onlyIPv6 reports whether the socket is closed to IPv4.
func onlyIPv6(raw syscall.RawConn) bool {
	only := 0
	raw.Control(func(fd uintptr) {
		only, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	})
	return only != 0
}

func localName(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(uintptr(fd), sa)
}

// sockaddr is a as the system takes it, mapped into IPv6 on a socket of that
// family.
func sockaddr(fd uintptr, a netip.AddrPort, is6 bool) unix.Sockaddr {
	if !is6 {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: uint32(interfaceIndex(fd, a.Addr().Zone()))}
}

// addrPort is the reverse, unmapped.
func addrPort(fd uintptr, sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		a := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.ZoneId != 0 {
			a = a.WithZone(zoneAt(fd, int(sa.ZoneId)))
		}
		return netip.AddrPortFrom(a, uint16(sa.Port))
	}
	return netip.AddrPort{}
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
