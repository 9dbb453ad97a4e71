package udp

import (
	"encoding/binary"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// joinAnySource and leaveAnySource use the options of ip(7) and RFC 3493 that
// every system has. The newer ones of RFC 3678, which x/net uses, are refused
// or ignored by some sandboxes (gVisor).

func (s *udpSocket) joinAnySource(_ groupSocket, group netip.Addr, index int) error {
	return s.setMembership(unix.IP_ADD_MEMBERSHIP, unix.IPV6_JOIN_GROUP, group, index)
}

func (s *udpSocket) leaveAnySource(_ groupSocket, group netip.Addr, index int) error {
	return s.setMembership(unix.IP_DROP_MEMBERSHIP, unix.IPV6_LEAVE_GROUP, group, index)
}

func (s *udpSocket) setMembership(option4, option6 int, group netip.Addr, index int) (err error) {
	cerr := s.raw.Control(func(fd uintptr) {
		if group.Is4() {
			err = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, option4, &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)})
		} else {
			err = unix.SetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IPV6, option6, &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)})
		}
	})
	if cerr != nil {
		return cerr
	}
	return os.NewSyscallError("setsockopt", err)
}

// memberAt asks for the sources that the socket hears in group on that
// interface (MCAST_MSFILTER, RFC 3678), which is an error where it has not
// joined. The request is a struct group_filter with room for no source.
func (s *udpSocket) memberAt(group netip.Addr, index int) bool {
	const (
		storage = 128 // struct sockaddr_storage
		at      = int(unsafe.Sizeof(uintptr(0)))
	)
	var filter [at + storage + 8 + storage]byte
	binary.NativeEndian.PutUint32(filter[:], uint32(index))
	level := unix.IPPROTO_IPV6
	if group.Is4() {
		level = unix.IPPROTO_IP
		binary.NativeEndian.PutUint16(filter[at:], unix.AF_INET)
		copy(filter[at+4:], group.AsSlice())
	} else {
		binary.NativeEndian.PutUint16(filter[at:], unix.AF_INET6)
		copy(filter[at+8:], group.AsSlice())
	}
	size := uint32(at + storage + 8)
	var errno unix.Errno
	err := s.raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), unix.MCAST_MSFILTER,
			uintptr(unsafe.Pointer(&filter)), uintptr(unsafe.Pointer(&size)), 0)
	})
	return err == nil && errno == 0
}
