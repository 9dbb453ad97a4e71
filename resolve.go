package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// A Resolver looks up the names of hosts. *net.Resolver, *MemNet and what
// [MemNet.Host] returns are Resolvers.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Resolve returns the address that "host:port" names. It is how a program
// comes from a name to what [Conn.WriteTo] and [Conn.Connect] take.
//
// The network is "udp", "udp4" or "udp6"; empty means "udp". A host that is
// an IP address, with a zone or without, is taken as it is, with no look-up;
// an empty host is the wildcard address. A host name is looked up in the
// family that the network names; "udp" prefers IPv4 where there are both, as
// net.ResolveUDPAddr does. The port is a number or a service name.
//
// Names are looked up for as long as ctx allows; its error, its cause, and a
// *net.DNSError are found inside the one that Resolve returns.
func Resolve(ctx context.Context, network, address string) (netip.AddrPort, error) {
	return resolve(ctx, net.DefaultResolver, network, address)
}

// Resolve acts like the function [Resolve], with the Network and the Resolver
// of lc.
func (lc *ListenConfig) Resolve(ctx context.Context, address string) (netip.AddrPort, error) {
	return resolve(ctx, lc.resolver(), lc.Network, address)
}

// resolver returns what looks up names for lc.
func (lc *ListenConfig) resolver() Resolver {
	if lc.Resolver != nil {
		return lc.Resolver
	}
	if r, ok := lc.PacketListener.(Resolver); ok {
		return r
	}
	return net.DefaultResolver
}

func resolve(ctx context.Context, r Resolver, network, address string) (netip.AddrPort, error) {
	addrs, err := lookup(ctx, r, network, address)
	if err != nil {
		return netip.AddrPort{}, opError(opResolve, netip.AddrPort{}, netip.AddrPort{}, err)
	}
	return addrs[0], nil
}

// lookup returns all that address stands for, the preferred first: one
// address at the least.
func lookup(ctx context.Context, r Resolver, network, address string) ([]netip.AddrPort, error) {
	if ctx == nil {
		return nil, errors.New("nil context")
	}
	want, err := familyOf(network)
	if err != nil {
		return nil, err
	}
	if address == "" {
		return nil, &net.AddrError{Err: "missing address"}
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := lookupPort(ctx, network, service)
	if err != nil {
		return nil, canceled(ctx, err)
	}
	hosts, err := lookupHost(ctx, r, want, host)
	if err != nil {
		return nil, canceled(ctx, err)
	}
	addrs := make([]netip.AddrPort, 0, len(hosts))
	for _, a := range hosts {
		if a = a.Unmap(); want == "ip" || a.Is4() == (want == "ip4") {
			addrs = append(addrs, netip.AddrPortFrom(a, uint16(port)))
		}
	}
	if len(addrs) == 0 {
		return nil, &net.AddrError{Err: "no address for network " + network, Addr: host}
	}
	return addrs, nil
}

// familyOf returns the family of addresses that a network has, in the words
// of net.Resolver.LookupNetIP.
func familyOf(network string) (string, error) {
	switch network {
	case "", "udp":
		return "ip", nil
	case "udp4":
		return "ip4", nil
	case "udp6":
		return "ip6", nil
	}
	return "", net.UnknownNetworkError(network)
}

func lookupPort(ctx context.Context, network, service string) (int, error) {
	if port, err := strconv.Atoi(service); err == nil {
		if port < 0 || port > 0xffff {
			return 0, &net.AddrError{Err: "invalid port", Addr: service}
		}
		return port, nil
	}
	if service == "" {
		return 0, &net.AddrError{Err: "missing port", Addr: service}
	}
	if network == "" {
		network = "udp"
	}
	// PreferGo, as package net asks the C library by way of a channel that is
	// made in the first bubble of testing/synctest, and ends a second one.
	return (&net.Resolver{PreferGo: true}).LookupPort(ctx, network, service)
}

// lookupHost returns the addresses of host. Those of a name are sorted: IPv4
// first, otherwise in the order of the resolver (RFC 6724).
func lookupHost(ctx context.Context, r Resolver, family, host string) ([]netip.Addr, error) {
	if host == "" {
		if family == "ip4" {
			return []netip.Addr{netip.IPv4Unspecified()}, nil
		}
		return []netip.Addr{netip.IPv6Unspecified()}, nil
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	hosts, err := r.LookupNetIP(ctx, family, host)
	slices.SortStableFunc(hosts, func(a, b netip.Addr) int {
		return a.Unmap().BitLen() - b.Unmap().BitLen()
	})
	return hosts, err
}

// canceled returns err with the error of ctx and its cause inside, if ctx has
// ended the look-up.
func canceled(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	for _, inner := range []error{ctx.Err(), context.Cause(ctx)} {
		if !errors.Is(err, inner) {
			err = fmt.Errorf("%w: %w", err, inner)
		}
	}
	return err
}
