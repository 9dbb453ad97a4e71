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

// maxReports is how many reports wait for the goroutine at most, and how many
// it tells of before it reads again.
const maxReports = 1024

// askForReports has the socket keep reports apart, whether the handler wants to
// hear of them or not: with that, Linux also says when an interface has no room
// for a datagram (ENOBUFS), which it otherwise drops without a word. A socket
// that cannot gives what it knows by the errors of reads and writes.
func (c *Conn) askForReports() {
	c.keepsReports = c.sock.askForReports()
}

// recordReport is for a report that a write met. The goroutine tells of it,
// never the writer, which may hold locks that the handler wants. Those for
// which there is no room are counted only.
func (c *Conn) recordReport(u Undelivered) {
	c.stats.undelivered.Add(1)
	if c.handlers.undelivered == nil {
		return
	}
	c.work.mu.Lock()
	defer c.work.mu.Unlock()
	if len(c.work.reports) < maxReports {
		c.work.reports = append(c.work.reports, u)
	}
	c.wake()
}

// lookForReports takes the reports that the socket keeps, and has the goroutine
// tell of them. It is for whoever met a sign of them: the system may give no
// other. A write does so at once, as they have a part of the receive buffer.
//
// It returns whether the socket keeps more of them than there is room for here.
func (c *Conn) lookForReports() (more bool) {
	if !c.keepsReports || c.state.Load() == stateClosed {
		return false
	}
	w := &c.work
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moreReports = c.sock.takeReports(maxReports-len(w.reports), func(u Undelivered) {
		c.stats.undelivered.Add(1)
		w.reports = append(w.reports, u)
	})
	if w.moreReports || len(w.reports) > 0 {
		c.wake()
	}
	return w.moreReports
}

// handleReport sees to an error of a read that is a report, or a sign that
// the socket keeps some, and tells whether it was.
func (c *Conn) handleReport(err error) bool {
	switch errno := errnoOf(err); {
	case isReport(errno) && !c.keepsReports:
		c.stats.undelivered.Add(1)
		c.report(Undelivered{Addr: c.RemoteAddr(), Err: errno})
	case isReport(errno):
		if c.lookForReports(); c.stats.undelivered.Load() == 0 {
			// It may have been asked for them, but it keeps none.
			c.stats.undelivered.Add(1)
			c.report(Undelivered{Addr: c.RemoteAddr(), Err: errno})
		}
	case c.keepsReports && unpollable(err):
		time.Sleep(unpollablePause)
		c.lookForReports()
	default:
		return false
	}
	return true
}

// unpollable reports whether err is what Go's poller says of a socket for
// which the system has told it of an error, and of neither data nor room to
// write: a report has come while the send buffer was full. It says so until
// the system tells it of anything else, and reads fail until then.
func unpollable(err error) bool { return cause(err).Error() == "not pollable" }

// unpollablePause is how long to leave the socket alone then.
const unpollablePause = 500 * time.Microsecond

func (c *Conn) report(u Undelivered) {
	if c.handlers.undelivered == nil || c.state.Load() == stateClosed {
		return
	}
	c.beginCallback()
	defer c.endCallback()
	if c.config.Recover != nil {
		defer c.recovered()
	}
	c.handlers.undelivered.HandleUndelivered(c, u)
}
