//go:build linux

package udp_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/udp"
	"golang.org/x/sys/unix"
)

// TestTTLAcrossRouter needs root, ip(8) and smcrouted(8): it makes three
// network namespaces, the middle one a multicast router. A TTL of 1 stays on
// the link, one of 5 crosses it.
func TestTTLAcrossRouter(t *testing.T) {
	t.Parallel()
	needPrograms(t, "smcroute", "smcrouted")
	hs := hosts(t, "a", "router", "b")
	a, router, b := hs[0], hs[1], hs[2]
	join(a, "eth0", []string{"10.1.0.1/24", "fd00:1::1/64"}, router, "eth0", []string{"10.1.0.9/24", "fd00:1::9/64"})
	join(b, "eth0", []string{"10.2.0.1/24", "fd00:2::1/64"}, router, "eth1", []string{"10.2.0.9/24", "fd00:2::9/64"})
	a.ip("route add default via 10.1.0.9", "route add default via fd00:1::9")
	b.ip("route add default via 10.2.0.9", "route add default via fd00:2::9")
	router.sysctl("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1")
	config, err := filepath.Abs("testdata/smcroute.conf")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	router.start("smcrouted", "-n", "-N", "-l", "debug", "-f", config, "-P", dir+"/pid", "-u", dir+"/socket").
		says("Ready")

	pa, pr, pb := a.peer(), router.peer(), b.peer()
	port := uint16(5000)
	for _, f := range families {
		for _, network := range f.networks {
			g := f.groups[0]
			port++
			near, far := pr.listen(network, fmt.Sprintf(":%d", port), ""), pb.listen(network, fmt.Sprintf(":%d", port), "reply")
			near.must("join", g+"%eth0")
			far.must("join", g+"%eth0")
			sender := pa.listen(network, ":0", "")
			sender.do(message{Op: "interface", Text: "eth0"})
			payload := func(ttl int) string { return fmt.Sprintf("%s on %s with TTL %d", f.name, network, ttl) }
			for _, ttl := range []int{1, 5} {
				if ttl != 1 { // which is the default
					sender.do(message{Op: "ttl", Int: ttl})
				}
				sender.write(udp.Datagram{Payload: []byte(payload(ttl)), Addr: to(g, port)})
				if d := near.next(payload(ttl)); d.TTL != ttl {
					t.Errorf("%s came with %d on its link", payload(ttl), d.TTL)
				}
			}
			// The first one would have come first.
			if d := far.next(payload(5)); d.TTL != 4 {
				t.Errorf("%s came with %d behind the router, want 4", payload(5), d.TTL)
			}
			if d := sender.next("re: " + payload(5)); d.TTL != 63 {
				t.Errorf("the answer to %s came with TTL %d, want 63", payload(5), d.TTL)
			}
		}
	}
}

// TestReportsOnTheWire needs root and ip(8). Another host on the link sees
// what is joined and left, by IGMP and MLD.
func TestReportsOnTheWire(t *testing.T) {
	t.Parallel()
	hs := hosts(t, "a", "router")
	a, router := hs[0], hs[1]
	// No link-local address: up to a second after one has come, the kernel tells
	// all groups once more. As long as a change to TO_EX is to be repeated, it
	// tells of blocked sources in no other way (RFC 3810, section 6.1).
	a.sysctl("net/ipv6/conf/default/addr_gen_mode=1")
	join(a, "eth0", []string{"10.1.0.1/24"}, router, "eth0", []string{"10.1.0.9/24"})
	// Repeated after 10 ms, not after a second.
	a.sysctl("net/ipv4/conf/eth0/igmpv3_unsolicited_report_interval=10", "net/ipv6/conf/eth0/mldv2_unsolicited_report_interval=10")
	pr := router.peer()
	pr.do(message{Op: "capture", Text: "eth0"})
	wire := pr.remote(0)
	pa := a.peer()
	for _, test := range []struct {
		network, group, special, source string
		old                             string // what makes the kernel use an older version
		names                           [2]string
	}{
		{"udp4", "239.1.2.3", "232.1.2.3", "10.1.0.9", "net/ipv4/conf/eth0/force_igmp_version=2", [2]string{"IGMPv3", "IGMPv2"}},
		{"udp", "239.1.2.4", "232.1.2.4", "10.1.0.9", "net/ipv4/conf/eth0/force_igmp_version=2", [2]string{"IGMPv3", "IGMPv2"}},
		{"udp6", "ff15::3", "ff35::3", "fd00:1::9", "net/ipv6/conf/eth0/force_mld_version=1", [2]string{"MLDv2", "MLDv1"}},
	} {
		c := pa.listen(test.network, ":0", "")
		member := func(group string, want bool) {
			t.Helper()
			if a.member("eth0", group) != want {
				t.Errorf("%s listed by the kernel: %t, want %t", group, !want, want)
			}
		}
		report := func(kind, group string, sources ...string) {
			t.Helper()
			wire.log(patience, fmt.Sprintf("%s %s %s %v;", test.names[0], kind, group, sources))
		}
		c.must("join", test.group+"%eth0")
		report("TO_EX", test.group)
		member(test.group, true)
		c.must("block", test.group+"%eth0<"+test.source)
		report("BLOCK", test.group, test.source)
		c.must("unblock", test.group+"%eth0<"+test.source)
		report("ALLOW", test.group, test.source)
		c.must("leave", test.group+"%eth0")
		report("TO_IN", test.group)
		member(test.group, false)

		c.must("join", test.special+"%eth0<"+test.source)
		report("ALLOW", test.special, test.source)
		member(test.special, true)
		c.must("leave", test.special+"%eth0<"+test.source)
		report("BLOCK", test.special, test.source)
		member(test.special, false)

		c.must("joinAll", test.group)
		report("TO_EX", test.group)
		c.do(message{Op: "close"})
		report("TO_IN", test.group)
		member(test.group, false)

		c = pa.listen(test.network, ":0", "")
		a.sysctl(test.old)
		c.must("join", test.group+"%eth0")
		wire.log(patience, test.names[1]+" report "+test.group)
		c.must("leave", test.group+"%eth0")
		wire.log(patience, test.names[1]+" leave "+test.group)
		name, _, _ := strings.Cut(test.old, "=")
		a.sysctl(name + "=0")
	}
}

