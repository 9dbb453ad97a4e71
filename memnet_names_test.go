package udp_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"example.com/udp"
)

// TestMemNetNames looks up names by a MemNet and by a host of it.
func TestMemNetNames(t *testing.T) {
	mem := &udp.MemNet{Names: map[string][]netip.Addr{
		"Server.Example.": addrs("2001:db8::1", "10.0.0.1", "::ffff:10.0.0.2"),
		"six":             addrs("2001:db8::6"),
		"empty":           nil,
		"twice":           addrs("10.0.0.3"),
		"TWICE":           addrs("10.0.0.4"),
	}}
	for _, r := range []udp.Resolver{mem, mem.Host(host1).(udp.Resolver)} {
		for _, test := range []struct {
			network, host string
			want          []netip.Addr // nil: there is no such host
		}{
			{"ip", "server.example", addrs("2001:db8::1", "10.0.0.1", "10.0.0.2")},
			{"ip", "SERVER.example.", addrs("2001:db8::1", "10.0.0.1", "10.0.0.2")},
			{"ip4", "server.example", addrs("10.0.0.1", "10.0.0.2")},
			{"ip6", "server.example", addrs("2001:db8::1")},
			{"ip", "server", nil},
			{"ip4", "six", nil},
			{"ip", "empty", nil},
			{"ip", "", nil},
			{"ip", ".", nil},
			{"ip", "twice", addrs("10.0.0.3")},
			{"ip", "Twice", addrs("10.0.0.4")},
			{"ip", "localhost", addrs("127.0.0.1", "::1")},
			{"ip", "LocalHost.", addrs("127.0.0.1", "::1")},
			{"ip6", "localhost", addrs("::1")},
			{"ip", "192.0.2.9", addrs("192.0.2.9")},
			{"ip4", "::ffff:192.0.2.9", addrs("192.0.2.9")},
			{"ip", "fe80::1%7", addrs("fe80::1%7")},
			{"ip6", "192.0.2.9", nil},
		} {
			got, err := r.LookupNetIP(t.Context(), test.network, test.host)
			if !slices.Equal(got, test.want) || test.want == nil != (err != nil) {
				t.Errorf("%s %q: %v, %v; want %v", test.network, test.host, got, err, test.want)
			}
			if e, ok := err.(*net.DNSError); err != nil && (!ok || !e.IsNotFound || e.Name != test.host) {
				t.Errorf("%s %q: the error is %#v", test.network, test.host, err)
			}
			if len(got) > 0 {
				got[0] = netip.Addr{} // it is the caller's
			}
		}
		_, err := r.LookupNetIP(t.Context(), "udp", "six")
		if _, ok := errors.AsType[net.UnknownNetworkError](err); !ok {
			t.Errorf("the network udp: %v", err)
		}
	}
}

// TestMemNetNamesInBubbles uses names and a service name in all ways of opening
// a Conn, in one bubble after the other, by a MemNet and by a host of it. None
// of it takes any time.
func TestMemNetNamesInBubbles(t *testing.T) {
	for i := range 4 {
		onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
			mem.Names = map[string][]netip.Addr{"server": addrs("10.0.0.1"), "nowhere": addrs("10.0.0.9")}
			if i%2 == 1 {
				n = openBy(mem.Host(host1))
			}
			start := time.Now()
			n.listenAt(t, "SERVER.:domain", echo(t))
			r := record()
			client, err := n.config.Dial(t.Context(), "server:53", r)
			check(t, err)
			closeAtEnd(t, client)
			check(t, second(client.Write([]byte("hello"))))
			r.expectAll(t, "hello")

			addr, err := n.config.Resolve(t.Context(), "server:domain")
			if want := netip.AddrPortFrom(host1, 53); addr != want || err != nil {
				t.Errorf("Resolve: %v, %v; want %v", addr, err, want)
			}
			for _, open := range []func(address string) error{
				func(address string) error { return second(n.config.Listen(t.Context(), address, nil)) },
				func(address string) error { return second(n.config.Dial(t.Context(), address, nil)) },
				func(address string) error { return second(n.config.Resolve(t.Context(), address)) },
				func(address string) error {
					return second(n.config.PacketListener.ListenPacket(t.Context(), "udp", address))
				},
			} {
				err := open("unknown.example:53")
				if e, ok := errors.AsType[*net.DNSError](err); !ok || !e.IsNotFound || e.Name != "unknown.example" {
					t.Errorf("an unknown name: %v", err)
				}
				if err := open("server:no-such-service"); err == nil {
					t.Error("an unknown service has a port")
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			isError(t, second(n.config.Dial(ctx, "server:53", nil)), context.Canceled)
			if passed := time.Since(start); passed != 0 {
				t.Errorf("it took %v", passed)
			}
		})
	}
}

// resolverFunc is a Resolver.
type resolverFunc func(ctx context.Context, network, host string) ([]netip.Addr, error)

func (f resolverFunc) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return f(ctx, network, host)
}

// TestResolver has a ListenConfig ask its own Resolver, on the system's sockets
// and on a MemNet, which has other names.
func TestResolver(t *testing.T) {
	asked := ""
	resolver := resolverFunc(func(_ context.Context, network, host string) ([]netip.Addr, error) {
		asked = network + " " + host
		return addrs("127.0.0.1"), nil
	})
	for _, listener := range []udp.PacketListener{nil, &udp.MemNet{Names: map[string][]netip.Addr{"name": addrs("10.0.0.1")}}} {
		lc := udp.ListenConfig{Network: "udp4", PacketListener: listener, Resolver: resolver}
		addr, err := lc.Resolve(t.Context(), "name:7")
		if want := netip.AddrPortFrom(loopback4, 7); addr != want || err != nil || asked != "ip4 name" {
			t.Errorf("%T: Resolve asks %q, and returns %v, %v", listener, asked, addr, err)
		}
		c, err := lc.Listen(t.Context(), "name:0", nil)
		check(t, err)
		closeAtEnd(t, c)
		if c.LocalAddr().Addr() != loopback4 {
			t.Errorf("%T: it listens at %v", listener, c.LocalAddr())
		}
	}
}

// TestMemNetManyNames looks up each of many names.
func TestMemNetManyNames(t *testing.T) {
	mem := &udp.MemNet{Names: make(map[string][]netip.Addr)}
	for i := range 10000 {
		mem.Names[fmt.Sprint("host", i)] = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}
	}
	for name, want := range mem.Names {
		got, err := mem.LookupNetIP(t.Context(), "ip", name+".")
		if !slices.Equal(got, want) || err != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
