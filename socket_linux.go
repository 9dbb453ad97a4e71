package udp

import (
	"encoding/binary"
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
		err := unix.Bind(fd, sockaddr(at, is6))
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
		// A write came between and had the system choose another port.
	}
	return unix.EINVAL
}

// dropCount follows the kernel's count of what the socket dropped. The
// goroutine asks for it now and then, so that costs no allocation.
type dropCount struct {
	counter
	raw   syscall.RawConn
	count func() (now uint32, ok bool) // n.drops, made once
	ask   func(fd uintptr)             // n.askKernel, likewise
	now   uint32                       // the answer, under the mutex of counter
	ok    bool
}

// start takes what a socket has dropped so far for nothing.
func (n *dropCount) start(s *udpSocket) {
	n.raw, n.count, n.ask = s.raw, n.drops, n.askKernel
	n.last, _ = n.drops()
}

func (n *dropCount) read(*udpSocket) uint64 { return n.advance(n.count) }

func (n *dropCount) drops() (now uint32, ok bool) {
	n.ok = false
	n.raw.Control(n.ask)
	return n.now, n.ok
}

// askKernel reads SK_MEMINFO_DROPS by SO_MEMINFO (socket(7)): the datagrams
// that did not fit into the receive buffer, modulo 2^32.
func (n *dropCount) askKernel(fd uintptr) {
	var info [16]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	const index = unix.SK_MEMINFO_DROPS
	n.now, n.ok = info[index], errno == 0 && size >= (index+1)*4
}

// Sizes of the structures of ip(7) and RFC 3542.
const (
	alignment   = int(unsafe.Sizeof(uintptr(0)))
	headerSpace = unix.SizeofCmsghdr
	pktinfo4    = unix.SizeofInet4Pktinfo
	pktinfo6    = unix.SizeofInet6Pktinfo
)

// parseControl fills d from the control messages that came with it, and
// returns the size of the datagrams that the kernel has put together in the
// payload, zero if it has not. Whatever is malformed is passed over.
func parseControl(b []byte, d *Datagram) (segment int) {
	for {
		level, kind, data, rest, ok := nextControl(b)
		if !ok {
			return segment
		}
		b = rest
		switch {
		case level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO && len(data) >= pktinfo4:
			d.Interface = int(int32(binary.NativeEndian.Uint32(data)))
			spec, dst := [4]byte(data[4:]), [4]byte(data[8:])
			d.Local = netip.AddrFrom4(dst)
			if d.notOwn = [4]byte{}; spec != dst {
				d.notOwn = dst
			}
		case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= pktinfo6:
			if d.Addr.Addr().Is4() {
				break // mapped: IP_PKTINFO says more
			}
			d.Interface = int(int32(binary.NativeEndian.Uint32(data[16:])))
			d.Local = netip.AddrFrom16([16]byte(data))
		case len(data) < 4:
		case level == unix.IPPROTO_IP && kind == unix.IP_TTL,
			level == unix.IPPROTO_IPV6 && kind == unix.IPV6_HOPLIMIT:
			d.TTL = int(int32(binary.NativeEndian.Uint32(data)))
		case level == unix.SOL_UDP && kind == unix.UDP_GRO:
			segment = int(int32(binary.NativeEndian.Uint32(data)))
		}
	}
}

// nextControl splits the first control message, a struct cmsghdr and its data
// (cmsg(3)), off b. It is not ok if there is none, or a malformed one.
func nextControl(b []byte) (level, kind int32, data, rest []byte, ok bool) {
	if len(b) < headerSpace {
		return 0, 0, nil, nil, false
	}
	const word = alignment
	size := 0
	if word == 8 {
		size = int(binary.NativeEndian.Uint64(b))
	} else {
		size = int(binary.NativeEndian.Uint32(b))
	}
	if size < headerSpace || size > len(b) {
		return 0, 0, nil, nil, false
	}
	level = int32(binary.NativeEndian.Uint32(b[word:]))
	kind = int32(binary.NativeEndian.Uint32(b[word+4:]))
	return level, kind, b[headerSpace:size], b[min(len(b), (size+alignment-1)&^(alignment-1)):], true
}

// appendControlHeader appends a struct cmsghdr for so many bytes of data, and
// returns with it the length that b is to have after the data.
func appendControlHeader(b []byte, size int, level, kind int32) (header []byte, end int) {
	end = len(b) + unix.CmsgSpace(size)
	if alignment == 8 {
		b = binary.NativeEndian.AppendUint64(b, uint64(headerSpace+size))
	} else {
		b = binary.NativeEndian.AppendUint32(b, uint32(headerSpace+size))
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(level))
	return binary.NativeEndian.AppendUint32(b, uint32(kind)), end
}

// appendPacketInfo appends the control message that makes a datagram leave
// from source, by the interface of that index: IP_PKTINFO (ip(7)), which an
// IPv6 socket takes for IPv4 too, or IPV6_PKTINFO (RFC 3542, section 6).
func appendPacketInfo(b []byte, source netip.Addr, index int, ip4, _ bool) []byte {
	if ip4 {
		b, end := appendControlHeader(b, pktinfo4, unix.IPPROTO_IP, unix.IP_PKTINFO)
		b = binary.NativeEndian.AppendUint32(b, uint32(index))
		if source.Is4() {
			from := source.As4()
			b = append(b, from[:]...)
		}
		return pad(b, end)
	}
	b, end := appendControlHeader(b, pktinfo6, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO)
	var from [16]byte
	if source.Is6() {
		from = source.As16()
	}
	b = append(b, from[:]...)
	return pad(binary.NativeEndian.AppendUint32(b, uint32(index)), end)
}

// pad appends zeros until b is end long.
func pad(b []byte, end int) []byte {
	for len(b) < end {
		b = append(b, 0)
	}
	return b
}
