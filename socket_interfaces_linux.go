package udp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// interfaces returns the interfaces of the socket's network namespace. Where
// net may not use netlink, they are those that the socket finds by itself.
func (s *udpSocket) interfaces() (ifis []net.Interface, err error) {
	err = s.inNamespace(func() (err error) {
		if ifis, err = net.Interfaces(); !isRefused(err) {
			return err
		}
		names := namesIn("/proc/thread-self/net/dev", 0)
		if names == nil {
			names = s.namesWithIPv4()
		}
		if names == nil {
			return err
		}
		ifis = s.askInterfaces(names)
		return nil
	})
	return ifis, err
}

// isRefused reports whether err, of a netlink socket, is the answer of a sandbox:
// seccomp, systemd's RestrictAddressFamilies, or Android.
func isRefused(err error) bool {
	switch errnoOf(err) {
	case unix.EPERM, unix.EACCES, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL:
		return true
	}
	return false
}

// hasAddress reports whether an interface has an address of IPv4, or of IPv6.
func (s *udpSocket) hasAddress(ifi *net.Interface, ip4 bool) (has bool) {
	s.inNamespace(func() error {
		addrs, err := ifi.Addrs()
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			has = has || err == nil && p.Addr().Is4() == ip4
		}
		switch {
		case err == nil:
		case ip4:
			has = slices.Contains(s.namesWithIPv4(), ifi.Name)
		default:
			has = slices.Contains(namesIn("/proc/thread-self/net/if_inet6", 5), ifi.Name)
		}
		return nil
	})
	return has
}

// namesIn returns the interface names in a file of proc(5), which are a field
// of each line.
func namesIn(path string, field int) (names []string) {
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		name, _, isEntry := strings.Cut(line, ":")
		if fields := strings.Fields(line); field > 0 && len(fields) > field {
			names = append(names, fields[field])
		} else if field == 0 && isEntry {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return names
}

// namesWithIPv4 asks the socket for the interfaces that have an IPv4 address
// (SIOCGIFCONF of netdevice(7)).
func (s *udpSocket) namesWithIPv4() (names []string) {
	var requests [256]interfaceRequest
	list := struct {
		size     int32
		requests unsafe.Pointer
	}{int32(unsafe.Sizeof(requests)), unsafe.Pointer(&requests)}
	s.raw.Control(func(fd uintptr) {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.SIOCGIFCONF, uintptr(unsafe.Pointer(&list))); errno != 0 {
			return
		}
		for _, r := range requests[:list.size/int32(unsafe.Sizeof(requests[0]))] {
			label, _, _ := strings.Cut(unix.ByteSliceToString(r.name[:]), ":") // of an address
			if !slices.Contains(names, label) {
				names = append(names, label)
			}
		}
	})
	return names
}

// askInterfaces asks the socket about interfaces, and returns those that there
// are, with the flags that matter for groups.
func (s *udpSocket) askInterfaces(names []string) (ifis []net.Interface) {
	s.raw.Control(func(fd uintptr) {
		for _, name := range names {
			var hardware, flags interfaceRequest
			ifi := net.Interface{Name: name, Index: interfaceIndex(fd, name)}
			if ifi.Index == 0 || !flags.ask(fd, unix.SIOCGIFFLAGS, name) {
				continue
			}
			set := binary.NativeEndian.Uint16(flags.union[:])
			if set&unix.IFF_UP != 0 {
				ifi.Flags |= net.FlagUp
			}
			if set&unix.IFF_MULTICAST != 0 {
				ifi.Flags |= net.FlagMulticast
			}
			if hardware.ask(fd, unix.SIOCGIFHWADDR, name) {
				ifi.HardwareAddr = append(ifi.HardwareAddr, hardware.union[2:8]...)
			}
			ifis = append(ifis, ifi)
		}
	})
	return ifis
}

// ask makes an ioctl(2) about the interface of that name.
func (r *interfaceRequest) ask(fd uintptr, request uintptr, name string) bool {
	copy(r.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(r)))
	return errno == 0
}

// watchInterfaces listens for rtnetlink(7) to tell of interfaces and their
// addresses.
func (s *udpSocket) watchInterfaces() (changes <-chan struct{}, stop func(), err error) {
	fd := -1
	err = s.inNamespace(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return nil, func() {}, err
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

// inNamespace calls f on a thread that is in the network namespace of the
// socket. It is the caller's, unless that has left the one where it opened the
// socket; then the system must allow to go there.
func (s *udpSocket) inNamespace(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	foreign, known := s.isForeign()
	if known && !foreign {
		return f()
	}
	ns, err := s.namespace()
	if err != nil {
		if !known && !errors.Is(err, net.ErrClosed) {
			return f() // as nearly always
		}
		return fmt.Errorf("the socket is in another network namespace: %w", err)
	}
	defer unix.Close(ns)
	done := make(chan error)
	go func() { done <- enterNamespace(ns, f) }() // the caller's thread may have to stay where it is
	return <-done
}

// isForeign reports whether the socket is in another network namespace than
// the thread, if the system tells: Linux since 5.14.
func (s *udpSocket) isForeign() (foreign, known bool) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, false
	}
	defer unix.Close(fd)
	here, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return false, false
	}
	s.raw.Control(func(fd uintptr) {
		there, err := unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		foreign, known = there != here, err == nil
	})
	return foreign, known
}

// namespace opens the network namespace of the socket, which needs
// CAP_NET_ADMIN.
func (s *udpSocket) namespace() (ns int, err error) {
	cerr := s.raw.Control(func(fd uintptr) {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.SIOCGSKNS, 0)
		if ns = int(r); errno != 0 {
			err = os.NewSyscallError("ioctl", errno)
		}
	})
	return ns, errors.Join(cerr, err)
}

// enterNamespace calls f in the network namespace that is open as ns. It has
// the goroutine for itself.
func enterNamespace(ns int, f func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(home)
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return os.NewSyscallError("setns", err)
	}
	err = f()
	if unix.Setns(home, unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread() // otherwise the thread ends with the goroutine
	}
	return err
}
