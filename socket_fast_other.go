//go:build !linux || udpbasic

package udp

// accelerate returns the fastest socket there is on top of s: s itself.
func accelerate(s *udpSocket) socket { return s }
