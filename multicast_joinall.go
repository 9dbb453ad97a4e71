package udp

import (
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

// A follower keeps the groups of JoinAll joined as interfaces come and go.
// The mutex configure of the Conn guards it.
type follower struct {
	groups  []*everywhere
	running bool
	ended   sync.WaitGroup // to be waited for after the Conn is closed
}

// everywhere is a group of JoinAll.
type everywhere struct {
	group    netip.Addr
	blocked  []netip.Addr   // by Block without an interface
	left     map[int]bool   // the interfaces that Leave named
	failures map[int]string // what has been said about interfaces that cannot join
}

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
// that go. The loopback interface of Linux does not count: it has no
// multicast flag. Leave without an Interface ends it all; Leave with one
// leaves there, for as long as that interface exists.
//
// Interfaces that cannot join are told to the Logger, as is each change, and
// tried again when something changes. JoinAll fails where none can, and
// where the system's limit of memberships for a socket (syscall.ENOBUFS; see
// Join) is less than its interfaces with addresses. A second JoinAll of the
// same group is an error (syscall.EADDRINUSE), as is one after a Join that
// left the interface to the system.
func (c *Conn) JoinAll(group netip.Addr) error {
	return c.group(opJoin, Group{Addr: group}, func(m membership) error {
		if c.state.Load() != stateOpen {
			return net.ErrClosed
		}
		if m.index != 0 {
			return &net.AddrError{Err: "a zone means one interface, not all", Addr: group.String()}
		}
		if c.find(m) >= 0 || c.everywhere(m.group) != nil {
			return errJoined()
		}
		return c.joinAll(m)
	})
}

func (c *Conn) joinAll(m membership) error {
	if _, err := c.sock.interfaces(); errors.Is(err, errors.ErrUnsupported) {
		return c.join(m)
	}
	e := &everywhere{group: m.group, left: make(map[int]bool), failures: make(map[int]string)}
	c.follow.groups = append(c.follow.groups, e)
	c.startFollowing() // before the first look, to miss nothing
	err := c.update(e)
	if err != nil {
		c.leaveAll(e)
	}
	return err
}

// everywhere returns the group as JoinAll has joined it; nil: it has not.
func (c *Conn) everywhere(group netip.Addr) *everywhere {
	for _, e := range c.follow.groups {
		if e.group == group {
			return e
		}
	}
	return nil
}

// leaveAll ends a JoinAll.
func (c *Conn) leaveAll(e *everywhere) {
	c.follow.groups = slices.DeleteFunc(c.follow.groups, func(have *everywhere) bool { return have == e })
	for _, m := range c.memberships() {
		if m.all && m.group == e.group {
			c.leaveOn(m)
		}
	}
}

// startFollowing starts the goroutine that watches the interfaces. It ends
// with the Conn.
func (c *Conn) startFollowing() {
	if c.follow.running {
		return
	}
	c.follow.running = true
	changes, stop, err := c.sock.watchInterfaces()
	if err != nil {
		c.log(slog.LevelWarn, "udp: looking at the interfaces every second, as the system does not tell", "error", err)
	}
	c.follow.ended.Go(func() {
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
			c.updateAll()
			if changes == nil {
				next.Reset(pollInterval)
			}
		}
	}
}

func (c *Conn) updateAll() {
	c.configure.Lock()
	defer c.configure.Unlock()
	if c.state.Load() != stateOpen {
		return
	}
	for _, e := range c.follow.groups {
		c.update(e) // says to the Logger what fails
	}
}

// update leaves e where it cannot be joined any more, and joins it where it
// can. It returns an error if it is joined nowhere, or not on an interface
// with an address for want of memberships.
func (c *Conn) update(e *everywhere) (err error) {
	ifis, err := c.sock.interfaces()
	if err != nil {
		c.log(slog.LevelWarn, "udp: cannot list the interfaces", "error", err)
		return err
	}
	const can = net.FlagUp | net.FlagMulticast
	ifis = slices.DeleteFunc(ifis, func(ifi net.Interface) bool { return ifi.Flags&can != can })
	c.leaveOthers(e, ifis)
	joined := false
	var full error
	for i := range ifis {
		ifi := &ifis[i]
		if e.left[ifi.Index] {
			continue
		}
		if c.joinedOn(e.group, ifi.Index) {
			joined = true
			continue
		}
		switch failed := c.joinOn(e, ifi); {
		case failed == nil:
			joined = true
		case isLimit(failed) && c.sock.hasAddress(ifi, e.group.Is4()):
			full = failed
		default:
			err = failed
		}
	}
	if full != nil || joined {
		return full
	}
	return err
}

// leaveOthers leaves e on the interfaces that are not among ifis.
func (c *Conn) leaveOthers(e *everywhere, ifis []net.Interface) {
	gone := func(index int) bool {
		return !slices.ContainsFunc(ifis, func(ifi net.Interface) bool { return ifi.Index == index })
	}
	for _, m := range c.memberships() {
		if m.all && m.group == e.group && gone(m.index) {
			// Also where the interface does not exist any more: the
			// membership still counts against the limit.
			c.leaveOn(m)
		}
	}
	for index := range e.failures {
		if gone(index) {
			delete(e.failures, index)
		}
	}
}

func (c *Conn) joinedOn(group netip.Addr, index int) bool {
	return slices.ContainsFunc(c.memberships(), func(m membership) bool {
		return m.group == group && m.index == index
	})
}

func (c *Conn) joinOn(e *everywhere, ifi *net.Interface) error {
	m := membership{group: e.group, index: ifi.Index, ifi: ifi, all: true}
	err := c.join(m)
	if isLimit(err) && c.sock.hasAddress(ifi, e.group.Is4()) && c.makeRoom(e.group) {
		err = c.join(m)
	}
	if err == nil {
		err = c.blockAgain(e, m)
	}
	if err == nil {
		delete(e.failures, ifi.Index)
		c.log(slog.LevelInfo, "udp: joined", "group", m.String())
		return nil
	}
	if what := err.Error(); e.failures[ifi.Index] != what { // say it once
		e.failures[ifi.Index] = what
		c.log(slog.LevelWarn, "udp: cannot join", "group", m.String(), "error", err)
	}
	return err
}

// blockAgain does for a new membership of e what Block has done for others.
func (c *Conn) blockAgain(e *everywhere, m membership) error {
	for _, source := range e.blocked {
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
	if err != nil {
		c.log(slog.LevelInfo, "udp: left", "group", m.String(), "error", err)
		return
	}
	c.log(slog.LevelInfo, "udp: left", "group", m.String())
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
func (c *Conn) filterAll(system func(group, source netip.Addr, index int) error, e *everywhere, source netip.Addr,
	edit func([]netip.Addr, netip.Addr) ([]netip.Addr, error)) error {
	blocked, err := edit(e.blocked, source)
	if err != nil {
		return err
	}
	e.blocked = blocked
	var errs []error
	for _, m := range c.memberships() {
		if _, err := edit(m.blocked, source); err != nil || !m.all || m.group != e.group {
			continue // by Block with this interface
		}
		m.source = source
		errs = append(errs, c.filter(system, m, edit))
	}
	return errors.Join(errs...)
}

func errJoined() error { return fmt.Errorf("joined already: %w", syscall.EADDRINUSE) }
