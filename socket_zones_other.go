//go:build !linux

package udp

import (
	"net"
	"sync"
	"time"
)

// zones finds the zones of a socket. To ask the system takes long here, so what
// it says is kept for zoneLife.
type zones struct {
	mu      sync.Mutex
	asked   time.Time // when what follows was empty
	names   map[int]string
	indexes map[string]int
}

// zoneLife is how long a change of an interface's name may go unnoticed.
const zoneLife = time.Second

// maxZones bounds what is kept.
const maxZones = 256

// index returns the index of the interface that a zone names, zero if there is
// none.
func (z *zones) index(_ uintptr, zone string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.forget()
	index, kept := z.indexes[zone]
	if kept {
		return index
	}
	if index = interfaceIndex(0, zone); index != 0 {
		z.indexes[zone] = index
	}
	return index
}

// interfaceIndex is index without what is kept.
func interfaceIndex(_ uintptr, zone string) int {
	if number := interfaceNumber(zone); number != 0 {
		if _, err := net.InterfaceByIndex(number); err == nil {
			return number
		}
	}
	if ifi, err := net.InterfaceByName(zone); err == nil {
		return ifi.Index
	}
	return 0
}

// interfaceIndexHere is interfaceIndex.
func interfaceIndexHere(zone string) int { return interfaceIndex(0, zone) }

// name returns the zone of the interface of that index.
func (z *zones) name(_ uintptr, index int) string {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.forget()
	zone, kept := z.names[index]
	if !kept {
		zone = zoneAt(0, index)
		z.names[index] = zone
	}
	return zone
}

// zoneAt is name without what is kept.
func zoneAt(_ uintptr, index int) string {
	ifi, err := net.InterfaceByIndex(index)
	if err != nil {
		return zoneOf(index, "")
	}
	return zoneOf(index, ifi.Name)
}

// forget drops what is too old or too much.
func (z *zones) forget() {
	if time.Since(z.asked) < zoneLife && len(z.names)+len(z.indexes) < maxZones {
		return
	}
	z.asked, z.names, z.indexes = time.Now(), make(map[int]string), make(map[string]int)
}
