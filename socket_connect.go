//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows

package udp

import (
	"cmp"
	"errors"
	"net/netip"
	"syscall"
)

// connect makes peer the only one to send to and receive from. All else that
// the socket was opened with stays. On failure the old peer is connected
// again; where the system refuses that too, as it does while the link is down,
// it has none, and writes name theirs.
func (s *udpSocket) connect(peer netip.AddrPort) (netip.AddrPort, error) {
	scope, err := s.zoneIndex(peer.Addr())
	if err != nil {
		return netip.AddrPort{}, err
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	done := struct { // one allocation for what is shared with the function
		peer netip.AddrPort
		err  error
	}{peer: peer}
	err = s.raw.Control(func(fd uintptr) {
		done.peer, done.err = s.replacePeer(descriptor(fd), done.peer, scope)
		s.setLocal(s.localName(descriptor(fd)))
	})
	return done.peer, cmp.Or(err, done.err)
}

func (s *udpSocket) replacePeer(fd descriptor, peer netip.AddrPort, scope int) (_ netip.AddrPort, err error) {
	old := s.peer.Load()
	s.keepDevice(fd, old)
	drop := old != nil && s.mustDrop(*old)
	if drop {
		err = s.dropPeer(fd)
	}
	if err == nil {
		err = syscall.Connect(fd, s.sockaddr(peer, scope))
		if err != nil && (drop || scope != 0) {
			drop = true
			s.dropPeer(fd) // Linux has bound the socket to the zone already
		}
	}
	if err != nil {
		if old != nil && drop && s.reconnect(fd, *old) != nil {
			s.peer.Store(nil)
		}
		return netip.AddrPort{}, err
	}
	if peer.Addr().IsUnspecified() {
		if sa, err := syscall.Getpeername(fd); err == nil {
			peer = addrPort(uintptr(fd), sa) // this host
		}
	}
	connected(fd)
	s.peerIndex.Store(int64(scope))
	s.peer.Store(&peer)
	return peer, nil
}

// reconnect connects fd to the peer that it had, whatever the interface of its
// zone is called now.
func (s *udpSocket) reconnect(fd descriptor, old netip.AddrPort) error {
	return syscall.Connect(fd, s.sockaddr(old, int(s.peerIndex.Load())))
}

// disconnect takes its peer from the socket.
func (s *udpSocket) disconnect() (err error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	old := s.peer.Load()
	if old == nil {
		return nil // a connect has failed, and so did putting the old peer back
	}
	if s.dialed {
		return errors.ErrUnsupported // package net would not send to an address
	}
	cerr := s.raw.Control(func(fd uintptr) {
		d := descriptor(fd)
		s.keepDevice(d, old)
		if err = s.dropPeer(d); err == nil {
			s.peer.Store(nil)
		} else if s.reconnect(d, *old) != nil {
			s.peer.Store(nil)
		}
		s.setLocal(s.localName(d))
	})
	if cerr != nil {
		err = cerr
	}
	return err
}

// askLocalAddr asks the system what the socket is bound to.
func (s *udpSocket) askLocalAddr() netip.AddrPort {
	a := *s.local.Load()
	s.raw.Control(func(fd uintptr) { a = s.localName(descriptor(fd)) })
	return a
}

func (s *udpSocket) localName(fd descriptor) netip.AddrPort {
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		return *s.local.Load()
	}
	return addrPort(uintptr(fd), sa)
}

// sockaddr is a as the system takes it, mapped into IPv6 on a socket of that
// family; scope is the index of the interface of its zone.
func (s *udpSocket) sockaddr(a netip.AddrPort, scope int) syscall.Sockaddr {
	if !s.is6 {
		return &syscall.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &syscall.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: uint32(scope)}
}

// addrPort is the reverse, unmapped.
func addrPort(fd uintptr, sa syscall.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *syscall.SockaddrInet6:
		a := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.ZoneId != 0 {
			a = a.WithZone(zoneAt(fd, int(sa.ZoneId)))
		}
		return netip.AddrPortFrom(a, uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// onlyIPv6 reports whether the socket is closed to IPv4.
func (s *udpSocket) onlyIPv6() bool {
	only := 0
	s.raw.Control(func(fd uintptr) {
		only, _ = syscall.GetsockoptInt(descriptor(fd), syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY)
	})
	return only != 0
}

// setDualStack opens an IPv6 socket to IPv4, before it is bound.
func setDualStack(fd uintptr) error {
	return syscall.SetsockoptInt(descriptor(fd), syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 0)
}
