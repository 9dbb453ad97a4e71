package udp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
)

var (
	_ Resolver = (*MemNet)(nil)
	_ Resolver = (*memHost)(nil)
)

// LookupNetIP returns the addresses of host in Names, as
// [net.Resolver.LookupNetIP] does for the network "ip", "ip4" or "ip6". Case
// does not matter, nor does a final dot. The name localhost, unless it is in
// Names, has 127.0.0.1 and ::1; an address has itself. A name that is not there
// is a *net.DNSError with IsNotFound. No other resolver is asked.
//
// A ListenConfig whose PacketListener is the MemNet, or a Host of it, looks
// names up here unless it has another Resolver.
func (n *MemNet) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if network != "ip" && network != "ip4" && network != "ip6" {
		return nil, net.UnknownNetworkError(network)
	}
	if err := ctx.Err(); err != nil {
		return nil, &net.DNSError{UnwrapErr: err, Err: err.Error(), Name: host, IsTimeout: errors.Is(err, context.DeadlineExceeded)}
	}
	addrs := n.addrsOf(host)
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool {
		return network == "ip4" && !a.Is4() || network == "ip6" && !a.Is6()
	})
	if len(addrs) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addrs, nil
}

func (h *memHost) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return h.net.LookupNetIP(ctx, network, host)
}

// addrsOf returns a new slice of the addresses that host has in any family.
func (n *MemNet) addrsOf(host string) (addrs []netip.Addr) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}
	}
	name := strings.TrimSuffix(host, ".")
	for _, a := range n.named(name) {
		addrs = append(addrs, a.Unmap())
	}
	if addrs == nil && strings.EqualFold(name, "localhost") {
		addrs = []netip.Addr{loopbackLike(netip.IPv4Unspecified()), netip.IPv6Loopback()}
	}
	return addrs
}

// named returns the entry of Names for a name without its final dot. If there
// are several, as they differ in spelling, it is the one spelled likewise, or
// the first of them in the order of strings.
func (n *MemNet) named(name string) []netip.Addr {
	if addrs, ok := n.Names[name]; ok {
		return addrs
	}
	var spelling string
	for s := range n.Names {
		if strings.EqualFold(strings.TrimSuffix(s, "."), name) && (spelling == "" || s < spelling) {
			spelling = s
		}
	}
	return n.Names[spelling]
}
