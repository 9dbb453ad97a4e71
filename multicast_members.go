package udp

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
)

// A membership is a Group that a Conn is in, checked, its addresses without
// zones.
type membership struct {
	group, source netip.Addr
	index         int            // of the interface; zero: the one that the system chooses, or has chosen without saying
	ifi           *net.Interface // nil: the system's choice
	all           bool           // of a JoinAll
	blocked       []netip.Addr
}

func (m membership) asGroup() Group {
	return Group{Addr: m.group, Source: m.source, Interface: m.ifi}
}

// conflict reports why a socket that has the membership m cannot have other, of
// the same group on the same interface; nil: other is m.
func (m membership) conflict(other membership) error {
	if m.source.IsValid() != other.source.IsValid() {
		return fmt.Errorf("joined already, and not for the same kind of sources: %w", syscall.EINVAL)
	}
	return nil
}

// membership checks what g says, but for a zone.
func (g Group) membership() (m membership, err error) {
	m = membership{group: g.Addr.Unmap(), source: g.Source.Unmap().WithZone(""), ifi: g.Interface}
	switch {
	case !m.group.IsValid():
		return m, &net.AddrError{Err: "missing group"}
	case !m.group.IsMulticast():
		return m, &net.AddrError{Err: "no multicast group"}
	case !m.source.IsValid():
	case m.source.Is4() != m.group.Is4():
		return m, &net.AddrError{Err: "source of another family than the group", Addr: m.source.String()}
	case m.source.IsMulticast() || m.source.IsUnspecified():
		return m, &net.AddrError{Err: "no source of multicast", Addr: m.source.String()}
	}
	if g.Interface != nil {
		if m.index = g.Interface.Index; m.index <= 0 {
			return m, fmt.Errorf("no interface: %q has index %d", g.Interface.Name, m.index)
		}
	}
	return m, nil
}

// membership is g, checked, with the interface that a zone in it names.
func (c *Conn) membership(g Group) (m membership, err error) {
	if m, err = g.membership(); err != nil || m.group.Zone() == "" {
		return m, err
	}
	index, err := c.sock.zoneIndex(m.group)
	switch {
	case err != nil:
		return m, err
	case m.index != 0 && m.index != index:
		return m, &net.AddrError{Err: "zone and interface differ"}
	case m.index == 0:
		m.index, m.ifi = index, c.interfaceAt(index)
	}
	m.group = m.group.WithZone("")
	return m, nil
}

// memberships returns what the Conn is in.
func (c *Conn) memberships() []membership {
	if ms := c.members.Load(); ms != nil {
		return *ms
	}
	return nil
}

func (c *Conn) setMemberships(ms []membership) { c.members.Store(&ms) }

// memberOf reports whether the Conn has joined the group that d was sent to,
// where it came in, and hears its source. The kernel has decided that on some
// systems, but for IPv6 nowhere by interface.
func (c *Conn) memberOf(d *Datagram) bool {
	for _, m := range c.memberships() {
		if m.group != d.Local || m.index != 0 && d.Interface != 0 && m.index != d.Interface {
			continue
		}
		from := d.Addr.Addr().WithZone("")
		if m.source.IsValid() && m.source == from ||
			!m.source.IsValid() && !slices.Contains(m.blocked, from) {
			return true
		}
	}
	return false
}

// findMembership returns the place in the memberships of the one for the same group,
// interface and source as m, and -1 if there is none. Where m leaves the
// interface to the system, so did that one.
func (c *Conn) findMembership(m membership) int {
	return slices.IndexFunc(c.memberships(), func(have membership) bool {
		same := have.index == m.index && have.ifi != nil
		if m.ifi == nil {
			same = have.ifi == nil
		}
		return same && have.group == m.group && have.source == m.source
	})
}

// findChosen returns the place in the memberships of the first one of group for
// which the system has chosen the interface, and -1 if there is none.
func (c *Conn) findChosen(group netip.Addr) int {
	return slices.IndexFunc(c.memberships(), func(have membership) bool {
		return have.ifi == nil && have.group == group
	})
}

// chosenInterface returns the index of the interface that the system has chosen
// for group, and 0 if it does not tell. Filtering by interface, and leaving
// after the routes have changed, need it. The routes are not asked before, as
// only netlink, or another socket, could do so, and not for every namespace.
func (c *Conn) chosenInterface(group netip.Addr) int {
	ifis, _ := c.sock.interfaces()
	for _, ifi := range ifis {
		known := slices.ContainsFunc(c.memberships(), func(m membership) bool { return m.group == group && m.index == ifi.Index })
		if !known && c.sock.memberAt(group, ifi.Index) {
			return ifi.Index
		}
	}
	return 0
}

// interfaceAt returns the interface of that index, with nothing but the index
// if the system does not have it.
func (c *Conn) interfaceAt(index int) *net.Interface {
	ifis, _ := c.sock.interfaces()
	if i := slices.IndexFunc(ifis, func(ifi net.Interface) bool { return ifi.Index == index }); i >= 0 {
		return &ifis[i]
	}
	return &net.Interface{Index: index}
}
