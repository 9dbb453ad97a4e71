//go:build !linux

package udp

import "net"

func (*udpSocket) interfaces() ([]net.Interface, error) { return net.Interfaces() }

// hasAddress reports whether an interface has an address of IPv4, or of IPv6.
func (*udpSocket) hasAddress(ifi *net.Interface, ip4 bool) bool { return netHasAddress(ifi, ip4) }

// watchInterfaces leaves it to the Conn to look.
func (*udpSocket) watchInterfaces() (changes <-chan struct{}, stop func(), err error) {
	return nil, func() {}, nil
}
