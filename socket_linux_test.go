package udp_test

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"example.com/udp"
	"golang.org/x/sys/unix"
)

// TestSocketBuffers reads back what Linux makes of the sizes: twice as much,
// for its own bookkeeping (socket(7)).
func TestSocketBuffers(t *testing.T) {
	n := setup{bind: "127.0.0.1:0", config: udp.ListenConfig{ReadBuffer: 50000, WriteBuffer: 40000}}
	c := n.listen(t, nil)
	if got := option(t, c, unix.SOL_SOCKET, unix.SO_RCVBUF); got != 100000 {
		t.Errorf("the receive buffer has %d bytes", got)
	}
	if got := option(t, c, unix.SOL_SOCKET, unix.SO_SNDBUF); got != 80000 {
		t.Errorf("the send buffer has %d bytes", got)
	}
}

// TestMulticastSockopts reads the options from the kernel: a socket of both
// families has both set.
func TestMulticastSockopts(t *testing.T) {
	needIPv6(t)
	for _, n := range kernelSetups() {
		if !n.wildcard() {
			continue
		}
		c := n.listen(t, nil)
		check(t, c.SetMulticastTTL(7))
		check(t, c.SetMulticastLoopback(false))
		check(t, c.SetMulticastInterface(n.ifi))
		if n.config.Network != "udp6" {
			if got := option(t, c, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL); got != 7 {
				t.Errorf("%s: the TTL is %d", n.name, got)
			}
			if got := option(t, c, unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP); got != 0 {
				t.Errorf("%s: the loopback of IPv4 is %d", n.name, got)
			}
		}
		if n.config.Network != "udp4" {
			if got := option(t, c, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS); got != 7 {
				t.Errorf("%s: the hop limit is %d", n.name, got)
			}
			if got := option(t, c, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP); got != 0 {
				t.Errorf("%s: the loopback of IPv6 is %d", n.name, got)
			}
			if got := option(t, c, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF); got != n.ifi.Index {
				t.Errorf("%s: the interface of IPv6 is %d", n.name, got)
			}
		}
	}
}

// TestMulticastInNamespace runs the scenarios for groups, this test binary
// again, in a namespace where both families have an interface that is not lo.
func TestMulticastInNamespace(t *testing.T) {
	const variable = "UDP_TEST_NAMESPACE"
	four := setup{
		name: "IPv4", bind: ":0", kernel: true,
		host: netip.MustParseAddr("192.0.2.1"), aliases: []netip.Addr{netip.MustParseAddr("192.0.2.2")},
	}
	six := setup{
		name: "IPv6", bind: ":0", kernel: true,
		host: netip.MustParseAddr("2001:db8::1"), aliases: []netip.Addr{netip.MustParseAddr("2001:db8::2")},
	}
	if os.Getenv(variable) == "" {
		h := hosts(t, "multicast")[0]
		h.ip("link add veth0 type veth peer name veth1")
		h.up("veth0", "192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64", "2001:db8::2/64")
		h.up("veth1")
		h.ready("veth0")
		self := again(t, "TestMulticastInNamespace")
		cmd := h.command(self[0], self[1:]...)
		cmd.Env = append(os.Environ(), variable+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v:\n%s", err, out)
		}
		return
	}
	ifi, err := net.InterfaceByName("veth0")
	check(t, err)
	four.ifi, six.ifi = ifi, ifi
	runScenarios(t, append(multicastScenarios, scenario{"Loopback", testLoopback}), []setup{four, six})
}

// testLoopback turns the loopback off and on, which lo itself ignores.
func testLoopback(t *testing.T, n setup) {
	r := record()
	c := n.multicast(t, n.bind, r, n.any(1))
	from := n.sender(t, nil)
	check(t, from.SetMulticastLoopback(false))
	write(t, from, n.toGroup(1, c), "not here")
	check(t, from.SetMulticastLoopback(true))
	write(t, from, n.toGroup(1, c), "here")
	r.expect(t, "here", n.reach(from))
}

func option(t *testing.T, c *udp.Conn, level, name int) int {
	t.Helper()
	raw, err := c.SyscallConn()
	check(t, err)
	var value int
	var err2 error
	check(t, raw.Control(func(fd uintptr) { value, err2 = unix.GetsockoptInt(int(fd), level, name) }))
	check(t, err2)
	return value
}
