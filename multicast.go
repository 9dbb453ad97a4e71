package udp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
)

// A Group is a multicast group, as a Conn joins it.
type Group struct {
	// Addr is the address of the group (IPv4: RFC 5771, IPv6: RFC 4291).
	// A zone in it is the interface, by its name or its index.
	Addr netip.Addr

	// Source, if valid, restricts the membership to what this host sends
	// (RFC 4607). For Block and Unblock it is whom they are about.
	Source netip.Addr

	// Interface is where the group is joined; its Index counts. If nil, it
	// is that of the zone, or the system chooses one by its routes; a
	// MemNet takes all.
	Interface *net.Interface
}

// String returns the group, its interface and its source, for people to read.
func (g Group) String() string {
	return g.Addr.String() + g.where()
}

func (g Group) where() (s string) {
	if g.Interface != nil {
		s += " on " + interfaceName(g.Interface)
	}
	if g.Source.IsValid() {
		s += " from " + g.Source.String()
	}
	return s
}

func interfaceName(ifi *net.Interface) string {
	if ifi.Name == "" {
		return strconv.Itoa(ifi.Index)
	}
	return ifi.Name
}

// ListenMulticast acts like [Listen], joins groups, and lets other sockets
// listen on the same port: each of them gets what is sent to a group that it
// has joined. What is sent to the port by unicast goes to only one of them,
// so a program that wants answers uses a port of its own.
func ListenMulticast(address string, h Handler, groups ...Group) (*Conn, error) {
	return new(ListenConfig).ListenMulticast(context.Background(), address, h, groups...)
}

// ListenMulticast acts like the function [ListenMulticast], with the settings
// of lc.
//
// Off Linux, a socket for IPv4 and IPv6 cannot join IPv4 groups; where all
// groups are IPv4 and Network is empty, "udp4" is used there.
func (lc *ListenConfig) ListenMulticast(ctx context.Context, address string, h Handler, groups ...Group) (*Conn, error) {
	if err := checkAddOns(h); err != nil {
		return nil, opError(opListen, netip.AddrPort{}, netip.AddrPort{}, err)
	}
	ip4 := 0
	for _, g := range groups {
		m, err := g.membership()
		if err != nil {
			return nil, opError(opJoin, netip.AddrPort{}, netip.AddrPort{}, err)
		}
		if m.group.Is4() {
			ip4++
		}
	}
	network := lc.Network
	if !mappedGroups && network == "" && ip4 > 0 && ip4 == len(groups) {
		network = "udp4"
	}
	c, err := lc.listen(ctx, network, address, shareGroup)
	if err != nil {
		return nil, opError(opListen, netip.AddrPort{}, netip.AddrPort{}, err)
	}
	c.sock.ownGroupsOnly()
	return c.start(h, func() error {
		for _, g := range groups {
			if err := c.Join(g); err != nil {
				return err
			}
		}
		return nil
	})
}

// group runs change for a checked g, one at a time.
func (c *Conn) group(op string, g Group, change func(membership) error) error {
	c.configure.Lock()
	defer c.configure.Unlock()
	m, err := c.checkGroup(g)
	if err == nil {
		if err = change(m); err == nil {
			return nil
		}
		if where := g.where(); where != "" {
			err = fmt.Errorf("%s: %w", where[1:], cause(err))
		}
	}
	return c.opError(op, netip.AddrPortFrom(g.Addr.Unmap(), c.LocalAddr().Port()), err)
}

// checkGroup returns the membership that g stands for, or why this Conn cannot
// have it.
func (c *Conn) checkGroup(g Group) (membership, error) {
	if c.state.Load() == stateClosed {
		return membership{}, net.ErrClosed
	}
	m, err := c.membership(g)
	switch {
	case err != nil:
	case m.group.Is4() && !c.ip4:
		err = &net.AddrError{Err: "IPv4 group on an IPv6 socket"}
	case m.group.Is6() && !c.ip6:
		err = &net.AddrError{Err: "IPv6 group on an IPv4 socket"}
	}
	return m, err
}

