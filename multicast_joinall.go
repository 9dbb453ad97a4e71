package udp

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// joinedAll keeps the groups of JoinAll joined as interfaces come and go. The
// mutex configure of the Conn guards it.
type joinedAll struct {
	groups  []*groupOfAll
	running bool           // a goroutine watches the interfaces
	ended   sync.WaitGroup // for that goroutine, after the Conn is closed
}

// A groupOfAll is a group of JoinAll.
type groupOfAll struct {
	group    netip.Addr
	blocked  []netip.Addr    // by Block without an interface
	excluded []net.Interface // by Leave with an interface
	failures map[int]string  // what the Logger was told about interfaces that cannot join, by index
}

// A groupChange is what one look at the interfaces has changed, for the
// Handler.
type groupChange struct{ joined, left []Group }

// How long interfaces must be quiet before changes are acted upon, how long
// that may be put off, and how often to look where the system does not tell.
const (
	settleTime   = 100 * time.Millisecond
	settleMost   = time.Second
	pollInterval = time.Second
)

// JoinAll makes the Conn a member of group on every interface that is up and
// can do multicast, and follows them: within two seconds it joins on those
// that appear, come up, or come back under another index, and leaves on those
// that go. A GroupHandler is told. The loopback interface of Linux does not
// count: it has no multicast flag. Leave without an Interface ends it all;
// Leave with one leaves there, for as long as that interface exists.
//
// The interfaces are those of the network namespace that the socket was opened
// in; a program that has left that one needs CAP_NET_ADMIN and CAP_SYS_ADMIN to
// see them. Only Linux tells of changes. Elsewhere, and where a sandbox allows
// no netlink sockets, JoinAll looks every second.
//
// Interfaces that cannot join are told to the Logger, as is each change, and
// tried again when something changes. JoinAll fails where there are interfaces
// and none can join, and where the system's limit of memberships for a socket
// (syscall.ENOBUFS; see Join) is less than its interfaces with addresses;
// where there is no interface yet, it waits for one. A second JoinAll of the
// same group is an error (syscall.EADDRINUSE), as is one after a Join that left
// the interface to the system. On a MemNet, the Conn joins once, for all
// interfaces.
func (c *Conn) JoinAll(group netip.Addr) error {
	return c.group(opJoin, Group{Addr: group}, func(m membership) error {
		if c.state.Load() != stateOpen {
			return net.ErrClosed
		}
		if m.index != 0 {
			return &net.AddrError{Err: "a zone means one interface, not all"}
		}
		if c.findMembership(m) >= 0 || c.groupOfAll(m.group) != nil {
			return errJoined()
		}
		return c.joinAll(m)
	})
}

func (c *Conn) joinAll(m membership) error {
	if _, err := c.sock.interfaces(); errors.Is(err, errors.ErrUnsupported) {
		if err := c.join(m); err != nil {
			return err
		}
		c.tellGroups(groupChange{joined: []Group{m.asGroup()}})
		return nil
	}
	g := &groupOfAll{group: m.group, failures: make(map[int]string)}
	c.all.groups = append(c.all.groups, g)
	c.watchInterfaces() // before the first look, to miss nothing
	change, err := c.updateGroup(g)
	if err != nil {
		c.leaveAll(g)
		return err
	}
	c.tellGroups(change)
	return nil
}

// groupOfAll returns the group as JoinAll has joined it; nil: it has not.
func (c *Conn) groupOfAll(group netip.Addr) *groupOfAll {
	for _, g := range c.all.groups {
		if g.group == group {
			return g
		}
	}
	return nil
}

// leaveAll ends a JoinAll.
func (c *Conn) leaveAll(g *groupOfAll) {
	c.all.groups = slices.DeleteFunc(c.all.groups, func(have *groupOfAll) bool { return have == g })
	for _, m := range c.memberships() {
		if m.all && m.group == g.group {
			c.leaveOn(m)
		}
	}
}

// tellGroups hands a change to the Handler.
func (c *Conn) tellGroups(change groupChange) {
	if c.handlers.groups == nil || len(change.joined)+len(change.left) == 0 {
		return
	}
	c.Post(func() { c.handlers.groups.HandleGroups(c, change.joined, change.left) })
}

