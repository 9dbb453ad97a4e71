package udp

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

const (
	writeNamesPeer = true
	mappedGroups   = false
)

// A descriptor is what the system calls of package syscall take.
type descriptor = syscall.Handle

// mustDrop: Windows takes another peer at once.
func (*udpSocket) mustDrop(netip.AddrPort) bool { return false }

// dropPeer takes its peer from the socket by connecting it to the address of
// zeros.
func (s *udpSocket) dropPeer(fd descriptor) error {
	none := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if s.is6 {
		none = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	err := syscall.Connect(fd, s.sockaddr(none, 0))
	if err == nil {
		setReports(windows.Handle(fd), 0)
	}
	return err
}

func connected(fd descriptor) { setReports(windows.Handle(fd), 1) }

func (*udpSocket) leaveShare()                            {}
func routeSource(netip.AddrPort) netip.Addr               { return netip.Addr{} }
func (*udpSocket) restoreAfter(syscall.Errno) bool        { return false }
func (*udpSocket) rememberDevice()                        {}
func (*udpSocket) keepDevice(descriptor, *netip.AddrPort) {}

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

// bindInterface makes a new socket send by an interface: IP_UNICAST_IF, whose
// index is in network byte order, and IPV6_UNICAST_IF, whose is not. What
// arrives by others is still received.
func bindInterface(fd uintptr, index int, is6 bool) error {
	if _, err := net.InterfaceByIndex(index); err != nil {
		return err
	}
	const unicastIf = 31
	if is6 {
		if err := windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IPV6, unicastIf, index); err != nil {
			return err
		}
	}
	big := bits.ReverseBytes32(uint32(index)) // every Windows is little endian
	err := windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IP, unicastIf, int(big))
	if is6 {
		return nil // a socket for IPv6 alone does not know it
	}
	return err
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

func (s *udpSocket) setInterface(index int) (err error) {
	cerr := s.raw.Control(func(fd uintptr) { err = bindInterface(fd, index, s.is6) })
	return cmp.Or(cerr, err)
}

// controlSpace is room for all the control data of one datagram.
const controlSpace = 256

// The kinds of control messages are in socket_control_winsock.go. That ReadMsgUDP
// hands on what these options ask for was seen under Wine 10; that WriteMsgUDP
// sends from a source is documented (WSASendMsg), and has not been run.
func parseControl(b []byte, d *Datagram) (segment int) { return parseWinsock(b, d) }

func appendPacketInfo(b []byte, source netip.Addr, index int, ip4, is6 bool) []byte {
	return appendWinsockPacketInfo(b, source, index, ip4, is6)
}

func appendTrafficClass(b []byte, class uint8, ip4, is6 bool) []byte {
	return appendWinsockTrafficClass(b, class, ip4, is6)
}

// setUp asks the system to tell with each datagram what can differ from one to
// the next, and to refuse broadcasts unless they are allowed, which package net
// does. A system that cannot tell leaves it unknown.
func (s *udpSocket) setUp(lc *ListenConfig) error {
	const (
		recvTTL, recvTOS      = 21, 40 // IP_RECVTTL, IP_RECVTOS
		hopLimit6, recvClass6 = 21, 40 // IPV6_HOPLIMIT, IPV6_RECVTCLASS
		dontFragment          = 14     // IP_DONTFRAGMENT, IPV6_DONTFRAG
	)
	setBroadcast(s.raw, lc.Broadcast)
	var refused error
	err := s.raw.Control(func(fd uintptr) {
		set := func(level, option int) error { return windows.SetsockoptInt(windows.Handle(fd), level, option, 1) }
		if s.ip4 {
			set(winsockIP, recvTTL)
			set(winsockIP, winsockPktinfo)
			if lc.ReadTrafficClass {
				set(winsockIP, recvTOS)
			}
		}
		if s.is6 {
			set(winsockIPv6, hopLimit6)
			set(winsockIPv6, winsockPktinfo)
			if lc.ReadTrafficClass {
				set(winsockIPv6, recvClass6)
			}
		}
		if lc.DontFragment && s.ip4 {
			refused = set(winsockIP, dontFragment)
		}
		if lc.DontFragment && s.is6 && refused == nil {
			refused = set(winsockIPv6, dontFragment)
		}
	})
	if refused != nil {
		refused = fmt.Errorf("DontFragment: %w", unsupported(refused))
	}
	return cmp.Or(err, refused)
}
