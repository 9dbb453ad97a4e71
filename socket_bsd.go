//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package udp

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"
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

// mustDrop: connecting again drops the peer too.
func (*udpSocket) mustDrop(netip.AddrPort) bool { return true }

// dropPeer takes its peer from fd by connecting it to AF_UNSPEC. The systems
// report EAFNOSUPPORT or EINVAL for the address, having done it; the port
// stays. But they bind the socket to all addresses then, and keep one that was
// connected to IPv4 from IPv6 (XNU, in6_pcbdisconnect and udp6_disconnect;
// FreeBSD, udp_disconnect), and it cannot be bound again. So this is for a
// socket that was opened for all addresses, and for one family if it has an
// IPv4 peer: others would hear more than they were opened for, or less.
func (s *udpSocket) dropPeer(fd int) error {
	if peer := s.peer.Load(); s.bound.IsValid() || s.is6 && peer != nil && peer.Addr().Is4() {
		return errors.ErrUnsupported
	}
	var unspec unix.RawSockaddrInet4
	_, _, errno := syscall.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	switch errno {
	case 0, unix.EAFNOSUPPORT, unix.EINVAL, unix.ENOTCONN:
		return nil
	}
	return os.NewSyscallError("connect", errno)
}

func (*udpSocket) restoreAfter(syscall.Errno) bool { return false }
func (*udpSocket) rememberDevice()                 {}
func (*udpSocket) keepDevice(int, *netip.AddrPort) {}
func (*udpSocket) leaveShare()                     {}
func routeSource(netip.AddrPort) netip.Addr        { return netip.Addr{} }
func connected(int)                                {}

// bindInterface binds a new socket to an interface: IP_BOUND_IF and
// IPV6_BOUND_IF of macOS, which have the same number in Darwin's headers as
// here.
func bindInterface(fd uintptr, index int, is6 bool) error {
	if runtime.GOOS != "darwin" && runtime.GOOS != "ios" {
		return errors.ErrUnsupported
	}
	if _, err := net.InterfaceByIndex(index); err != nil {
		return fmt.Errorf("no interface has index %d: %w", index, unix.ENXIO)
	}
	const boundIf4, boundIf6 = 25, 125
	if is6 {
		return unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, boundIf6, index)
	}
	return unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, boundIf4, index)
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

func (s *udpSocket) setInterface(index int) (err error) {
	cerr := s.raw.Control(func(fd uintptr) { err = bindInterface(fd, index, s.is6) })
	return cmp.Or(cerr, err)
}

// askForMore asks for the receive time, and forbids fragments where the system
// can: macOS and FreeBSD, as far as has been read and not run.
func askForMore(raw syscall.RawConn, lc *ListenConfig, ip4, is6 bool) error {
	var err error
	cerr := raw.Control(func(fd uintptr) {
		if lc.ReadTime {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMP, 1)
		}
		if lc.DontFragment {
			err = forbidFragments(int(fd), ip4, is6)
		}
	})
	return cmp.Or(cerr, err)
}

func forbidFragments(fd int, ip4, is6 bool) error {
	option4, option6 := 0, 62 // IPV6_DONTFRAG
	switch runtime.GOOS {
	case "darwin", "ios":
		option4 = 28 // IP_DONTFRAG
	case "freebsd":
		option4 = 67
	default:
		return fmt.Errorf("DontFragment: %w", errors.ErrUnsupported)
	}
	var err error
	if is6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, option6, 1)
	}
	if err == nil && ip4 && !is6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, option4, 1)
	}
	if err != nil {
		return fmt.Errorf("DontFragment: %w", unsupported(err))
	}
	return nil
}

// parseReceiveTime returns the time in a control message of SO_TIMESTAMP, a
// struct timeval.
func parseReceiveTime(b []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return time.Time{}
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMP && len(m.Data) >= int(unsafe.Sizeof(unix.Timeval{})) {
			tv := (*unix.Timeval)(unsafe.Pointer(&m.Data[0]))
			return time.Unix(tv.Unix())
		}
	}
	return time.Time{}
}
