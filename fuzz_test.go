package udp

import (
	"bytes"
	"context"
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

// FuzzControl has any bytes be the control data of a datagram.
func FuzzControl(f *testing.F) {
	local4, local6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	peer4, peer6 := netip.MustParseAddrPort("192.0.2.9:7"), netip.MustParseAddrPort("[2001:db8::9]:7")
	both := appendPacketInfo(appendPacketInfo(nil, local4, 3, true, false), local6, 4, false, true)
	for i := range both {
		f.Add(both[:i], true)
		f.Add(both[i:], false)
	}
	f.Add(bytes.Repeat([]byte{0xff}, 100), true)
	f.Add(make([]byte, controlSpace), false)
	f.Fuzz(func(t *testing.T, b []byte, ip4 bool) {
		d := Datagram{Addr: peer6, Payload: []byte("x"), TTL: 7}
		if ip4 {
			d.Addr = peer4
		}
		before, addr := bytes.Clone(b), d.Addr
		segment := parseControl(b, &d)
		if !bytes.Equal(b, before) {
			t.Error("the control data are changed")
		}
		if d.Addr != addr || string(d.Payload) != "x" || d.Truncated {
			t.Errorf("%+v: what no control message says is changed", d)
		}
		if len(b) < 12 && (segment != 0 || d.Local.IsValid() || d.Interface != 0 || d.TTL != 7) {
			t.Errorf("%d bytes say %+v, %d", len(b), d, segment)
		}
	})
}

// FuzzWinsock has any bytes be the control data of a datagram on Windows.
func FuzzWinsock(f *testing.F) {
	local4, local6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	f.Add(appendWinsockPacketInfo(nil, local4, 3, true, false), true)
	f.Add(appendWinsockPacketInfo(nil, local6, 4, false, true), false)
	f.Add(appendWinsockTrafficClass(appendWinsockPacketInfo(nil, local4, 3, true, true), 0xb8, true, true), true)
	f.Add(bytes.Repeat([]byte{0xff}, 100), false)
	f.Fuzz(func(t *testing.T, b []byte, ip4 bool) {
		d := Datagram{Addr: netip.MustParseAddrPort("[2001:db8::9]:7")}
		if ip4 {
			d.Addr = netip.MustParseAddrPort("192.0.2.9:7")
		}
		before, addr := bytes.Clone(b), d.Addr
		parseWinsock(b, &d)
		if !bytes.Equal(b, before) || d.Addr != addr {
			t.Errorf("%+v: what no control message says is changed", d)
		}
	})
}

// TestWinsock reads what it has made, as Windows reads it.
func TestWinsock(t *testing.T) {
	local4, local6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	peer4, peer6 := netip.MustParseAddrPort("192.0.2.9:7"), netip.MustParseAddrPort("[2001:db8::9]:7")
	for _, test := range []struct {
		peer     netip.AddrPort
		source   netip.Addr
		ip4, is6 bool
		want     Datagram
	}{
		{peer4, local4, true, false, Datagram{Local: local4, Interface: 3, TrafficClass: 0xb8}},
		{peer6, local6, false, true, Datagram{Local: local6, Interface: 3, TrafficClass: 0xb8}},
		{peer4, local4, true, true, Datagram{TrafficClass: 0xb8}}, // mapped: the IPv4 message, which is not sent, says more
	} {
		b := appendWinsockPacketInfo(nil, test.source, 3, test.ip4, test.is6)
		b = appendWinsockTrafficClass(b, 0xb8, test.ip4, test.is6)
		d := Datagram{Addr: test.peer}
		parseWinsock(b, &d)
		test.want.Addr = test.peer
		if d.Local != test.want.Local || d.Interface != test.want.Interface || d.TrafficClass != test.want.TrafficClass {
			t.Errorf("%v: %+v, want %+v", test.source, d, test.want)
		}
	}
}

// FuzzResolve has any string be an address. Nothing is looked up.
func FuzzResolve(f *testing.F) {
	for _, address := range []string{
		"127.0.0.1:53", "[::1]:53", "[fe80::1%lo]:53", "[fe80::1%25lo]:0", "[::ffff:192.0.2.1]:9", "[::]:0", ":0", ":",
		"0:0", "1:65536", "1.2.3.4:-1", "1.2.3:9", "[1.2.3.4]:9", "::1:9", "[::1", "]:[", "a:b:c", "127.1:7", "0x7f.1:7", "",
		"1.2.3.4:0x10", "1.2.3.4:+7", "1.2.3.4:007", "1.2.3.4: 7", "[::1%]:7", "[%lo]:7", "\x00:7", "١.2.3.4:7",
	} {
		for _, network := range []string{"", "udp", "udp4", "udp6"} {
			f.Add(network, address)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	f.Fuzz(func(t *testing.T, network, address string) {
		if i := strings.LastIndexByte(address, ':'); i >= 0 {
			if _, err := strconv.Atoi(address[i+1:]); err != nil {
				return // the name of a service, which may be looked up
			}
		}
		addr, err := Resolve(ended, network, address)
		if err != nil {
			if addr != (netip.AddrPort{}) {
				t.Errorf("%q on %q is %v, and %v", address, network, addr, err)
			}
			return
		}
		switch {
		case !addr.IsValid() || addr.Addr().Is4In6():
			t.Errorf("%q on %q is %v", address, network, addr)
		case network == "udp4" && !addr.Addr().Is4(), network == "udp6" && !addr.Addr().Is6():
			t.Errorf("%q on %q is %v, of the other family", address, network, addr)
		}
		if again, err := Resolve(ended, network, addr.String()); again != addr || err != nil {
			t.Errorf("%q on %q is %v, which is %v, %v", address, network, addr, again, err)
		}
	})
}
