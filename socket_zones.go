package udp

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
)

// A zone (RFC 4007, section 6) is an interface, written as its number or its
// name. The system is asked each time, as a name may pass to another interface
// at any moment; and by the socket, as each network namespace has interfaces
// of its own.

// A zoneQuery asks for one zone by a file descriptor. It is kept in a pool, as
// a closure for each question would be an allocation.
type zoneQuery struct {
	run   func(fd uintptr) // q.ask, made once
	zones *zones
	zone  string // the zone to find the index of; empty: the index to find the zone of
	index int
}

var zoneQueries = sync.Pool{New: func() any {
	q := new(zoneQuery)
	q.run = q.ask
	return q
}}

func (q *zoneQuery) ask(fd uintptr) {
	if q.zone != "" {
		q.index = q.zones.index(fd, q.zone)
	} else {
		q.zone = q.zones.name(fd, q.index)
	}
}

// zoneIndex returns the index of the interface that the zone of a names, zero
// if a has none.
func (s *udpSocket) zoneIndex(a netip.Addr) (int, error) {
	zone := a.Zone()
	if zone == "" {
		return 0, nil
	}
	q := zoneQueries.Get().(*zoneQuery)
	q.zones, q.zone, q.index = &s.zones, zone, 0
	err := s.raw.Control(q.run)
	index := q.index
	q.zones = nil
	zoneQueries.Put(q)
	if err == nil && index == 0 {
		err = errNoZone(a)
	}
	return index, err
}

// scope is zoneIndex for the address of a datagram to send. That of the peer of
// a connected socket is on the interface that it was on when it was connected,
// whatever that is called now.
func (s *udpSocket) scope(a netip.Addr) (int, error) {
	if a.Zone() == "" {
		return 0, nil
	}
	if peer := s.peer.Load(); peer != nil && peer.Addr().WithZone("") == a.WithZone("") {
		if index := s.peerIndex.Load(); index != 0 {
			return int(index), nil
		}
	}
	return s.zoneIndex(a)
}

// zoneName returns the zone of the interface of that index; empty: the socket
// is closed.
func (s *udpSocket) zoneName(index int) string {
	q := zoneQueries.Get().(*zoneQuery)
	q.zones, q.zone, q.index = &s.zones, "", index
	err := s.raw.Control(q.run)
	zone := q.zone
	q.zones = nil
	zoneQueries.Put(q)
	if err != nil {
		return ""
	}
	return zone
}

// renewZone gives a the zone that the interface of that index has now.
func (s *udpSocket) renewZone(a netip.AddrPort, index int) netip.AddrPort {
	if zone := s.zoneName(index); index != 0 && zone != "" {
		return netip.AddrPortFrom(a.Addr().WithZone(zone), a.Port())
	}
	return a
}

// numberZone gives the zone of an address to listen at as a number: what net
// knows of names may be a minute old, and another network namespace's.
func numberZone(a *net.UDPAddr) (*net.UDPAddr, error) {
	if a.Zone == "" {
		return a, nil
	}
	index := interfaceIndexHere(a.Zone)
	if index == 0 {
		return nil, errNoZone(a.AddrPort().Addr())
	}
	return &net.UDPAddr{IP: a.IP, Port: a.Port, Zone: strconv.Itoa(index)}, nil
}

// errNoZone says that the zone of a names nothing.
func errNoZone(a netip.Addr) error {
	return &net.AddrError{Err: fmt.Sprintf("no interface of zone %q", a.Zone())}
}

// addZones gives the addresses of a received datagram their zones; scope is
// the index of the interface that the peer's address belongs to, zero if that
// is valid everywhere.
func (s *udpSocket) addZones(d *Datagram, scope int) {
	zone := ""
	if scope != 0 {
		zone = s.zoneName(scope)
		d.Addr = netip.AddrPortFrom(d.Addr.Addr().WithZone(zone), d.Addr.Port())
	}
	if !d.Local.Is6() || !d.Local.IsLinkLocalUnicast() {
		return
	}
	index := d.Interface
	if index == 0 {
		index = s.link
	}
	if index != scope {
		zone = s.zoneName(index)
	}
	d.Local = d.Local.WithZone(zone)
}

// interfaceNumber returns the number that a zone is, and 0 if it is none, or
// larger than an index can be.
func interfaceNumber(zone string) (index int) {
	for i := range len(zone) {
		digit := int(zone[i]) - '0'
		if digit < 0 || digit > 9 || index > (maxInterfaceIndex-digit)/10 {
			return 0
		}
		index = index*10 + digit
	}
	return index
}

// maxInterfaceIndex: the systems' indexes are 32 bits long, and positive.
const maxInterfaceIndex = 1<<31 - 1

// zoneOf returns the zone of an interface: its name, unless that looks like a
// number, or there is none.
func zoneOf(index int, name string) string {
	if name == "" || interfaceNumber(name) != 0 {
		return strconv.Itoa(index)
	}
	return name
}
