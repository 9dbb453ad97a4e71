package udp_test

import (
	"net"
	"runtime"
	"testing"

	"example.com/udp"
)

// TestOpenAllocations opens and closes sockets: it allocates at most twice
// what package net does, and a few for the Conn and its goroutine.
func TestOpenAllocations(t *testing.T) {
	if raceDetector() || runtime.GOOS != "linux" || portable() {
		t.Skip("counts allocations of the fast socket: run without -race, on Linux")
	}
	bare := testing.AllocsPerRun(100, func() {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		check(t, err)
		pc.Close()
	})
	ours := testing.AllocsPerRun(100, func() {
		c, err := udp.Listen("127.0.0.1:0", nil)
		check(t, err)
		c.Close()
		c.Wait()
	})
	if t.Logf("%v, package net %v", ours, bare); ours > 2*bare+4 {
		t.Errorf("Listen allocates %v times, package net %v", ours, bare)
	}
}
