//go:build linux

package udp_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/udp"
	"golang.org/x/net/dns/dnsmessage"
)

// TestAvahiAnswers needs root, ip(8) and avahi-daemon(8), which runs in a
// namespace of its own. It answers an mDNS query (RFC 6762): to the group,
// and, as the query says that its sender is not on the port of mDNS, to the
// sender alone (section 6.7).
func TestAvahiAnswers(t *testing.T) {
	t.Parallel()
	needPrograms(t, "avahi-daemon", "avahi-daemon")
	hs := hosts(t, "a", "responder")
	join(hs[0], "eth0", []string{"10.1.0.1/24", "fd00:1::1/64"}, hs[1], "eth0", []string{"10.1.0.2/24", "fd00:1::2/64"})
	config, err := filepath.Abs("testdata/avahi-daemon.conf")
	if err != nil {
		t.Fatal(err)
	}
	// It writes to /run, which is its own here, as ip-netns(8) makes a mount
	// namespace too.
	hs[1].start("sh", "-c", `mount -t tmpfs none /run && exec avahi-daemon -f "$0" --no-drop-root --no-rlimits --no-chroot`, config).
		says("Server startup complete")

	p := hs[0].peer()
	for _, test := range []struct {
		network, group string
		ask            dnsmessage.Type
		want           string
	}{
		{"udp4", "224.0.0.251", dnsmessage.TypeA, "10.1.0.2"},
		{"udp6", "ff02::fb", dnsmessage.TypeAAAA, "fd00:1::2"},
	} {
		query, err := (&dnsmessage.Message{Questions: []dnsmessage.Question{
			{Name: dnsmessage.MustNewName("udp-responder.local."), Type: test.ask, Class: dnsmessage.ClassINET},
		}}).Pack()
		if err != nil {
			t.Fatal(err)
		}
		alone := p.listen(test.network, ":0", "")
		member := p.listenMulticast(test.network, ":5353", "")
		member.must("join", test.group+"%eth0")
		for _, c := range []*remote{alone, member} {
			c.write(udp.Datagram{Payload: query, Addr: to(test.group, 5353), Interface: hs[0].index("eth0")})
			d := answer(t, c, test.want)
			if want := to(test.want, 5353); d.Addr != want {
				t.Errorf("the answer came from %v, want %v", d.Addr, want)
			}
			if c == member && d.Local.String() != test.group {
				t.Errorf("the answer to the group came to %v", d.Local)
			}
		}
	}
}

// answer returns the first mDNS answer with that address in it.
func answer(t *testing.T, c *remote, want string) udp.Datagram {
	t.Helper()
	for range 20 {
		d := c.any()
		var m dnsmessage.Message
		if err := m.Unpack(d.Payload); err != nil {
			t.Errorf("from %v: %v", d.Addr, err)
		}
		for _, r := range m.Answers {
			switch body := r.Body.(type) {
			case *dnsmessage.AResource:
				if netip.AddrFrom4(body.A).String() == want {
					return d
				}
			case *dnsmessage.AAAAResource:
				if netip.AddrFrom16(body.AAAA).String() == want {
					return d
				}
			}
		}
	}
	t.Fatalf("no answer with %s", want)
	panic("unreachable")
}

