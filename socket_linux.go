package udp

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// writeNamesPeer: a connected socket takes writes with an address.
	writeNamesPeer = true

	// mappedGroups: an IPv6 socket for both families takes IPv4 memberships.
	mappedGroups = true

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
// same for IPv6 since Linux 4.20. What waits in a socket from before would be
// taken for the group's, once that is joined.
func (s *udpSocket) ownGroupsOnly() {
	if s.bound.IsValid() && !s.bound.IsMulticast() || s.ownGroups.Swap(true) {
		return // no group's datagrams come to one address
	}
	s.raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0)
		if s.is6 {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0)
		}
	})
}

// mustDrop reports whether old must be dropped before another peer is
// connected: the source address that the kernel chose for old need not reach
// the other, nor does the interface of old's zone, to which it has bound the
// socket.
func (s *udpSocket) mustDrop(old netip.AddrPort) bool {
	return !s.bound.IsValid() || old.Addr().Zone() != ""
}

// dropPeer takes its peer from fd by connecting it to AF_UNSPEC (connect(2)),
// which x/sys cannot express. The kernel also takes the interface that the
// socket is bound to, and a port that it has chosen itself (__udp_disconnect):
// they are given back here.
func (s *udpSocket) dropPeer(fd int) error {
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	if errno != 0 {
		return os.NewSyscallError("connect", errno)
	}
	if s.device != 0 {
		s.mixed.Store(true)
		if err := bindDevice(fd, s.device); err != nil {
			return err
		}
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	port, now := int(s.local.Load().Port()), 0
	switch at := at.(type) {
	case *syscall.SockaddrInet4:
		now, at.Port = at.Port, port
	case *syscall.SockaddrInet6:
		now, at.Port = at.Port, port
	}
	if now == port {
		return nil
	}
	return os.NewSyscallError("bind", syscall.Bind(fd, at))
}

// restoreAfter gives the socket back what it was opened with, and its peer, if
// errno says that somebody has destroyed it (SOCK_DESTROY of sock_diag(7), as
// "ss -K" does), and reports whether it says so.
func (s *udpSocket) restoreAfter(errno syscall.Errno) bool {
	if errno != unix.ECONNABORTED && errno != unix.EDESTADDRREQ {
		return false
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	s.raw.Control(func(fd uintptr) {
		if s.isIntact(int(fd)) {
			return // another goroutine has done it
		}
		err := s.dropPeer(int(fd))
		peer := s.peer.Load()
		if peer != nil && (err != nil || s.reconnect(int(fd), *peer) != nil) {
			s.peer.Store(nil) // writes name it from now on
		}
	})
	return true
}

// isIntact reports whether fd has the port, the peer and the interface that it
// should have.
func (s *udpSocket) isIntact(fd int) bool {
	_, err := syscall.Getpeername(fd)
	return s.localName(fd).Port() == s.local.Load().Port() &&
		(err == nil) == (s.peer.Load() != nil) &&
		(s.device == 0 || boundDevice(fd) == s.device)
}

// leaveShare takes a socket that shares its port (SO_REUSEPORT) out of those
// that the kernel spreads the peers over, by connecting it to nobody. What
// waits in it stays. On a socket of all addresses, that also sets the source
// of what it sends, so that writes have to name theirs from then on.
func (s *udpSocket) leaveShare() {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.raw.Control(func(fd uintptr) {
		shared, _ := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT)
		if shared == 0 || s.peer.Load() != nil {
			return // a connected socket is out of it
		}
		const discard = 9 // the port of RFC 863, from which nobody sends
		nobody := s.localAddr().Addr()
		if nobody.IsUnspecified() {
			s.namesSource.Store(true)
			nobody = loopbackOf(nobody)
		}
		syscall.Connect(int(fd), s.sockaddr(netip.AddrPortFrom(nobody, discard), interfaceIndex(fd, nobody.Zone())))
	})
}

// ownsAddress asks whether a is an address of the host, in the namespace of the
// socket: whether a datagram could go from a to a. With MSG_PROBE the kernel
// looks for the way, and sends nothing (udp_sendmsg).
func (s *udpSocket) ownsAddress(a netip.Addr) (has bool) {
	scope := 0
	if a.Zone() != "" {
		scope, _ = s.zoneIndex(a)
	}
	oob := appendPacketInfo(nil, a.WithZone(""), scope, a.Is4(), s.is6)
	const discard, msgProbe = 9, 0x10 // which x/sys does not have
	s.changing.RLock()
	defer s.changing.RUnlock()
	s.raw.Control(func(fd uintptr) {
		_, err := syscall.SendmsgN(int(fd), nil, oob, s.sockaddr(netip.AddrPortFrom(a, discard), scope), msgProbe|unix.MSG_CONFIRM|unix.MSG_DONTWAIT)
		has = err == nil || errors.Is(err, unix.EACCES)
	})
	return has
}

// routeSource returns the address that the system would send from to peer;
// zero: unknown.
func routeSource(peer netip.AddrPort) netip.Addr {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(peer))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	local, _ := addrPortOf(c.LocalAddr())
	return unmap(local).Addr()
}

