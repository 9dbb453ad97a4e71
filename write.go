package udp

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// WriteTo sends b in one datagram to addr. It waits while the socket's send
// buffer is full, as long as ListenConfig.WriteTimeout says. A nil error means that the system took the datagram, not
// that it arrived.
//
// A connected Conn takes its peer's address and fails with
// net.ErrWriteToConnected for any other; a payload that is too long for UDP
// or the path fails with syscall.EMSGSIZE.
func (c *Conn) WriteTo(b []byte, addr netip.AddrPort) (int, error) {
	return c.writeOne(&Datagram{Payload: b, Addr: addr}, false)
}

// Reply sends b to where d came from, from the address that d was sent to. If
// that was a group or a broadcast address, it leaves from the address of the
// interface that d came in by. Of d, only Addr, Local and Interface count; a
// Datagram that was not received needs no more than Addr.
//
// A source that no host has, 0.0.0.0 or ::, is an error, as an answer would
// come back to this host; and so is a broadcast address (syscall.EACCES),
// unless ListenConfig.Broadcast is set. Otherwise Reply acts like WriteTo.
func (c *Conn) Reply(d Datagram, b []byte) (int, error) {
	d.Payload, d.TrafficClass = b, 0
	if d.Addr.Addr().Unmap().IsUnspecified() {
		c.stats.writeErrors.Add(1)
		return 0, c.opError(opWrite, d.Addr, errNobody(d.Addr))
	}
	return c.writeOne(&d, false)
}

// WriteBatch sends ds with as few system calls as the system allows.
// Datagrams to one peer leave in their order, those to different peers may
// overtake each other. Of each, Payload, Addr, Local, Interface and
// TrafficClass count; a connected Conn takes a zero Addr for its peer's. What a handler was given
// can be sent back as it is.
//
// One that cannot be sent costs only itself: n counts those that were sent,
// and err says why the first that failed did; it is nil if and only if n is
// len(ds).
func (c *Conn) WriteBatch(ds []Datagram) (n int, err error) {
	if len(ds) > 1 {
		return c.sock.writeBatch(c, ds)
	}
	return c.writeEach(ds)
}

// writeEach sends ds one by one.
func (c *Conn) writeEach(ds []Datagram) (n int, err error) {
	for _, d := range ds {
		if _, e := c.writeOne(&d, true); e == nil {
			n++
		} else if err == nil {
			err = e
		}
	}
	return n, err
}

// writeOne sends d, in which it may change Addr.
func (c *Conn) writeOne(d *Datagram, implied bool) (int, error) {
	addr, err := c.destination(d, implied)
	d.Addr = addr
	if err == nil {
		err = c.send(d, 0)
	}
	if err != nil {
		c.stats.writeErrors.Add(1)
		return 0, c.opError(opWrite, d.Addr, c.explainWrite(d, err))
	}
	return len(d.Payload), nil
}

// destination returns where d is to go, or why it cannot go there. If implied,
// no address is the peer's.
func (c *Conn) destination(d *Datagram, implied bool) (netip.AddrPort, error) {
	addr := unmap(d.Addr)
	switch peer := c.peer.Load(); {
	case peer == nil:
		if err := c.checkAddr(addr); err != nil {
			return addr, err
		}
	case implied && !addr.IsValid() || c.isPeer(peer, addr):
		addr = peer.addr
	case !addr.IsValid():
		return addr, c.checkAddr(addr)
	default:
		return addr, net.ErrWriteToConnected
	}
	if d.Local.IsValid() && addr.Addr().IsUnspecified() {
		return addr, errNobody(addr)
	}
	if d.Local.IsValid() && d.Local.Unmap().Is4() != addr.Addr().Is4() {
		return addr, &net.AddrError{Err: "source of another family than the destination", Addr: d.Local.String()}
	}
	return addr, nil
}

// errNobody says that a datagram came from an address that no host has: an
// answer to it would come back to this host, and again.
func errNobody(addr netip.AddrPort) error {
	return &net.AddrError{Err: "nobody's address", Addr: addr.String()}
}

// checkAddr reports an address that nothing can be sent to by this socket.
func (c *Conn) checkAddr(addr netip.AddrPort) error {
	switch {
	case !addr.IsValid():
		return &net.AddrError{Err: "missing address"}
	case addr.Port() == 0:
		return &net.AddrError{Err: "missing port", Addr: addr.String()}
	case addr.Addr().Is4() && !c.ip4:
		return &net.AddrError{Err: "IPv4 address on an IPv6 socket", Addr: addr.String()}
	case addr.Addr().Is6() && !c.ip6:
		return &net.AddrError{Err: "IPv6 address on an IPv4 socket", Addr: addr.String()}
	}
	return nil
}

// A peer is what a Conn is connected to.
type peer struct {
	addr  netip.AddrPort
	index int // of the interface that the zone of addr named when the Conn was connected; zero: it has none
}

// connectedTo sets the peer.
func (c *Conn) connectedTo(addr netip.AddrPort) {
	index, _ := c.sock.zoneIndex(addr.Addr())
	c.peer.Store(&peer{addr, index})
}