// capture tells the test, by the log of no Conn, of the IGMP and MLD packets
// on an interface.
func (p *peerProcess) capture(ifname string) error {
	index, err := os.ReadFile("/sys/class/net/" + ifname + "/ifindex")
	if err != nil {
		return err
	}
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL)) // in the network's order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
	if err != nil {
		return err
	}
	sa := &unix.SockaddrLinklayer{Protocol: all}
	fmt.Sscan(string(index), &sa.Ifindex)
	if err := unix.Bind(fd, sa); err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "packets")
	ended := make(chan struct{})
	p.atEnd = append(p.atEnd, func() {
		f.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		b := make([]byte, 2000)
		for {
			n, err := f.Read(b)
			if err != nil {
				return
			}
			if text := membershipReport(b[:n]); text != "" {
				p.say(message{Op: "log", Text: text})
			}
		}
	}()
	return nil
}

// membershipReport describes an IP packet, if it is a report of IGMP (RFC
// 2236, RFC 3376) or MLD (RFC 2710, RFC 3810).
func membershipReport(b []byte) string {
	if len(b) < 20 {
		return ""
	}
	switch {
	case b[0]>>4 == 4 && b[9] == unix.IPPROTO_IGMP:
		b = b[int(b[0]&15)*4:]
		switch {
		case b[0] == 0x22:
			return "IGMPv3" + records(b, 4)
		case b[0] == 0x16:
			return "IGMPv2 report " + netip.AddrFrom4([4]byte(b[4:])).String()
		case b[0] == 0x17:
			return "IGMPv2 leave " + netip.AddrFrom4([4]byte(b[4:])).String()
		}
	case b[0]>>4 == 6 && b[6] == unix.IPPROTO_HOPOPTS && b[40] == unix.IPPROTO_ICMPV6:
		b = b[40+int(b[41]+1)*8:]
		switch b[0] {
		case 143:
			return "MLDv2" + records(b, 16)
		case 131:
			return "MLDv1 report " + netip.AddrFrom16([16]byte(b[8:])).String()
		case 132:
			return "MLDv1 leave " + netip.AddrFrom16([16]byte(b[8:])).String()
		}
	}
	return ""
}

// records lists the group records of a report, with addresses of that size.
func records(b []byte, size int) string {
	kinds := []string{"?", "IS_IN", "IS_EX", "TO_IN", "TO_EX", "ALLOW", "BLOCK"}
	var text strings.Builder
	n := binary.BigEndian.Uint16(b[6:])
	b = b[8:]
	for range n {
		aux, sources := int(b[1])*4, int(binary.BigEndian.Uint16(b[2:]))
		group, _ := netip.AddrFromSlice(b[4 : 4+size])
		list := []netip.Addr{}
		for s := range slices.Chunk(b[4+size:4+size+sources*size], size) {
			source, _ := netip.AddrFromSlice(s)
			list = append(list, source)
		}
		fmt.Fprintf(&text, " %s %v %v;", kinds[b[0]], group, list)
		b = b[4+size+sources*size+aux:]
	}
	return text.String()
}
