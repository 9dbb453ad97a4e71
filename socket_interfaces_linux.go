package udp

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watchInterfaces listens for rtnetlink(7) to tell of interfaces and their
// addresses.
func (s *udpSocket) watchInterfaces() (changes <-chan struct{}, stop func(), err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, func() {}, os.NewSyscallError("socket", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, func() {}, os.NewSyscallError("bind", err)
	}
	f := os.NewFile(uintptr(fd), "rtnetlink")
	ch := make(chan struct{}, 1)
	go func() {
		defer close(ch)
		var b [1]byte // the rest of a message is discarded: that there is one says it all
		for {
			if _, err := f.Read(b[:]); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}()
	return ch, func() {
		f.Close()
		for range ch {
		}
	}, nil
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
