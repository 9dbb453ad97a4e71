//go:build linux

package udp_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"example.com/udp"
)

// TestMemNetFailsAsKernel needs root and ip(8): it makes two network namespaces.
// It makes one mistake after the other on a host there, and on one of a MemNet
// with the same addresses: the results are the same.
func TestMemNetFailsAsKernel(t *testing.T) {
	const variable = "UDP_TEST_MISTAKES"
	if os.Getenv(variable) != "" {
		for _, line := range mistakes(t, nil) {
			fmt.Println("mistake:", line)
		}
		return
	}
	t.Parallel()
	hs := hosts(t, "a", "b")
	join(hs[0], "eth0", []string{"10.0.0.1/24", "2001:db8::1/64"}, hs[1], "eth0", []string{"10.0.0.2/24", "2001:db8::2/64"})
	hs[0].ip("route add default via 10.0.0.2") // for what is sent to all
	self := again(t, "TestMemNetFailsAsKernel")
	cmd := hs[0].command(self[0], self[1:]...)
	cmd.Env = append(os.Environ(), variable+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var kernel []string
	for line := range strings.Lines(string(out)) {
		if result, ok := strings.CutPrefix(line, "mistake: "); ok {
			kernel = append(kernel, strings.TrimSpace(result))
		}
	}
	mem := mistakes(t, new(udp.MemNet).Host(addrs("10.0.0.1", "2001:db8::1")...))
	if len(kernel) != len(mem) {
		t.Fatalf("%d results of the kernel, %d of the MemNet", len(kernel), len(mem))
	}
	for i := range mem {
		if mem[i] != kernel[i] {
			t.Errorf("MemNet: %s\nkernel: %s", mem[i], kernel[i])
		}
	}
}

// mistakes makes all of them, and returns what each comes to.
func mistakes(t *testing.T, listener udp.PacketListener) (results []string) {
	lc := udp.ListenConfig{PacketListener: listener}
	nowhere := &net.Interface{Index: 1 << 20, Name: "nowhere"}
	result := func(what string, err error) {
		r := "success"
		if _, ok := errors.AsType[*net.AddrError](err); ok {
			r = "*net.AddrError"
		} else if err != nil {
			r = err.Error()
			for _, errno := range []syscall.Errno{
				syscall.EACCES, syscall.EADDRINUSE, syscall.EADDRNOTAVAIL, syscall.EINVAL, syscall.EMSGSIZE, syscall.ENETUNREACH, syscall.ENODEV, syscall.ENOTCONN,
			} {
				if errors.Is(err, errno) {
					r = errno.Error()
				}
			}
		}
		results = append(results, what+": "+r)
	}
	listen := func(lc udp.ListenConfig, address string) *udp.Conn {
		c, err := lc.Listen(t.Context(), address, nil)
		check(t, err)
		closeAtEnd(t, c)
		return c
	}
	open := func(what string, lc udp.ListenConfig, address string) {
		c, err := lc.Listen(t.Context(), address, nil)
		result(what, err)
		if err == nil {
			closeAtEnd(t, c)
		}
	}
	to := netip.MustParseAddrPort

	open("listen at an address of another host", lc, "10.0.0.2:0")
	open("listen at an IPv6 address of another host", lc, "[2001:db8::2]:0")
	taken := listen(lc, "10.0.0.1:0")
	open("listen at a port that is taken", lc, taken.LocalAddr().String())
	open("listen at a port that is taken, on all addresses", lc, fmt.Sprint(":", taken.LocalAddr().Port()))
	shared := lc
	shared.ReusePort = true
	first := listen(shared, "10.0.0.1:0")
	open("share a port", shared, first.LocalAddr().String())
	open("listen at a shared port", lc, first.LocalAddr().String())
	device := lc
	device.Interface = nowhere
	open("listen on an interface that there is not", device, ":0")

	for _, at := range []string{":0", "10.0.0.1:0", "127.0.0.1:0", "[::1]:0", "[2001:db8::1]:0", "0.0.0.0:0"} {
		c := listen(lc, at)
		name := "from " + at + " "
		for _, addr := range []string{"10.0.0.1:9", "127.0.0.1:9", "[2001:db8::1]:9", "[::1]:9", "10.0.0.2:9", "[2001:db8::2]:9", "255.255.255.255:9",
			"0.0.0.0:9", "[::]:9", "239.1.1.1:9", "[ff15::1%nowhere]:9", "[fe80::1%nowhere]:9", "[fe80::1%1048576]:9"} {
			result(name+"connect to "+addr, c.Connect(to(addr)))
			if peer := c.RemoteAddr(); peer.IsValid() {
				results = append(results, fmt.Sprint("that is ", peer))
				check(t, c.Disconnect())
			}
			result(name+"write to "+addr, second(c.WriteTo([]byte("x"), to(addr))))
		}
		for _, size := range []int{65507, 65508, 65527, 65528} {
			for _, addr := range []string{"127.0.0.1:9", "[::1]:9"} {
				result(fmt.Sprint(name, "write ", size, " bytes to ", addr), second(c.WriteTo(make([]byte, size), to(addr))))
			}
		}
		for _, d := range []udp.Datagram{
			{Addr: to("10.0.0.1:9"), Local: netip.MustParseAddr("2001:db8::1")},
			{Addr: to("10.0.0.1:9"), Local: netip.MustParseAddr("192.0.2.77")},
			{Addr: to("[2001:db8::1]:9"), Local: netip.MustParseAddr("2001:db8::77")},
			{Addr: to("239.1.1.1:9"), Interface: nowhere.Index},
			{Addr: to("[ff15::1]:9"), Interface: nowhere.Index},
		} {
			_, err := c.WriteBatch([]udp.Datagram{d})
			result(fmt.Sprint(name, "send to ", d.Addr, " from ", d.Local, " by ", d.Interface), err)
			result("the same by Reply", second(c.Reply(d, nil)))
		}
	}
	broadcast := lc
	broadcast.Broadcast = true
	c := listen(broadcast, ":0")
	all := to("255.255.255.255:9")
	result("write to all with Broadcast", second(c.WriteTo(nil, all)))
	result("connect to all with Broadcast", c.Connect(all))
	result("write there", second(c.Write(nil)))

	c = listen(lc, ":0")
	for _, group := range []string{"239.1.1.1", "ff15::1"} {
		g := udp.Group{Addr: netip.MustParseAddr(group), Interface: nowhere}
		result("join "+group+" on an interface that there is not", c.Join(g))
	}
	result("join by a zone that there is not", c.Join(udp.Group{Addr: netip.MustParseAddr("ff15::1%nowhere")}))
	result("send to groups by an interface that there is not", c.SetMulticastInterface(nowhere))
	return results
}
