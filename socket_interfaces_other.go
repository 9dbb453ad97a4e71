//go:build !linux

package udp

import (
	"net"
	"net/netip"
	"slices"
)

func (*udpSocket) interfaces() ([]net.Interface, error) { return net.Interfaces() }

// hasAddress reports whether an interface has an address of IPv4, or of IPv6.

// watchInterfaces leaves it to the Conn to look.
func (*udpSocket) watchInterfaces() (changes <-chan struct{}, stop func(), err error) {
	return nil, func() {}, nil
}

// hasAddress asks package net whether an interface has an address of IPv4, or of
// IPv6.
func (*udpSocket) hasAddress(ifi *net.Interface, ip4 bool) bool {
	addrs, err := ifi.Addrs()
	return err == nil && slices.ContainsFunc(addrs, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().Is4() == ip4
	})
}
