//go:build !linux

package udp

// Only Linux keeps reports apart. Elsewhere they are errors of the next read
// or write, and only connected sockets have them.
func (s *udpSocket) askForReports() bool                            { return false }
func (s *udpSocket) takeReports(int, func(Undelivered)) (more bool) { return false }
