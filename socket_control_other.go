//go:build !linux && !windows

package udp

import (
	"errors"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// controlSpace is room for all the control data of one datagram.
const controlSpace = 256

// setUp sets what a new socket needs: the system is to tell with each
// datagram what can differ from one to the next, and to refuse broadcasts
// unless they are allowed, which package net does. A system that cannot tell
// leaves it unknown.
func (s *udpSocket) setUp(lc *ListenConfig) error {
	setBroadcast(s.raw, lc.Broadcast)
	if err := askForMore(s.raw, lc, s.ip4, s.is6); err != nil {
		return err
	}
	flags4, flags6 := ipv4.FlagTTL, ipv6.FlagHopLimit
	if lc.ReadTrafficClass {
		flags6 |= ipv6.FlagTrafficClass
	}
	if !s.bound.IsValid() || lc.Interface != nil {
		flags4 |= ipv4.FlagDst | ipv4.FlagInterface
		flags6 |= ipv6.FlagDst | ipv6.FlagInterface
	}
	var err error
	if s.is6 {
		err = ipv6.NewPacketConn(s.conn).SetControlMessage(flags6, true)
	}
	if s.ip4 {
		err4 := ipv4.NewPacketConn(s.conn).SetControlMessage(flags4, true)
		if !s.is6 {
			err = err4
		}
	}
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// parseControl fills d from the control messages that came with it. Whatever
// is malformed, or not known to the system, is passed over.
func parseControl(b []byte, d *Datagram) (segment int) {
	var cm4 ipv4.ControlMessage
	var cm6 ipv6.ControlMessage
	if len(b) == 0 || cm4.Parse(b) != nil || cm6.Parse(b) != nil {
		return 0
	}
	d.TTL = max(cm4.TTL, cm6.HopLimit)
	d.Interface = max(cm4.IfIndex, cm6.IfIndex)
	d.TrafficClass = uint8(cm6.TrafficClass)
	d.Time = parseReceiveTime(b)
	if a, ok := netip.AddrFromSlice(cm6.Dst); ok {
		d.Local = a.Unmap()
	}
	if a, ok := netip.AddrFromSlice(cm4.Dst); ok {
		d.Local = a.Unmap()
	}
	return 0
}

// appendPacketInfo appends the control message that makes a datagram leave
// from source, by the interface of that index. For an IPv4 datagram of an
// IPv6 socket there is none.
func appendPacketInfo(b []byte, source netip.Addr, index int, ip4, is6 bool) []byte {
	switch {
	case !ip4:
		return append(b, (&ipv6.ControlMessage{Src: source.AsSlice(), IfIndex: index}).Marshal()...)
	case is6:
		return b
	}
	control := (&ipv4.ControlMessage{Src: source.AsSlice(), IfIndex: index}).Marshal()
	if len(control) == 0 && source.IsValid() {
		return appendSource(b, source)
	}
	return append(b, control...)
}

// appendTrafficClass appends the control message that gives a datagram its
// class. For IPv4 there is none that all these systems have.
func appendTrafficClass(b []byte, class uint8, ip4, _ bool) []byte {
	if ip4 {
		return b
	}
	return append(b, (&ipv6.ControlMessage{TrafficClass: int(class)}).Marshal()...)
}
