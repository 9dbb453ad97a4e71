package udp

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes of the structures of ip(7) and RFC 3542.
const (
	alignment   = int(unsafe.Sizeof(uintptr(0)))
	headerSpace = unix.SizeofCmsghdr
	pktinfo4    = unix.SizeofInet4Pktinfo
	pktinfo6    = unix.SizeofInet6Pktinfo
)

// setUp sets what a new socket needs, in one go: the system is to tell with
// each datagram what can differ from one to the next, and to refuse broadcasts
// unless they are allowed, which package net does. It queues each ICMP message
// about what the socket has sent, with the address that was about (IP_RECVERR
// of ip(7), IPV6_RECVERR of ipv6(7)); from then on such an error is also
// pending for the next read or write, whichever peer that is for. A kernel
// that cannot do one of these leaves it unknown.
func (s *udpSocket) setUp(lc *ListenConfig) error {
	return s.raw.Control(func(fd uintptr) {
		set := func(level, option, value int) bool {
			return unix.SetsockoptInt(int(fd), level, option, value) == nil
		}
		s.keepsReports = true
		local := !s.bound.IsValid() || lc.Interface != nil // where each datagram was sent to is to be told
		if s.ip4 {
			set(unix.SOL_SOCKET, unix.SO_BROADCAST, boolInt(lc.Broadcast))
			set(unix.IPPROTO_IP, unix.IP_RECVTTL, 1)
			s.keepsReports = set(unix.IPPROTO_IP, unix.IP_RECVERR, 1)
			s.tells4 = local && set(unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}
		if s.is6 {
			set(unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
			s.keepsReports = set(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1) && s.keepsReports
			if local {
				set(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
			}
		}
	})
}

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
			if spec != dst && !d.Local.IsMulticast() {
				d.Local = broadcast // by its looks, that of a subnet is like others
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
