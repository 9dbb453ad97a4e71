package udp

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzControlLinux compares with what x/sys makes of the same control data.
func FuzzControlLinux(f *testing.F) {
	message := func(level, kind int32, data ...byte) []byte {
		b, end := appendControlHeader(nil, len(data), level, kind)
		return pad(append(b, data...), end)
	}
	ttl := message(unix.IPPROTO_IP, unix.IP_TTL, 64, 0, 0, 0)
	gro := message(unix.SOL_UDP, unix.UDP_GRO, 0xb0, 4, 0, 0)
	f.Add(append(ttl, gro...))
	f.Add(append(gro, ttl[:len(ttl)-1]...))
	f.Add(message(unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, 1, 0, 0))
	f.Add(message(unix.SOL_UDP, unix.UDP_GRO))
	f.Add(appendPacketInfo(ttl, netip.MustParseAddr("192.0.2.1"), 3, true, false))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Datagram
		segment := parseControl(b, &d)
		messages, err := unix.ParseSocketControlMessage(b)
		if err != nil {
			return
		}
		wantTTL, wantSegment := 0, 0
		for _, m := range messages {
			if len(m.Data) < 4 {
				continue
			}
			value := int(int32(binary.NativeEndian.Uint32(m.Data)))
			switch [2]int32{m.Header.Level, m.Header.Type} {
			case [2]int32{unix.IPPROTO_IP, unix.IP_TTL}, [2]int32{unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT}:
				wantTTL = value
			case [2]int32{unix.SOL_UDP, unix.UDP_GRO}:
				wantSegment = value
			}
		}
		if d.TTL != wantTTL || segment != wantSegment {
			t.Errorf("the TTL is %d, want %d; segments have %d, want %d", d.TTL, wantTTL, segment, wantSegment)
		}
	})
}

// FuzzReport has any bytes be the control data of an entry of the error queue.
func FuzzReport(f *testing.F) {
	entry := func(errno syscall.Errno, origin byte, mtu uint32, offender ...byte) []byte {
		level, kind := int32(unix.IPPROTO_IP), int32(unix.IP_RECVERR)
		if origin == unix.SO_EE_ORIGIN_ICMP6 {
			level, kind = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
		}
		b, end := appendControlHeader(nil, extendedError+len(offender), level, kind)
		b = binary.NativeEndian.AppendUint32(b, uint32(errno))
		b = append(b, origin, 3, 3, 0)
		b = binary.NativeEndian.AppendUint32(b, mtu)
		return pad(append(b, append(make([]byte, 4), offender...)...), end)
	}
	offender4 := append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET), 0, 0, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0)
	offender6 := append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), make([]byte, 26)...)
	offender6[8], offender6[9], offender6[24] = 0xfe, 0x80, 1
	for _, b := range [][]byte{
		entry(unix.ECONNREFUSED, unix.SO_EE_ORIGIN_ICMP, 0, offender4...),
		entry(unix.EMSGSIZE, unix.SO_EE_ORIGIN_ICMP6, 0xffffffff, offender6...),
		entry(unix.EMSGSIZE, unix.SO_EE_ORIGIN_LOCAL, 1500, offender4...),
		entry(0, unix.SO_EE_ORIGIN_ICMP, 0),
		entry(unix.EHOSTUNREACH, unix.SO_EE_ORIGIN_ICMP, 0, offender4[:15]...),
		entry(unix.EHOSTUNREACH, unix.SO_EE_ORIGIN_ICMP6, 0, offender6[:27]...),
	} {
		f.Add(b)
		f.Add(b[:len(b)-1])
		f.Add(append(b, b...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		u, ok := parseReport(b)
		errno, _ := u.Err.(syscall.Errno)
		switch {
		case !ok && u != (Undelivered{}):
			t.Errorf("no report is %+v", u)
		case ok && errno == 0:
			t.Errorf("%+v says nothing", u)
		case u.MTU < 0 || u.MTU != 0 && errno != unix.EMSGSIZE:
			t.Errorf("%+v has an MTU", u)
		case u.Offender.Is4In6():
			t.Errorf("%+v has a mapped address", u)
		case ok && len(b) < headerSpace+extendedError:
			t.Errorf("%d bytes are a report", len(b))
		}
	})
}