// TestSearch needs root and ip(8). As in SSDP, a client on a port of its own
// searches by a group, and each of several hosts answers it alone.
func TestSearch(t *testing.T) {
	t.Parallel()
	hs := hosts(t, "switch", "client", "one", "two", "three")
	hub := hs[0]
	hub.ip("link add bridge type bridge mcast_snooping 0", "link set bridge up")
	for i, h := range hs[1:] {
		port := fmt.Sprintf("port%d", i)
		join(hub, port, nil, h, "eth0", []string{fmt.Sprintf("10.1.0.%d/24", i)})
		hub.ip("link set " + port + " master bridge")
	}
	const group, search = "239.255.255.250", "M-SEARCH * HTTP/1.1\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n"
	client := hs[1].peer().listen("udp", ":0", "")
	var want []netip.AddrPort
	for i, h := range hs[2:] {
		h.peer().listenMulticast("udp", ":1900", "reply").must("joinAll", group)
		want = append(want, to(fmt.Sprintf("10.1.0.%d", i+1), 1900))
	}
	client.write(udp.Datagram{Payload: []byte(search), Addr: to(group, 1900), Interface: hs[1].index("eth0")})
	var got []netip.AddrPort
	for range want {
		got = append(got, client.next("re: "+search).Addr)
	}
	slices.SortFunc(got, netip.AddrPort.Compare)
	if !slices.Equal(got, want) {
		t.Errorf("answered by %v, want %v", got, want)
	}
}

// TestTwistedOnAnotherHost needs root, ip(8) and Twisted. The howto's servers
// and clients, in a namespace each, talk to this package in another.
func TestTwistedOnAnotherHost(t *testing.T) {
	t.Parallel()
	needNamespaces(t)
	if python() == "" {
		t.Skip("Twisted is missing: try apt-get install python3-twisted")
	}
	hs := hosts(t, "a", "twisted")
	join(hs[0], "eth0", []string{"10.1.0.1/24", "fd00:1::1/64"}, hs[1], "eth0", []string{"10.1.0.2/24", "fd00:1::2/64"})
	start := func(program string, args ...string) *process {
		t.Helper()
		program = filepath.Join("testdata", program)
		if _, err := os.Stat(program); err != nil {
			t.Fatal(err)
		}
		return hs[1].start(python(), append([]string{"-B", program}, args...)...)
	}
	p := hs[0].peer()

	for _, at := range [][2]string{{"10.1.0.1", "10.1.0.2"}, {"fd00:1::1", "fd00:1::2"}} {
		// Ours asks theirs.
		server := start("echo_server.py", "--interface", at[1])
		_, address, _ := strings.Cut(server.says("listening"), "listening ")
		client := p.listen("udp", netip.AddrPortFrom(netip.MustParseAddr(at[0]), 0).String(), "")
		client.writeTo("hello", address)
		server.says("received b'hello' from " + to(at[0], client.port).String())
		if d := client.next("hello"); d.Addr.String() != address {
			t.Errorf("answered from %v, want %s", d.Addr, address)
		}

		// Theirs asks ours.
		ours := p.listen("udp", ":0", "reply")
		theirs := start("echo_client.py", at[0], fmt.Sprint(ours.port), "--interface", at[1])
		theirs.says("listening")
		fmt.Fprintln(theirs.in, "hello")
		ours.next("hello")
		theirs.says("received b're: hello' from " + to(at[0], ours.port).String())
	}

	// The group's server is theirs, the client ours.
	const group = "228.0.0.5"
	start("multicast_server.py", group, "--interface", "10.1.0.2", "--port", "8005").says("joined " + group)
	client := p.listen("udp", ":0", "")
	client.write(udp.Datagram{Payload: []byte("Client: Ping"), Addr: to(group, 8005), Interface: hs[0].index("eth0")})
	if d := client.next("Server: Pong"); d.Addr != to("10.1.0.2", 8005) {
		t.Errorf("Pong came from %v", d.Addr)
	}

	// The server is ours, the client theirs, who has joined as well.
	server := p.listenMulticast("udp", ":8006", "reply")
	server.must("join", group+"%eth0")
	theirs := start("multicast_client.py", group, "8006", "--interface", "10.1.0.2")
	_, port, _ := strings.Cut(theirs.says("joined "+group), group+":")
	if d := server.next("Client: Ping"); d.Addr.String() != "10.1.0.2:"+port || d.Local.String() != group {
		t.Errorf("Ping came from %v to %v", d.Addr, d.Local)
	}
	theirs.says("Datagram b're: Client: Ping' received from 10.1.0.1:8006")
}
