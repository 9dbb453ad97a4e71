package udp

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// controlSpace is room for all the control data of one datagram.
	controlSpace = 256

	// Sizes of the structures of ip(7) and RFC 3542.
	pktinfo4 = unix.SizeofInet4Pktinfo
	pktinfo6 = unix.SizeofInet6Pktinfo
)

// setUp sets what a new socket needs, in one go: the system is to tell with
// each datagram what can differ from one to the next, and to refuse broadcasts
// unless they are allowed, which package net does. It queues each ICMP message
// about what the socket has sent, with the address that was about (IP_RECVERR
// of ip(7), IPV6_RECVERR of ipv6(7)); from then on such an error is also
// pending for the next read or write, whichever peer that is for. A kernel
// that cannot do one of these leaves it unknown.
func (s *udpSocket) setUp(lc *ListenConfig) error {
	var refused error
	err := s.raw.Control(func(fd uintptr) {
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
		if lc.ReadTrafficClass {
			if s.ip4 {
				set(unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
			}
			if s.is6 {
				set(unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
			}
		}
		if lc.ReadTime {
			option := unix.SO_TIMESTAMPNS
			if alignment == 4 {
				option = timestampNew
			}
			set(unix.SOL_SOCKET, option, 1)
		}
		if lc.DontFragment {
			refused = s.forbidFragments(int(fd))
		}
	})
	return cmp.Or(err, refused)
}

func (s *udpSocket) forbidFragments(fd int) (err error) {
	if s.ip4 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	}
	if err == nil && s.is6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	}
	if err != nil {
		return fmt.Errorf("DontFragment: %w", unsupported(os.NewSyscallError("setsockopt", err)))
	}
	return nil
}

// pathMTU asks for IP_MTU (ip(7)) or IPV6_MTU, which only a connected socket has.
func (s *udpSocket) pathMTU() (mtu int, err error) {
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if peer := s.peer.Load(); peer != nil && peer.Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	cerr := s.raw.Control(func(fd uintptr) { mtu, err = unix.GetsockoptInt(int(fd), level, option) })
	return mtu, cmp.Or(cerr, os.NewSyscallError("getsockopt", err))
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
		case level == unix.IPPROTO_IP && kind == unix.IP_TOS && len(data) >= 1:
			d.TrafficClass = data[0]
		case level == unix.SOL_SOCKET && (kind == unix.SO_TIMESTAMPNS || kind == timestampNew):
			d.Time = parseTime(data)
		case len(data) < 4:
		case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_TCLASS:
			d.TrafficClass = uint8(binary.NativeEndian.Uint32(data))
		case level == unix.IPPROTO_IP && kind == unix.IP_TTL,
			level == unix.IPPROTO_IPV6 && kind == unix.IPV6_HOPLIMIT:
			d.TTL = int(int32(binary.NativeEndian.Uint32(data)))
		case level == unix.SOL_UDP && kind == unix.UDP_GRO:
			segment = int(int32(binary.NativeEndian.Uint32(data)))
		}
	}
}

// parseTime reads a struct timespec, of 64 bits or of 32.
func parseTime(data []byte) time.Time {
	switch {
	case len(data) >= 16:
		return time.Unix(int64(binary.NativeEndian.Uint64(data)), int64(binary.NativeEndian.Uint64(data[8:])))
	case len(data) >= 8:
		return time.Unix(int64(int32(binary.NativeEndian.Uint32(data))), int64(int32(binary.NativeEndian.Uint32(data[4:]))))
	}
	return time.Time{}
}

// timestampNew is SO_TIMESTAMPNS_NEW, which has 64 bits everywhere (since 5.1).
const timestampNew = 64

// appendTrafficClass appends the control message that gives a datagram its
// class: IP_TOS (ip(7)), which an IPv6 socket takes for IPv4 too, or
// IPV6_TCLASS (RFC 3542, section 6.5).
func appendTrafficClass(b []byte, class uint8, ip4, _ bool) []byte {
	level, kind := int32(unix.IPPROTO_IPV6), int32(unix.IPV6_TCLASS)
	if ip4 {
		level, kind = unix.IPPROTO_IP, unix.IP_TOS
	}
	b, end := appendControlHeader(b, 4, level, kind)
	return pad(binary.NativeEndian.AppendUint32(b, uint32(class)), end)
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
