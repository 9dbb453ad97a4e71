package udp

import (
	"net/netip"
	"slices"
	"syscall"
)

// checkInterface reports an interface that there is not. Zero is for any, or
// the first.
func checkInterface(index int) error {
	if index < 0 || index > memInterfaces {
		return syscall.ENODEV
	}
	return nil
}

// zoneIndex: the interfaces of a MemNet have no names.
func (s *memSocket) zoneIndex(a netip.Addr) (int, error) {
	index := interfaceNumber(a.Zone())
	if a.Zone() != "" && (index == 0 || checkInterface(index) != nil) {
		return 0, errNoZone(a)
	}
	return index, nil
}

// listensTo reports whether s gets f, which was sent to a group or to all. As on
// Linux, a socket that is bound or connected does not cover such addresses.
func (s *memSocket) listensTo(f *flight) bool {
	switch {
	case !s.covers(f.Local) || s.device != 0 && s.device != f.Interface:
		return false
	case f.Local == broadcast:
		return true
	case s.host == f.from.host && !f.loop, s.host != f.from.host && f.TTL == 0:
		return false
	}
	from := f.Addr.Addr().WithZone("")
	return slices.ContainsFunc(s.members, func(m membership) bool {
		return m.group == f.Local && (m.index == 0 || m.index == f.Interface) &&
			(m.source == from || !m.source.IsValid() && !slices.Contains(m.blocked, from))
	})
}

// The Conn sees to what is joined already, or not.

func (s *memSocket) join(group, source netip.Addr, index int) error {
	return s.do(func() error {
		if err := checkInterface(index); err != nil {
			return err
		}
		s.members = append(s.members, membership{group: group, source: source, index: index})
		return nil
	})
}

func (s *memSocket) leave(group, source netip.Addr, index int) error {
	return s.do(func() error {
		s.members = slices.DeleteFunc(s.members, func(m membership) bool {
			return m.group == group && m.source == source && m.index == index
		})
		return nil
	})
}

func (s *memSocket) block(group, source netip.Addr, index int) error {
	return s.filter(group, index, func(blocked []netip.Addr) []netip.Addr { return append(blocked, source) })
}

func (s *memSocket) unblock(group, source netip.Addr, index int) error {
	return s.filter(group, index, func(blocked []netip.Addr) []netip.Addr {
		return slices.DeleteFunc(blocked, func(a netip.Addr) bool { return a == source })
	})
}

// filter changes who is blocked in a membership for any source.
func (s *memSocket) filter(group netip.Addr, index int, edit func([]netip.Addr) []netip.Addr) error {
	return s.do(func() error {
		for i := range s.members {
			if m := &s.members[i]; m.group == group && m.index == index {
				m.blocked = edit(m.blocked)
			}
		}
		return nil
	})
}

func (s *memSocket) setMulticastInterface(index int) error {
	if err := checkInterface(index); err != nil {
		return err
	}
	return memSet(s, &s.index, index)
}

func (s *memSocket) multicastInterface() (int, error)   { return memGet(s, &s.index) }
func (s *memSocket) setMulticastTTL(ttl int) error      { return memSet(s, &s.ttl, ttl) }
func (s *memSocket) multicastTTL() (int, error)         { return memGet(s, &s.ttl) }
func (s *memSocket) setMulticastLoopback(on bool) error { return memSet(s, &s.loop, on) }
func (s *memSocket) multicastLoopback() (bool, error)   { return memGet(s, &s.loop) }