// Join makes the Conn a member of g: it then gets what is sent to g.Addr and
// its own port. It may be joined by several interfaces, and for several
// sources, with a Join for each.
//
// A second Join of the same is an error (syscall.EADDRINUSE), as nobody counts
// them; so is a Join for one source of a group that is joined for any
// (syscall.EINVAL), and one more than the system allows a socket
// (syscall.ENOBUFS; on Linux the limit is the sysctl
// net.ipv4.igmp_max_memberships). An interface that goes takes the membership
// with it. A zone that names no interface is a *net.AddrError. Where an IPv6
// group is joined on several interfaces, Linux lets in on none of them what the
// one joined last keeps out by its sources.
func (c *Conn) Join(g Group) error {
	return c.group(opJoin, g, func(m membership) error {
		for _, have := range c.memberships() {
			switch {
			case have.group != m.group:
			case m.ifi == nil && have.all:
				return errJoined()
			case (have.ifi == nil) != (m.ifi == nil) || m.ifi != nil && have.index != m.index:
			case have.source == m.source:
				return errJoined()
			default:
				if err := have.conflict(m); err != nil {
					return err
				}
			}
		}
		return c.join(m)
	})
}

// join adds m to the memberships of the socket and of the Conn.
func (c *Conn) join(m membership) error {
	if i := c.findChosen(m.group); m.ifi == nil && i >= 0 {
		m.index = c.memberships()[i].index // another source, where the first one is
	}
	c.sock.ownGroupsOnly()
	if err := c.sock.join(m.group, m.source, m.index); err != nil {
		return limit(err)
	}
	if m.index == 0 {
		m.index = c.chosenInterface(m.group)
	}
	c.setMemberships(append(slices.Clone(c.memberships()), m))
	return nil
}

// isLimit reports whether err says that there are no more memberships.
func isLimit(err error) bool {
	errno := errnoOf(err)
	return errno == syscall.ENOBUFS || errno == syscall.ENOMEM
}

// limit names the limit that a membership ran into.
func limit(err error) error {
	if isLimit(err) {
		return fmt.Errorf("as many memberships as the system allows (Linux: net.ipv4.igmp_max_memberships, igmp_max_msf; net.core.optmem_max): %w", err)
	}
	return err
}

// Leave ends a membership, which must be named as it was joined. Without an
// Interface it also ends a JoinAll of g.Addr, with one it takes that interface
// out, for as long as it exists. A GroupHandler is not told. A membership that does not exist is an error (syscall.EADDRNOTAVAIL).
func (c *Conn) Leave(g Group) error {
	return c.group(opLeave, g, func(m membership) error {
		all := c.groupOfAll(m.group)
		if all != nil && m.ifi == nil && !m.source.IsValid() {
			c.leaveAll(all)
			return nil
		}
		i := c.findMembership(m)
		if i < 0 {
			return errNotJoined()
		}
		have := c.memberships()[i]
		if err := c.sock.leave(m.group, m.source, have.index); err != nil {
			return err
		}
		c.setMemberships(slices.Delete(slices.Clone(c.memberships()), i, i+1))
		if all != nil && have.all {
			all.excluded = append(all.excluded, *have.ifi)
		}
		return nil
	})
}

func errNotJoined() error { return fmt.Errorf("not joined: %w", syscall.EADDRNOTAVAIL) }

// Block keeps out what g.Source sends to a group that is joined for any
// source (RFC 3678); without an Interface, also to one of JoinAll. To block it
// twice is an error (syscall.EADDRINUSE).
func (c *Conn) Block(g Group) error {
	return c.group(opBlock, g, func(m membership) error {
		return c.filter(c.sock.block, m, addBlocked)
	})
}

// Unblock lets in again what Block keeps out. A source that is not blocked is
// an error (syscall.EADDRNOTAVAIL).
func (c *Conn) Unblock(g Group) error {
	return c.group(opUnblock, g, func(m membership) error {
		return c.filter(c.sock.unblock, m, deleteBlocked)
	})
}

func addBlocked(blocked []netip.Addr, source netip.Addr) ([]netip.Addr, error) {
	if slices.Contains(blocked, source) {
		return nil, fmt.Errorf("blocked already: %w", syscall.EADDRINUSE)
	}
	return append(slices.Clone(blocked), source), nil
}

func deleteBlocked(blocked []netip.Addr, source netip.Addr) ([]netip.Addr, error) {
	i := slices.Index(blocked, source)
	if i < 0 {
		return nil, fmt.Errorf("not blocked: %w", syscall.EADDRNOTAVAIL)
	}
	return slices.Delete(slices.Clone(blocked), i, i+1), nil
}

