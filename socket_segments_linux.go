//go:build linux && !udpbasic

package udp

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// segmentLimits says what may be sent with UDP_SEGMENT. A failure is kept for
// as little and as short as it says: anybody can forge the report of a narrow
// path, and a firewall may have had a bad moment.
type segmentLimits struct {
	off    atomic.Bool // for the socket: the device, or the kernel, cannot
	narrow atomic.Bool // paths is not empty

	mu    sync.Mutex
	paths map[netip.Addr]pathLimit
	told  bool // of a failure that is not kept
}

// A pathLimit is the longest segment that may be sent to a host, for a while.
type pathLimit struct {
	segment int
	until   time.Time
}

const (
	// pathLimitTime is how long Linux keeps the MTU of a path
	// (net.ipv4.route.mtu_expires).
	pathLimitTime = 10 * time.Minute

	// maxPathLimits bounds how many hosts have a limit. One that has none
	// costs some system calls each time.
	maxPathLimits = 256
)

// longest returns the longest segment that may be sent to peer; zero: none.
func (l *segmentLimits) longest(peer netip.Addr) int {
	switch {
	case l.off.Load():
		return 0
	case !l.narrow.Load():
		return maxSegmented
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.paths[peer]
	if !ok || time.Now().After(p.until) {
		return maxSegmented
	}
	return p.segment
}

// fail is called when segments of that length to peer could not be sent with
// UDP_SEGMENT, and could be by themselves. It returns what the Logger is to be
// told; empty: nothing new.
func (l *segmentLimits) fail(peer netip.Addr, segment int, errno syscall.Errno) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch errno {
	case unix.EIO, unix.EINVAL: // no checksums by the device, or by the socket
		if l.off.Swap(true) {
			return ""
		}
		return "the device cannot; no more on this socket"
	case unix.EMSGSIZE:
		if !l.limitPath(peer, segment-1) {
			return ""
		}
		return fmt.Sprintf("the path is too narrow; segments of %d bytes and more to this host go one by one for %v", segment, pathLimitTime)
	}
	if l.told {
		return ""
	}
	l.told = true
	return "sent one by one; tried again with the next batch"
}

// limitPath keeps the limit of a path, unless it has a shorter one, in place of one that is over, or of any
// other, if there are too many.
func (l *segmentLimits) limitPath(peer netip.Addr, segment int) (changed bool) {
	if l.paths == nil {
		l.paths = make(map[netip.Addr]pathLimit)
	}
	now := time.Now()
	if p, ok := l.paths[peer]; ok && segment >= p.segment && now.Before(p.until) {
		return false
	} else if !ok && len(l.paths) >= maxPathLimits {
		for other, p := range l.paths {
			if now.After(p.until) {
				delete(l.paths, other)
			}
		}
		for other := range l.paths {
			if len(l.paths) < maxPathLimits {
				break
			}
			delete(l.paths, other)
		}
	}
	l.paths[peer] = pathLimit{segment, now.Add(pathLimitTime)}
	l.narrow.Store(true)
	return true
}

// offloadUnwanted reports whether the environment turns offload off, for a
// program that nobody wants to build again.
func offloadUnwanted() bool { return os.Getenv("UDP_NO_OFFLOAD") == "1" }

// corruptsSegments reports whether the kernel of that release (uname -r) corrupts
// the payload of datagrams that are sent with UDP_SEGMENT: 7.0-rc1 to 7.1.4. It
// cannot be found out by trying, as the sender sees nothing of it.
func corruptsSegments(release string) bool {
	if !strings.HasPrefix(release, "7.") { // before what allocates
		return false
	}
	var major, minor, patch int
	n, _ := fmt.Sscanf(release, "%d.%d.%d", &major, &minor, &patch)
	return n >= 2 && major == 7 && (minor == 0 || minor == 1 && patch <= 4)
}

// kernelRelease is asked once, as it does not change.
var kernelRelease = sync.OnceValue(func() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
})
