package udp

import (
	"net/netip"
	"time"
)

// An Undelivered is one report of the network that a datagram did not arrive
// (ICMP: RFC 792, RFC 4443). On Linux every Conn whose Handler has
// HandleUndelivered is told what the system hears; elsewhere only a connected
// Conn, with its peer for Addr, and neither Offender nor MTU.
type Undelivered struct {
	Addr     netip.AddrPort // where the datagram was going; zero if unknown
	Offender netip.Addr     // who reported it, if known: a router, or the peer
	Err      error          // a syscall.Errno: ECONNREFUSED (nobody listens there), EHOSTUNREACH, EMSGSIZE, ...
	MTU      int            // with EMSGSIZE: the largest packet that the path takes in bytes, if known
}

// Limits for reports: how many the Conn holds for its goroutine, and how long
// reads come first when there are more.
const (
	maxReports  = 1024
	reportPause = time.Millisecond
)

// askForReports has the socket keep reports apart for HandleUndelivered. A
// socket that cannot gives what it knows by the errors of reads and writes.
func (c *Conn) askForReports() {
	c.keepsReports = c.handlers.undelivered != nil && c.sock.askForReports()
}

// note is for a report that a write met. The goroutine delivers it, never the
// writer, which may hold locks that the handler wants. Those for which there
// is no room are counted only.
func (c *Conn) note(u Undelivered) {
	c.stats.undelivered.Add(1)
	if c.handlers.undelivered == nil {
		return
	}
	c.wakeMu.Lock()
	if len(c.reports) < maxReports {
		c.reports = append(c.reports, u)
	}
	c.wakeMu.Unlock()
	c.wake()
}

// lookForReports takes the reports that the socket keeps, and has the
// goroutine deliver them. It is for whoever met a sign of them: the system
// may give no other.
func (c *Conn) lookForReports() {
	if !c.keepsReports {
		return
	}
	more := c.collect()
	c.wakeMu.Lock()
	more = more || len(c.reports) > 0
	c.wakeMu.Unlock()
	if more {
		c.wake()
	}
}

// collect takes the reports that the socket keeps, as many as there is room
// for, and tells whether there may be more.
func (c *Conn) collect() (more bool) {
	if !c.keepsReports {
		return false
	}
	c.wakeMu.Lock()
	defer c.wakeMu.Unlock()
	return c.sock.takeReports(maxReports-len(c.reports), func(u Undelivered) {
		c.stats.undelivered.Add(1)
		c.reports = append(c.reports, u)
	})
}

// wake makes the goroutine look at the state and at the reports: it ends the
// read that is under way, or the next.
func (c *Conn) wake() error {
	c.wakeMu.Lock()
	defer c.wakeMu.Unlock()
	if c.awake {
		return nil
	}
	c.awake = true
	return c.sock.setReadDeadline(past)
}

// isAwake reports whether a deadline that is over is one of wake's.
func (c *Conn) isAwake() bool {
	c.wakeMu.Lock()
	defer c.wakeMu.Unlock()
	return c.awake
}

// woken does what wake was called for. From the moment that the Conn drains,
// reads do not wait, and it stays awake.
func (c *Conn) woken() error {
	more := c.takeReports()
	c.wakeMu.Lock()
	defer c.wakeMu.Unlock()
	switch {
	case c.state.Load() == stateDraining:
		c.awake, c.drains, c.left = true, true, c.mayWait()
		return c.sock.drain()
	case more || len(c.reports) > 0:
		// A read whose deadline is over does not even try.
		c.awake, c.paced = true, true
		return c.sock.setReadDeadline(time.Now().Add(reportPause))
	}
	c.awake = false
	return c.sock.setReadDeadline(time.Time{})
}

// takeReports hands the reports of the socket and of writers to the handler,
// and tells whether there may be more.
func (c *Conn) takeReports() (more bool) {
	more = c.collect()
	c.wakeMu.Lock()
	reports := c.reports
	c.reports = nil
	c.wakeMu.Unlock()
	for _, u := range reports {
		c.report(u)
	}
	return more
}

func (c *Conn) report(u Undelivered) {
	if c.handlers.undelivered == nil || c.state.Load() == stateClosed {
		return
	}
	if c.config.Recover != nil {
		defer c.recovered()
	}
	c.handlers.undelivered.HandleUndelivered(c, u)
}
