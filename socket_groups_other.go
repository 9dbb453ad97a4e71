//go:build !linux

package udp

import "net/netip"

func (*udpSocket) joinAnySource(p groupSocket, group netip.Addr, index int) error {
	return p.JoinGroup(interfaceOf(index), udpAddr(group))
}

func (*udpSocket) leaveAnySource(p groupSocket, group netip.Addr, index int) error {
	return p.LeaveGroup(interfaceOf(index), udpAddr(group))
}

// memberAt: nobody tells.
func (*udpSocket) memberAt(netip.Addr, int) bool { return false }