// filter changes by edit whether m.source is blocked in the group of m, which
// is joined for any source, and by system does the same to the socket.
func (c *Conn) filter(system func(group, source netip.Addr, index int) error, m membership,
	edit func([]netip.Addr, netip.Addr) ([]netip.Addr, error)) error {
	source := m.source
	if !source.IsValid() {
		return &net.AddrError{Err: "missing source"}
	}
	if g := c.groupOfAll(m.group); g != nil && m.ifi == nil {
		return c.filterAll(system, g, source, edit)
	}
	m.source = netip.Addr{}
	at := c.findMembership(m)
	if at < 0 {
		return errNotJoined()
	}
	ms := slices.Clone(c.memberships())
	blocked, err := edit(ms[at].blocked, source)
	if err != nil {
		return err
	}
	if err := system(m.group, source, ms[at].index); err != nil {
		return limit(err)
	}
	ms[at].blocked = blocked
	c.setMemberships(ms)
	return nil
}

// Groups returns the memberships that the Conn has now, those of JoinAll
// included, each with its interface unless the system has chosen that. Those on
// interfaces that have gone are not among them.
func (c *Conn) Groups() []Group {
	ms := c.memberships()
	if len(ms) == 0 || c.state.Load() == stateClosed {
		return nil
	}
	ifis, err := c.sock.interfaces()
	var groups []Group
	for _, m := range ms {
		i := slices.IndexFunc(ifis, func(ifi net.Interface) bool { return ifi.Index == m.index })
		switch {
		case err != nil || m.index == 0: // unknown
		case i < 0 || m.all && !sameInterface(&ifis[i], m.ifi):
			continue
		case m.all:
			m.ifi = &ifis[i] // as it is named now
		}
		groups = append(groups, m.asGroup())
	}
	return groups
}

// option runs f, one at a time.
func (c *Conn) option(op string, f func() error) error {
	c.configure.Lock()
	defer c.configure.Unlock()
	return c.opError(op, netip.AddrPort{}, f())
}

// SetMulticastTTL sets how many routers what the Conn sends to groups may
// cross, less one: the TTL of IPv4 and the hop limit of IPv6, 0 to 255. The
// default is 1, which stays on the link; 0 stays on this host.
func (c *Conn) SetMulticastTTL(ttl int) error {
	return c.option(opSet, func() error {
		if ttl < 0 || ttl > 255 {
			return fmt.Errorf("multicast TTL of %d: %w", ttl, syscall.EINVAL)
		}
		return c.sock.setMulticastTTL(ttl)
	})
}

// MulticastTTL returns what SetMulticastTTL sets.
func (c *Conn) MulticastTTL() (ttl int, err error) {
	ttl, err = c.sock.multicastTTL()
	return ttl, c.opError(opGet, netip.AddrPort{}, err)
}

// SetMulticastLoopback sets whether what the Conn sends to groups comes back
// to members on this host. The default is true.
func (c *Conn) SetMulticastLoopback(on bool) error {
	return c.option(opSet, func() error { return c.sock.setMulticastLoopback(on) })
}

// MulticastLoopback returns what SetMulticastLoopback sets.
func (c *Conn) MulticastLoopback() (on bool, err error) {
	on, err = c.sock.multicastLoopback()
	return on, c.opError(opGet, netip.AddrPort{}, err)
}

// SetMulticastInterface sets the interface by which leaves what the Conn
// sends to groups, where Datagram.Interface and the zone do not say another;
// nil, the default, leaves it to the system.
func (c *Conn) SetMulticastInterface(ifi *net.Interface) error {
	return c.option(opSet, func() error {
		if ifi == nil {
			return c.sock.setMulticastInterface(0)
		}
		if ifi.Index <= 0 {
			return fmt.Errorf("no interface: %q has index %d", ifi.Name, ifi.Index)
		}
		return c.sock.setMulticastInterface(ifi.Index)
	})
}

// MulticastInterface returns what SetMulticastInterface sets.
func (c *Conn) MulticastInterface() (ifi *net.Interface, err error) {
	index, err := c.sock.multicastInterface()
	if err == nil && index != 0 {
		ifi = c.interfaceAt(index)
	}
	return ifi, c.opError(opGet, netip.AddrPort{}, err)
}