// isPeer reports whether a is the peer p, whatever its interface is called now.
func (c *Conn) isPeer(p *peer, a netip.AddrPort) bool {
	if p.index == 0 || !sameButZone(a, p.addr) {
		return a == p.addr
	}
	index, err := c.sock.zoneIndex(a.Addr())
	return err == nil && index == p.index
}

// sameButZone reports whether a and b do not differ but in their zones.
func sameButZone(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && a.Addr().WithZone("") == b.Addr().WithZone("")
}

// send sends d, whose address has been checked. own is why another of the same
// batch could not be sent, zero if there is none.
func (c *Conn) send(d *Datagram, own syscall.Errno) error {
	t := writeTry{reports: c.stats.undelivered.Load(), own: own}
	if err := c.sock.write(*d); err != nil {
		return c.resend(d, err, t)
	}
	c.stats.wrote(1, len(d.Payload))
	return nil
}

// How often a datagram is tried: when the system has no buffers (ENOBUFS:
// Linux says so of the interface's queue, macOS where others wait), after a
// pause that begins with firstBufferPause and doubles; and when its write met
// the reports of earlier ones, of which a storm may bring many.
const (
	bufferTries      = 6
	firstBufferPause = 250 * time.Microsecond
	refusalTries     = 100
	reportTries      = 16
)

// A writeTry is what a Conn knows of a datagram that it tries to send.
type writeTry struct {
	reports uint64        // how many the Conn had counted before the first try
	errno   syscall.Errno // of the last try that failed; zero: none did
	same    int           // how many in a row failed with it
	own     syscall.Errno // the failure of another of the same batch, found to be its own
}

// resend tries again to send d, which failed with err, as long as the failure
// is not its own, and counts it when it is sent. A write that returns a report
// was not sent.
func (c *Conn) resend(d *Datagram, err error, t writeTry) error {
	pause := firstBufferPause
	for try := 1; ; try++ {
		errno := errnoOf(err)
		switch {
		case errno == syscall.ENOBUFS && try < bufferTries && c.mayPause(pause):
			c.sleep(pause)
			pause *= 2
		case isReport(errno) && c.wasPending(errno, &t):
		default:
			return err
		}
		if err = c.sock.write(*d); err == nil {
			c.recordMet(&t)
			c.stats.wrote(1, len(d.Payload))
			return nil
		}
	}
}

// mayPause reports whether WriteTimeout lets a write wait as long as pause, and
// all the shorter ones before it.
func (c *Conn) mayPause(pause time.Duration) bool {
	return c.config.WriteTimeout == 0 || 2*pause-firstBufferPause <= c.config.WriteTimeout
}

// wasPending reports whether errno, which a write returned, was pending: told of
// a datagram that was sent before. A refusal always is. Anything else is said
// of this datagram if it is said again, unless more reports have come, or wait
// where they have no room, so that the socket cannot count others.
func (c *Conn) wasPending(errno syscall.Errno, t *writeTry) bool {
	if !c.keepsReports {
		return c.wasMet(errno, t)
	}
	if errno != t.errno {
		t.errno, t.same = errno, 0
	}
	t.same++
	if t.same < 2 && errno != syscall.ECONNREFUSED {
		return true // a report may have been read before its error became pending
	}
	storm := false
	if errno != t.own {
		storm = c.lookForReports()
	}
	switch {
	case errno == syscall.ECONNREFUSED, storm:
		return t.same < refusalTries
	}
	return t.same < reportTries && c.stats.undelivered.Load() != t.reports
}

// wasMet is wasPending for a socket that does not keep its reports. It has some
// only while it is connected, and nothing tells them from a failure of the
// datagram itself but that they come to an end.
func (c *Conn) wasMet(errno syscall.Errno, t *writeTry) bool {
	if !c.RemoteAddr().IsValid() {
		return false
	}
	if errno != t.errno {
		c.recordMet(t)
		t.errno, t.same = errno, 0
	}
	t.same++
	if errno != syscall.ECONNREFUSED {
		return t.same < reportTries
	}
	if t.same < refusalTries {
		return true
	}
	c.recordMet(t)
	return false
}

// recordMet records the reports that the tries have met.
func (c *Conn) recordMet(t *writeTry) {
	if c.keepsReports || t.errno == 0 {
		return
	}
	for range t.same {
		c.recordReport(Undelivered{Addr: c.RemoteAddr(), Err: t.errno})
	}
	t.same = 0
}

// explainWrite adds to err, for which d was not sent, what the system does not
// say: that Local is not an address of this host, for which each system has a
// number of its own, and by which interface d was to leave.
func (c *Conn) explainWrite(d *Datagram, err error) error {
	errno := errnoOf(err)
	switch {
	case errno != syscall.ENETUNREACH && errno != syscall.EINVAL && errno != syscall.EADDRNOTAVAIL:
		return err
	case d.Local.IsValid() && !d.Local.IsMulticast() && d.Local != broadcast && !c.sock.ownsAddress(d.Local.Unmap()):
		err = fmt.Errorf("source %v: %w", d.Local, syscall.EADDRNOTAVAIL)
	}
	if d.Interface != 0 {
		err = fmt.Errorf("by interface %s: %w", c.sock.zoneName(d.Interface), cause(err))
	}
	return err
}
