//go:build !linux

package udp

import "net/netip"

// watchInterfaces leaves it to the Conn to look.
func (*udpSocket) watchInterfaces() (changes <-chan struct{}, stop func(), err error) {
	return nil, func() {}, nil
}

// memberAt: nobody tells.
func (*udpSocket) memberAt(netip.Addr, int) bool { return false }
