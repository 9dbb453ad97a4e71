package udp

import (
	"net"
	"net/netip"
	"syscall"
	"time"
)

// WriteTo sends b in one datagram to addr. It waits while the socket's send
// buffer is full. A nil error means that the system took the datagram, not
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
// interface that d came in by. Otherwise Reply acts like WriteTo.
func (c *Conn) Reply(d Datagram, b []byte) (int, error) {
	d.Payload = b
	if d.Addr.Addr().Unmap().IsUnspecified() {
		c.stats.writeErrors.Add(1)
		return 0, c.opError(opWrite, d.Addr, errNobody(d.Addr))
	}
	return c.writeOne(&d, false)
}

// WriteBatch sends ds with as few system calls as the system allows.
// Datagrams to one peer leave in their order, those to different peers may
// overtake each other. Of each, Payload, Addr, Local and Interface count; a
// connected Conn takes a zero Addr for its peer's. What a handler was given
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
		err = c.send(d)
	}
	if err != nil {
		c.stats.writeErrors.Add(1)
		return 0, c.opError(opWrite, d.Addr, err)
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

// send sends d, whose address has been checked.
func (c *Conn) send(d *Datagram) error {
	if err := c.sock.write(*d); err != nil {
		return c.resend(d, err)
	}
	c.stats.wrote(1, len(d.Payload))
	return nil
}

// How often a datagram is tried: when the system has no buffers (ENOBUFS:
// macOS says so where others wait), after a pause that begins with
// firstBufferPause and doubles; and when its write met the reports of earlier
// ones, of which a storm may bring many.
const (
	bufferTries      = 6
	firstBufferPause = 250 * time.Microsecond
	refusalTries     = 100
	reportTries      = 16
)

// resend tries again to send d, which failed with err, as long as the failure
// is not its own, and counts it when it is sent. A write that returns a report
// was not sent. Only a refusal is a report for sure; anything else may be said
// of d itself, and is then said again and again.
func (c *Conn) resend(d *Datagram, err error) error {
	pause := firstBufferPause
	var errno syscall.Errno
	for same := 0; err != nil; {
		if now := errnoOf(err); now != errno {
			c.met(errno, same)
			errno, same = now, 0
		}
		same++
		switch {
		case errno == syscall.ENOBUFS && same < bufferTries:
			c.sleep(pause)
			pause *= 2
		case errno == syscall.ECONNREFUSED && same < refusalTries, isReport(errno) && same < reportTries:
			c.lookForReports()
		default:
			if errno == syscall.ECONNREFUSED {
				c.met(errno, same)
			}
			return err
		}
		if err = c.sock.write(*d); err == nil {
			c.met(errno, same)
		}
	}
	c.stats.wrote(1, len(d.Payload))
	return nil
}

// met notes what a write has met n times, if that is a report, and not one
// that the socket keeps.
func (c *Conn) met(errno syscall.Errno, n int) {
	if c.keepsReports || !isReport(errno) {
		return
	}
	for range n {
		c.recordReport(Undelivered{Addr: c.RemoteAddr(), Err: errno})
	}
}
