//go:build linux && !udpbasic

package udp

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

var segmentPeer, otherPeer = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")

// TestSegmentLimits lets segmentation fail in each way there is: what a narrow
// path says counts for that peer and for some minutes, what the device says
// for the socket, and what anything else says not at all.
func TestSegmentLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l segmentLimits
		want := func(peer netip.Addr, longest int) {
			t.Helper()
			if got := l.longest(peer); got != longest {
				t.Errorf("the longest segment to %v is %d, want %d", peer, got, longest)
			}
		}
		want(segmentPeer, maxSegmented)
		for _, errno := range []syscall.Errno{syscall.EPERM, syscall.EACCES, syscall.ENETDOWN} {
			l.fail(segmentPeer, 1200, errno)
			want(segmentPeer, maxSegmented)
		}
		l.fail(segmentPeer, 1200, syscall.EMSGSIZE)
		want(segmentPeer, 1199)
		l.fail(segmentPeer, 1300, syscall.EMSGSIZE) // of a batch that had begun before
		want(segmentPeer, 1199)
		want(otherPeer, maxSegmented)
		time.Sleep(pathLimitTime - time.Second)
		want(segmentPeer, 1199)
		time.Sleep(2 * time.Second)
		want(segmentPeer, maxSegmented)
		l.fail(otherPeer, 1200, syscall.EIO)
		want(segmentPeer, 0)
		want(otherPeer, 0)
	})
}

// TestSegmentLimitsAreBounded has more hosts say that their path is narrow
// than limits are kept for.
func TestSegmentLimitsAreBounded(t *testing.T) {
	var l segmentLimits
	for i := range 10 * maxPathLimits {
		l.fail(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(i)))), 1200, syscall.EMSGSIZE)
	}
	if len(l.paths) != maxPathLimits {
		t.Errorf("%d limits are kept, want %d", len(l.paths), maxPathLimits)
	}
}

// TestSegmentFailuresAreToldOnce has a firewall refuse each batch.
func TestSegmentFailuresAreToldOnce(t *testing.T) {
	var l segmentLimits
	if l.fail(segmentPeer, 1200, syscall.EPERM) == "" || l.fail(segmentPeer, 1200, syscall.EPERM) != "" {
		t.Error("it is not told once")
	}
}

func TestCorruptsSegments(t *testing.T) {
	for release, want := range map[string]bool{
		"7.0.0": true, "7.0.0-rc1": true, "7.0-rc1": true, "7.0.12-generic": true, "7.1.0": true, "7.1.4": true, "7.1.4-arch1-1": true, "7.1.0-rc3": true,
		"7.1.5": false, "7.1.10": false, "7.2.0-rc1": false, "7.10.0": false, "6.18.44": false, "6.1.0-25-amd64": false, "70.0.1": false, "8.0.0": false, "": false, "unknown": false,
	} {
		if got := corruptsSegments(release); got != want {
			t.Errorf("%q: %v", release, got)
		}
	}
}

// TestNoOffloadByEnvironment turns offload off without a new build.
func TestNoOffloadByEnvironment(t *testing.T) {
	t.Setenv("UDP_NO_OFFLOAD", "1")
	c, err := Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	defer c.Close()
	s := c.sock.(*fastSocket)
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if on, err := syscall.GetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO); err == nil && on != 0 {
			t.Error("UDP_GRO is on")
		}
	})
	if got := s.segments.longest(segmentPeer); got != 0 {
		t.Errorf("segments of %d bytes may be sent", got)
	}
}
