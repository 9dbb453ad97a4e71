package udp

import (
	"bytes"
	"net"
	"slices"
	"testing"
)

// TestInterfacesWithoutNetlink lists the interfaces as a sandbox without netlink
// sockets allows it, and as net does.
func TestInterfacesWithoutNetlink(t *testing.T) {
	want, err := net.Interfaces()
	if err != nil {
		t.Skip("needs netlink to compare with: ", err)
	}
	for _, network := range []string{"udp4", "udp6"} {
		conn, err := net.ListenUDP(network, nil)
		if err != nil {
			t.Log("no ", network, ": ", err)
			continue
		}
		defer conn.Close()
		s := new(udpSocket)
		if err := s.open(conn, new(ListenConfig), ""); err != nil {
			t.Fatal(err)
		}
		var names []string
		const matters = net.FlagUp | net.FlagMulticast
		for _, ifi := range want {
			names = append(names, ifi.Name)
			got := s.askInterfaces([]string{ifi.Name})
			if len(got) != 1 || got[0].Index != ifi.Index || got[0].Name != ifi.Name || got[0].Flags != ifi.Flags&matters ||
				len(ifi.HardwareAddr) == 6 && !bytes.Equal(got[0].HardwareAddr, ifi.HardwareAddr) {
				t.Errorf("the interface is %+v, want %+v", got, ifi)
			}
			addrs, _ := ifi.Addrs()
			has4, has6 := false, false
			for _, a := range addrs {
				has4 = has4 || a.(*net.IPNet).IP.To4() != nil
				has6 = has6 || a.(*net.IPNet).IP.To4() == nil
			}
			if has := slices.Contains(s.namesWithIPv4(), ifi.Name); has != (has4 && ifi.Flags&net.FlagUp != 0) && has != has4 {
				t.Errorf("%s has an IPv4 address: %t", ifi.Name, has)
			}
			if has := slices.Contains(namesIn("/proc/thread-self/net/if_inet6", 5), ifi.Name); has != has6 {
				t.Errorf("%s has an IPv6 address: %t", ifi.Name, has)
			}
			if s.hasAddress(&ifi, true) != has4 || s.hasAddress(&ifi, false) != has6 {
				t.Errorf("%s has addresses: IPv4 %t, IPv6 %t", ifi.Name, has4, has6)
			}
		}
		got := namesIn("/proc/thread-self/net/dev", 0)
		slices.Sort(got)
		slices.Sort(names)
		if !slices.Equal(got, names) {
			t.Errorf("there are %q, want %q", got, names)
		}
		if got := s.askInterfaces([]string{"nothing", "lo:1", ""}); got != nil {
			t.Errorf("names that are not there are %+v", got)
		}
	}
}
