package udp

import (
	"encoding/binary"
	"net/netip"
)

// Control messages as Windows has them (ws2ipdef.h, ws2def.h). Nothing here
// makes a system call, so that it is compiled and tested everywhere.
const (
	winsockIP   = 0  // IPPROTO_IP
	winsockIPv6 = 41 // IPPROTO_IPV6

	winsockPktinfo  = 19 // IP_PKTINFO, IPV6_PKTINFO
	winsockHopLimit = 21 // IP_HOPLIMIT, IPV6_HOPLIMIT
	winsockTOS      = 3  // IP_TOS
	winsockTClass   = 39 // IPV6_TCLASS

	winsockPktinfo4 = 8  // struct in_pktinfo: the address, the index
	winsockPktinfo6 = 20 // struct in6_pktinfo, likewise
)

// parseWinsock is parseControl for WSACMSGHDRs. A socket for both families
// gets those of both with an IPv4 datagram.
func parseWinsock(b []byte, d *Datagram) (segment int) {
	for {
		level, kind, data, rest, ok := nextControl(b)
		if !ok {
			return 0
		}
		b = rest
		switch {
		case level == winsockIP && kind == winsockPktinfo && len(data) >= winsockPktinfo4:
			d.Local = netip.AddrFrom4([4]byte(data))
			d.Interface = int(int32(binary.NativeEndian.Uint32(data[4:])))
		case level == winsockIPv6 && kind == winsockPktinfo && len(data) >= winsockPktinfo6:
			if !d.Addr.Addr().Is4() {
				d.Local = netip.AddrFrom16([16]byte(data))
				d.Interface = int(int32(binary.NativeEndian.Uint32(data[16:])))
			}
		case len(data) < 4:
		case kind == winsockHopLimit && (level == winsockIP || level == winsockIPv6):
			d.TTL = int(int32(binary.NativeEndian.Uint32(data)))
		case level == winsockIP && kind == winsockTOS, level == winsockIPv6 && kind == winsockTClass:
			d.TrafficClass = uint8(binary.NativeEndian.Uint32(data))
		}
	}
}

// appendWinsockPacketInfo appends the control message that makes a datagram
// leave from source, by the interface of that index: an IPv4 one of a socket
// for both families with its address mapped into IPv6.
func appendWinsockPacketInfo(b []byte, source netip.Addr, index int, ip4, is6 bool) []byte {
	if ip4 && !is6 {
		b, end := appendControlHeader(b, winsockPktinfo4, winsockIP, winsockPktinfo)
		var from [4]byte
		if source.Is4() {
			from = source.As4()
		}
		b = append(b, from[:]...)
		return pad(binary.NativeEndian.AppendUint32(b, uint32(index)), end)
	}
	b, end := appendControlHeader(b, winsockPktinfo6, winsockIPv6, winsockPktinfo)
	var from [16]byte
	if source.IsValid() {
		from = source.As16() // an IPv4 address mapped
	}
	b = append(b, from[:]...)
	return pad(binary.NativeEndian.AppendUint32(b, uint32(index)), end)
}

// appendWinsockTrafficClass appends the control message that gives a datagram
// its class.
func appendWinsockTrafficClass(b []byte, class uint8, ip4, is6 bool) []byte {
	level, kind := int32(winsockIPv6), int32(winsockTClass)
	if ip4 && !is6 {
		level, kind = winsockIP, winsockTOS
	}
	b, end := appendControlHeader(b, 4, level, kind)
	return pad(binary.NativeEndian.AppendUint32(b, uint32(class)), end)
}