// watchInterfaces starts the goroutine that follows the interfaces. It ends
// with the Conn.
func (c *Conn) watchInterfaces() {
	if c.all.running {
		return
	}
	c.all.running = true
	changes, stop, err := c.sock.watchInterfaces()
	if err != nil {
		c.log(slog.LevelWarn, "udp: looking at the interfaces every second, as the system does not tell", "error", err)
	}
	c.all.ended.Go(func() {
		c.followInterfaces(changes)
		stop()
	})
}

// followInterfaces updates the groups of JoinAll after each change, until the
// Conn stops. If changes is nil or closed, it looks for them.
func (c *Conn) followInterfaces(changes <-chan struct{}) {
	next := time.NewTimer(pollInterval)
	defer next.Stop()
	var first time.Time // of the changes that are not acted upon yet
	for {
		select {
		case <-c.done:
			return
		case _, ok := <-changes:
			if !ok {
				changes = nil
			}
			if first.IsZero() {
				first = time.Now()
			}
			next.Reset(min(settleTime, time.Until(first.Add(settleMost))))
		case <-next.C:
			first = time.Time{}
			c.updateGroups()
			if changes == nil {
				next.Reset(pollInterval)
			}
		}
	}
}

func (c *Conn) updateGroups() {
	c.configure.Lock()
	defer c.configure.Unlock()
	if c.state.Load() != stateOpen {
		return
	}
	var all groupChange
	for _, g := range c.all.groups {
		change, _ := c.updateGroup(g) // the Logger is told what fails
		all.joined = append(all.joined, change.joined...)
		all.left = append(all.left, change.left...)
	}
	c.tellGroups(all)
}

// updateGroup leaves g where it cannot be joined any more, and joins it where
// it can. It returns an error if there are interfaces and g is joined on none,
// or not on one with an address for want of memberships.
func (c *Conn) updateGroup(g *groupOfAll) (change groupChange, err error) {
	ifis, err := c.sock.interfaces()
	if err != nil {
		c.log(slog.LevelWarn, "udp: cannot list the interfaces", "error", err)
		return change, err
	}
	// An interface that is down stays excluded.
	g.excluded = slices.DeleteFunc(g.excluded, func(ifi net.Interface) bool { return !containsInterface(ifis, &ifi) })
	const can = net.FlagUp | net.FlagMulticast
	ifis = slices.DeleteFunc(ifis, func(ifi net.Interface) bool {
		return ifi.Flags&can != can || containsInterface(g.excluded, &ifi)
	})
	c.updateInterfaces(g, ifis)
	before := c.memberships()
	c.leaveOthers(g, ifis)
	err = c.joinOthers(g, ifis)
	return changeOf(g, before, c.memberships()), err
}

// leaveOthers leaves g on the interfaces that are not among ifis: also where
// the interface does not exist any more, as the membership still counts against
// the limit.
func (c *Conn) leaveOthers(g *groupOfAll, ifis []net.Interface) {
	for _, m := range c.memberships() {
		if m.all && m.group == g.group && !containsInterface(ifis, m.ifi) {
			c.leaveOn(m)
			delete(g.failures, m.index)
		}
	}
}

// joinOthers joins g on those of ifis where it is not joined yet. It returns an
// error as updateGroup does.
func (c *Conn) joinOthers(g *groupOfAll, ifis []net.Interface) error {
	var failure, full error
	joined := false
	for i := range ifis {
		ifi := &ifis[i]
		err := c.joinOn(g, ifi)
		switch {
		case err == nil:
			joined = true
			delete(g.failures, ifi.Index)
			continue
		case isLimit(err) && c.sock.hasAddress(ifi, g.group.Is4()):
			full = err
		default:
			failure = err
		}
		if what := err.Error(); g.failures[ifi.Index] != what { // tell it once
			g.failures[ifi.Index] = what
			c.log(slog.LevelWarn, "udp: cannot join", "group", Group{Addr: g.group, Interface: ifi}.String(), "error", err)
		}
	}
	if full != nil || joined {
		return full
	}
	return failure
}

// joinOn joins g on ifi, unless it is joined there.
func (c *Conn) joinOn(g *groupOfAll, ifi *net.Interface) error {
	m := membership{group: g.group, index: ifi.Index, ifi: ifi, all: true}
	for _, have := range c.memberships() {
		if have.group == m.group && have.index == m.index {
			return have.conflict(m)
		}
	}
	err := c.join(m)
	if isLimit(err) && c.sock.hasAddress(ifi, g.group.Is4()) && c.makeRoom(g.group) {
		err = c.join(m)
	}
	if err == nil {
		err = c.blockAgain(g, m)
	}
	if err == nil {
		c.log(slog.LevelInfo, "udp: joined", "group", m.asGroup().String())
	}
	return err
}

