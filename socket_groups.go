package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// A groupSocket has what ipv4.PacketConn and ipv6.PacketConn share.
type groupSocket interface {
	JoinGroup(ifi *net.Interface, group net.Addr) error
	LeaveGroup(ifi *net.Interface, group net.Addr) error
	JoinSourceSpecificGroup(ifi *net.Interface, group, source net.Addr) error
	LeaveSourceSpecificGroup(ifi *net.Interface, group, source net.Addr) error
	ExcludeSourceSpecificGroup(ifi *net.Interface, group, source net.Addr) error
	IncludeSourceSpecificGroup(ifi *net.Interface, group, source net.Addr) error
}

func (s *udpSocket) groups(group netip.Addr) (groupSocket, error) {
	switch {
	case !group.Is4():
		return ipv6.NewPacketConn(s.conn), nil
	case s.is6 && !mappedGroups:
		return nil, fmt.Errorf("IPv4 group on a socket for IPv4 and IPv6, listen on \"udp4\": %w", errors.ErrUnsupported)
	}
	return ipv4.NewPacketConn(s.conn), nil
}

func (s *udpSocket) join(group, source netip.Addr, index int) error {
	p, err := s.groups(group)
	if err != nil {
		return err
	}
	if !source.IsValid() {
		return s.joinAnySource(p, group, index)
	}
	return p.JoinSourceSpecificGroup(interfaceOf(index), udpAddr(group), udpAddr(source))
}

func (s *udpSocket) leave(group, source netip.Addr, index int) error {
	p, err := s.groups(group)
	if err != nil {
		return err
	}
	if !source.IsValid() {
		return s.leaveAnySource(p, group, index)
	}
	return p.LeaveSourceSpecificGroup(interfaceOf(index), udpAddr(group), udpAddr(source))
}

func (s *udpSocket) block(group, source netip.Addr, index int) error {
	p, err := s.groups(group)
	if err != nil {
		return err
	}
	return p.ExcludeSourceSpecificGroup(interfaceOf(index), udpAddr(group), udpAddr(source))
}

func (s *udpSocket) unblock(group, source netip.Addr, index int) error {
	p, err := s.groups(group)
	if err != nil {
		return err
	}
	return p.IncludeSourceSpecificGroup(interfaceOf(index), udpAddr(group), udpAddr(source))
}

// both calls f4 and f6 for the families that the socket sends multicast in.
// The second must be no reason for a failure of the first.
func (s *udpSocket) both(f4 func(*ipv4.PacketConn) error, f6 func(*ipv6.PacketConn) error) error {
	if s.is6 {
		if err := f6(ipv6.NewPacketConn(s.conn)); err != nil {
			return err
		}
	}
	if s.ip4 && (!s.is6 || mappedGroups) {
		return f4(ipv4.NewPacketConn(s.conn))
	}
	return nil
}

func (s *udpSocket) setMulticastTTL(ttl int) error {
	return s.both(
		func(p *ipv4.PacketConn) error { return p.SetMulticastTTL(ttl) },
		func(p *ipv6.PacketConn) error { return p.SetMulticastHopLimit(ttl) })
}

func (s *udpSocket) setMulticastLoopback(on bool) error {
	return s.both(
		func(p *ipv4.PacketConn) error { return p.SetMulticastLoopback(on) },
		func(p *ipv6.PacketConn) error { return p.SetMulticastLoopback(on) })
}

func (s *udpSocket) setMulticastInterface(index int) error {
	err := s.both(
		func(p *ipv4.PacketConn) error { return p.SetMulticastInterface(interfaceOf(index)) },
		func(p *ipv6.PacketConn) error { return p.SetMulticastInterface(interfaceOf(index)) })
	if err == nil {
		s.groupsBy.Store(int64(index))
	}
	return err
}

// multicastInterface returns what was set, as Linux tells of IPv4 only the
// interface's address, and that only if it was set by address.
func (s *udpSocket) multicastInterface() (index int, err error) {
	return int(s.groupsBy.Load()), s.raw.Control(func(uintptr) {})
}

// The setters keep both families alike, so one of them tells.

func (s *udpSocket) multicastTTL() (int, error) {
	if s.is6 {
		return ipv6.NewPacketConn(s.conn).MulticastHopLimit()
	}
	return ipv4.NewPacketConn(s.conn).MulticastTTL()
}

func (s *udpSocket) multicastLoopback() (bool, error) {
	if s.is6 {
		return ipv6.NewPacketConn(s.conn).MulticastLoopback()
	}
	return ipv4.NewPacketConn(s.conn).MulticastLoopback()
}

// interfaceOf is the interface of that index as x/net takes it, which asks
// for nothing but the index.
func interfaceOf(index int) *net.Interface {
	if index == 0 {
		return nil
	}
	return &net.Interface{Index: index}
}

func udpAddr(a netip.Addr) *net.UDPAddr { return &net.UDPAddr{IP: a.AsSlice()} }
