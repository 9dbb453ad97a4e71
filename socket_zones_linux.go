package udp

import (
	"encoding/binary"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// zones finds the zones of a socket. It keeps nothing but strings, so that a
// name that has been seen is no allocation; whether it still is the name, the
// system is asked each time.
type zones struct {
	names atomic.Pointer[[32]atomic.Pointer[string]] // by the last bits of the index; nil: none yet
}

// An interfaceRequest is a struct ifreq of netdevice(7). Its union is as long as
// a struct ifmap.
type interfaceRequest struct {
	name  [unix.IFNAMSIZ]byte
	union [8 + 2*unsafe.Sizeof(uintptr(0))]byte
}

func (*zones) index(fd uintptr, zone string) int { return interfaceIndex(fd, zone) }

// interfaceIndex returns the index of the interface that a zone names, zero if
// there is none.
func interfaceIndex(fd uintptr, zone string) int {
	if zone == "" {
		return 0
	}
	var r interfaceRequest
	if index := interfaceNumber(zone); index != 0 && r.askName(fd, index) {
		return index
	}
	// The kernel takes such a name for what comes before.
	if len(zone) >= len(r.name) || strings.ContainsAny(zone, ":\x00") {
		return 0
	}
	r = interfaceRequest{}
	copy(r.name[:], zone)
	// As root, a name that there is not makes the kernel look for a module of
	// that name (dev_load), which takes its time.
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.SIOCGIFINDEX, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(r.union[:])))
}

// interfaceIndexHere is interfaceIndex in the network namespace of the thread.
func interfaceIndexHere(zone string) int {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	return interfaceIndex(uintptr(fd), zone)
}

// zoneAt returns the zone of the interface of that index.
func zoneAt(fd uintptr, index int) string { return new(zones).name(fd, index) }

// name is zoneAt without an allocation for a zone that has been seen.
func (z *zones) name(fd uintptr, index int) string {
	var r interfaceRequest
	if !r.askName(fd, index) {
		return zoneOf(index, "")
	}
	names := z.names.Load()
	if names == nil {
		names = new([32]atomic.Pointer[string])
		z.names.Store(names)
	}
	kept := &names[index%len(names)]
	name := r.name[:]
	for i, b := range name {
		if b == 0 {
			name = name[:i]
			break
		}
	}
	if last := kept.Load(); last != nil && *last == string(name) {
		return *last
	}
	zone := zoneOf(index, string(name))
	kept.Store(&zone)
	return zone
}

// askName puts the name of the interface of that index into r, if there is
// one.
func (r *interfaceRequest) askName(fd uintptr, index int) bool {
	binary.NativeEndian.PutUint32(r.union[:], uint32(index))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.SIOCGIFNAME, uintptr(unsafe.Pointer(r)))
	return errno == 0
}
