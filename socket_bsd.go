//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package udp

import (
	"net/netip"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	writeNamesPeer = false // EISCONN

	// mappedGroups: IPv4 options fail on an IPv6 socket.
	mappedGroups = false

	errHostIsolated = syscall.Errno(0) // Linux only; never returned
)

// setReuseAddr needs both options here: SO_REUSEADDR alone does not let two
// sockets bind the wildcard address.
func setReuseAddr(fd uintptr) error {
	if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// ownGroupsOnly: there is no such option; the Conn filters by destination.
func ownGroupsOnly(syscall.RawConn, bool) {}

// dissolve disconnects fd by connecting it to AF_UNSPEC. The systems report
// EAFNOSUPPORT or EINVAL for the address, having done it; the port stays.
func dissolve(fd int, _ netip.AddrPort, _ bool) error {
	var unspec unix.RawSockaddrInet4
	_, _, errno := syscall.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	switch errno {
	case 0, unix.EAFNOSUPPORT, unix.EINVAL, unix.ENOTCONN:
		return nil
	}
	return errno
}

// setReusePort lets several sockets have the port. FreeBSD shares what comes
// out between them with an option of its own, SO_REUSEPORT_LB; DragonFly does
// with this one; on the others one socket gets it all.
func setReusePort(fd uintptr) error {
	option := unix.SO_REUSEPORT
	if runtime.GOOS == "freebsd" {
		option = 0x10000
	}
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, 1)
}

// appendSource appends IP_SENDSRCADDR, which has the number of
// IP_RECVDSTADDR (ip(4)), on the systems that have no IP_PKTINFO.
func appendSource(b []byte, source netip.Addr) []byte {
	switch runtime.GOOS {
	case "freebsd", "dragonfly", "netbsd", "openbsd":
	default:
		return b
	}
	control := make([]byte, unix.CmsgSpace(4))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	header.Level, header.Type = unix.IPPROTO_IP, 7
	header.SetLen(unix.CmsgLen(4))
	copy(control[unix.CmsgLen(0):], source.AsSlice())
	return append(b, control...)
}
