package udp

import (
	"encoding/binary"
	"time"
)

// The pcap format: draft-ietf-opsawg-pcap, with nanoseconds.
const (
	pcapMagic   = 0xa1b23c4d
	pcapSnapLen = 1 << 18
	pcapRaw     = 101 // LINKTYPE_RAW
)

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	udpHeaderLen  = 8
	protocolUDP   = 17
)

// capture writes f to Capture, as many times as it arrives, or once if it does
// not.
func (n *MemNet) capture(f *flight, c *crossing) {
	if n.Capture == nil {
		return
	}
	order := binary.BigEndian
	if !n.capturing {
		n.capturing = true
		b := order.AppendUint32(nil, pcapMagic)
		b = order.AppendUint16(b, 2) // version 2.4
		b = order.AppendUint16(b, 4)
		b = append(b, make([]byte, 8)...) // reserved
		b = order.AppendUint32(b, pcapSnapLen)
		b = order.AppendUint32(b, pcapRaw)
		n.Capture.Write(b)
	}
	now := time.Now()
	b := order.AppendUint32(n.packet[:0], uint32(now.Unix()))
	b = order.AppendUint32(b, uint32(now.Nanosecond()))
	size := ipv4HeaderLen + udpHeaderLen + len(f.Payload)
	if f.Local.Is6() {
		size += ipv6HeaderLen - ipv4HeaderLen
	}
	b = order.AppendUint32(b, uint32(size))
	b = order.AppendUint32(b, uint32(size))
	n.packet = appendPacket(b, f, c)
	for range 1 + c.copies {
		n.Capture.Write(n.packet)
	}
}

// appendPacket appends f to b as an IP packet.
func appendPacket(b []byte, f *flight, c *crossing) []byte {
	order := binary.BigEndian
	ttl := byte(f.TTL)
	if !c.arrives() {
		ttl = 0
	}
	source, destination, size := f.Addr.Addr().AsSlice(), f.Local.AsSlice(), udpHeaderLen+len(f.Payload)
	if f.Local.Is4() { // RFC 791
		header := len(b)
		b = append(b, 4<<4|ipv4HeaderLen/4, f.TrafficClass)
		b = order.AppendUint16(b, uint16(ipv4HeaderLen+size))
		b = order.AppendUint16(b, uint16(c.number))
		b = append(b, 0, 0, ttl, protocolUDP, 0, 0)
		b = append(append(b, source...), destination...)
		order.PutUint16(b[header+10:], checksum(0, b[header:]))
	} else { // RFC 8200
		b = order.AppendUint32(b, 6<<28|uint32(f.TrafficClass)<<20|uint32(c.number)&(1<<20-1))
		b = order.AppendUint16(b, uint16(size))
		b = append(b, protocolUDP, ttl)
		b = append(append(b, source...), destination...)
	}
	header := len(b)
	b = order.AppendUint16(b, f.Addr.Port())
	b = order.AppendUint16(b, f.port)
	b = order.AppendUint16(b, uint16(size))
	b = append(append(b, 0, 0), f.Payload...)
	// The checksum is over the addresses too (RFC 768), which stand before.
	sum := checksum(uint32(size)+protocolUDP, b[header-2*len(source):])
	if sum == 0 {
		sum = 0xffff // 0 would say that there is none
	}
	order.PutUint16(b[header+6:], sum)
	return b
}

// checksum is the one of RFC 1071, which begins with sum.
func checksum(sum uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
