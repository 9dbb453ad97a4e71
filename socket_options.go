package udp

import (
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// The setters keep both families alike, so one of them tells.

func (s *udpSocket) setUnicastTTL(ttl int) error {
	return s.both(
		func(p *ipv4.PacketConn) error { return p.SetTTL(ttl) },
		func(p *ipv6.PacketConn) error { return p.SetHopLimit(ttl) })
}

func (s *udpSocket) unicastTTL() (int, error) {
	if s.is6 {
		return ipv6.NewPacketConn(s.conn).HopLimit()
	}
	return ipv4.NewPacketConn(s.conn).TTL()
}

func (s *udpSocket) setTrafficClass(class uint8) error {
	return s.both(
		func(p *ipv4.PacketConn) error { return p.SetTOS(int(class)) },
		func(p *ipv6.PacketConn) error { return p.SetTrafficClass(int(class)) })
}

func (s *udpSocket) trafficClass() (uint8, error) {
	if s.is6 {
		class, err := ipv6.NewPacketConn(s.conn).TrafficClass()
		return uint8(class), err
	}
	class, err := ipv4.NewPacketConn(s.conn).TOS()
	return uint8(class), err
}