// setInterface binds a socket that may be bound to a port already to the
// interface of that index.
func (s *udpSocket) setInterface(index int) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	var err error
	cerr := s.raw.Control(func(fd uintptr) {
		if boundDevice(int(fd)) != index {
			err = bindInterface(fd, index, s.is6)
			s.mixed.Store(true)
		}
		if err == nil {
			s.device = index
		}
	})
	return cmp.Or(cerr, err)
}

func (s *udpSocket) followInterface(name string) {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.raw.Control(func(fd uintptr) {
		if new(interfaceRequest).askName(fd, s.device) {
			return
		}
		index := interfaceIndex(fd, name)
		if index == 0 {
			return
		}
		s.device = index
		if bindDevice(int(fd), index) == nil {
			return
		}
		// Only root may bind from one interface to another, but everyone from
		// none: there is none without a peer.
		peer := s.peer.Load()
		if err := s.dropPeer(int(fd)); peer != nil && (err != nil || s.reconnect(int(fd), *peer) != nil) {
			s.peer.Store(nil)
		}
	})
}

// rememberDevice keeps the interface that a socket was bound to elsewhere.
func (s *udpSocket) rememberDevice() {
	s.raw.Control(func(fd uintptr) { s.device = boundDevice(int(fd)) })
}

// keepDevice keeps the interface that fd is bound to now, before the peer
// changes, as a program may have bound it since it was opened. While the peer
// has a zone, it is the zone's.
func (s *udpSocket) keepDevice(fd int, peer *netip.AddrPort) {
	if peer != nil && peer.Addr().Zone() != "" {
		return
	}
	if index := boundDevice(fd); index != 0 {
		s.device = index
	}
}

// boundDevice returns the index of the interface that fd is bound to, zero if
// to none: SO_BINDTOIFINDEX, since Linux 5.1, and before by name (socket(7)).
func boundDevice(fd int) int {
	index, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	if err != nil {
		if name, err := unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE); err == nil && name != "" {
			return interfaceIndex(uintptr(fd), name)
		}
	}
	return index
}

// bindInterface binds a new socket to an interface. The kernel takes any index
// without a word.
func bindInterface(fd uintptr, index int, _ bool) error {
	if !new(interfaceRequest).askName(fd, index) {
		return fmt.Errorf("no interface has index %d: %w", index, unix.ENODEV)
	}
	return bindDevice(int(fd), index)
}

func bindDevice(fd, index int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, index)
	if errors.Is(err, unix.ENOPROTOOPT) {
		err = unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, zoneAt(uintptr(fd), index))
	}
	return os.NewSyscallError("setsockopt", err)
}

func connected(int) {}