// blockAgain does for a new membership of g what Block has done for others.
func (c *Conn) blockAgain(g *groupOfAll, m membership) error {
	for _, source := range g.blocked {
		m.source = source
		if err := c.filter(c.sock.block, m, addBlocked); err != nil {
			m.source = netip.Addr{}
			c.leaveOn(m)
			return err
		}
	}
	return nil
}

// leaveOn ends one membership of a JoinAll. The system may have ended it
// already, with the interface.
func (c *Conn) leaveOn(m membership) {
	err := c.sock.leave(m.group, m.source, m.index)
	c.setMemberships(slices.DeleteFunc(slices.Clone(c.memberships()), func(have membership) bool {
		return have.all && have.group == m.group && have.index == m.index
	}))
	args := []any{"group", m.asGroup().String()}
	if err != nil {
		args = append(args, "error", err)
	}
	c.log(slog.LevelInfo, "udp: left", args...)
}

// makeRoom leaves one group of JoinAll, of the family of group, on an
// interface that has no address in it, such as the ports of a bridge: there
// may be more of them than a socket can have memberships.
func (c *Conn) makeRoom(group netip.Addr) bool {
	for _, m := range c.memberships() {
		if m.all && m.group.Is4() == group.Is4() && !c.sock.hasAddress(m.ifi, m.group.Is4()) {
			c.leaveOn(m)
			return true
		}
	}
	return false
}

// filterAll is filter for a group of JoinAll, on the interfaces of now and of
// later.
func (c *Conn) filterAll(system func(group, source netip.Addr, index int) error, g *groupOfAll, source netip.Addr,
	edit func([]netip.Addr, netip.Addr) ([]netip.Addr, error)) error {
	blocked, err := edit(g.blocked, source)
	if err != nil {
		return err
	}
	g.blocked = blocked
	var errs []error
	for _, m := range c.memberships() {
		if _, err := edit(m.blocked, source); err != nil || !m.all || m.group != g.group {
			continue // by Block with this interface
		}
		m.source = source
		errs = append(errs, c.filter(system, m, edit))
	}
	return errors.Join(errs...)
}

// updateInterfaces gives the memberships of g their interfaces as they are
// called now.
func (c *Conn) updateInterfaces(g *groupOfAll, ifis []net.Interface) {
	ms := slices.Clone(c.memberships())
	for i := range ms {
		if !ms[i].all || ms[i].group != g.group {
			continue
		}
		at := slices.IndexFunc(ifis, func(ifi net.Interface) bool { return sameInterface(&ifi, ms[i].ifi) })
		if at >= 0 && ifis[at].Name != ms[i].ifi.Name {
			ms[i].ifi = &ifis[at]
		}
	}
	c.setMemberships(ms)
}

// changeOf returns in which memberships of g the two lists differ. An interface
// is another one if its net.Interface is.
func changeOf(g *groupOfAll, before, after []membership) (change groupChange) {
	missing := func(from, in []membership) (groups []Group) {
		for _, m := range from {
			there := slices.ContainsFunc(in, func(have membership) bool { return have.all && have.group == g.group && have.ifi == m.ifi })
			if m.all && m.group == g.group && !there {
				groups = append(groups, m.asGroup())
			}
		}
		return groups
	}
	return groupChange{joined: missing(after, before), left: missing(before, after)}
}

func containsInterface(ifis []net.Interface, ifi *net.Interface) bool {
	return slices.ContainsFunc(ifis, func(have net.Interface) bool { return sameInterface(&have, ifi) })
}

// sameInterface reports whether a and b, of which one may have been listed
// earlier, are one interface: an index can be given to another one, a name too.
func sameInterface(a, b *net.Interface) bool {
	if a.Index != b.Index {
		return false
	}
	if len(a.HardwareAddr)+len(b.HardwareAddr) > 0 {
		return bytes.Equal(a.HardwareAddr, b.HardwareAddr)
	}
	return a.Name == b.Name
}

func errJoined() error { return fmt.Errorf("joined already: %w", syscall.EADDRINUSE) }
