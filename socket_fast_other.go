//go:build !linux || udpbasic

package udp

import "net"

// newSystemSocket makes a socket of conn, as udpSocket.open does.
func newSystemSocket(conn *net.UDPConn, lc *ListenConfig, network string) (socket, error) {
	s := new(udpSocket)
	return s, s.open(conn, lc, network)
}
