package udp

import (
	"errors"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// writeNamesPeer: a connected socket takes writes with an address.
	writeNamesPeer = true

	// mappedGroups: an IPv6 socket for both families takes IPv4 memberships.
	mappedGroups = true

	// controlSpace is room for all the control data of one datagram.
	controlSpace = 256

	errHostIsolated = unix.ENONET
)

// setReusePort lets several sockets have the port, each with a share of what
// comes (socket(7)).
func setReusePort(fd uintptr) error {
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// setReuseAddr lets several sockets have the port, each with all that comes
// to a group.
func setReuseAddr(fd uintptr) error {
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
}

// ownGroupsOnly stops the kernel from giving the socket datagrams of groups
// that only other sockets have joined: IP_MULTICAST_ALL of ip(7), and the
// same for IPv6 since Linux 4.20.
func ownGroupsOnly(raw syscall.RawConn, is6 bool) {
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0)
		if is6 {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0)
		}
	})
}

// dissolve disconnects fd by connecting it to AF_UNSPEC (connect(2)), which
// x/sys cannot express. Where the system chose the port, that loses it
// (__udp_disconnect), and the socket must be bound again.
func dissolve(fd int, local netip.AddrPort, is6 bool) error {
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	for range 8 {
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
		if errno != 0 {
			return errno
		}
		now := localName(fd)
		if now.Port() == local.Port() {
			return nil
		}
		at := netip.AddrPortFrom(now.Addr(), local.Port())
		err := unix.Bind(fd, sockaddr(uintptr(fd), at, is6))
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
		// A write came between and had the system choose another port.
	}
	return unix.EINVAL
}
