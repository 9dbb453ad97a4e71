//go:build !linux

package udp

import "syscall"

// The other systems refuse what is more than their limit, instead of making
// less of it.
var (
	receiveBuffer = bufferKind{name: "receive"}
	sendBuffer    = bufferKind{name: "send"}
)

func bufferSize(syscall.RawConn, bufferKind) int                 { return 0 }
func grantedSize(_ syscall.RawConn, _ bufferKind, asked int) int { return asked }

// dropCount: only Linux tells.
type dropCount struct{}

func (dropCount) start(*udpSocket, bool) {}
func (dropCount) read(*udpSocket) uint64 { return 0 }
