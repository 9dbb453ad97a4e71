package udp

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"time"
)

// handlers are the interfaces of a Handler, found once; nil: it has none.
type handlers struct {
	datagram    Handler
	batch       BatchHandler
	start       StartHandler
	stop        StopHandler
	undelivered UndeliveredHandler
}

func (hs *handlers) find(h Handler) {
	hs.datagram = h
	hs.batch, _ = h.(BatchHandler)
	hs.start, _ = h.(StartHandler)
	hs.stop, _ = h.(StopHandler)
	hs.undelivered, _ = h.(UndeliveredHandler)
}

// The pause after a read that failed for no known reason, to begin with and
// at most.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// loop is the goroutine of a Conn: it reads, and calls the handler, until the
// socket is closed or drained.
func (c *Conn) loop() {
	defer c.finish()
	defer c.end()
	for pause := firstPause; ; {
		ds, err := c.sock.read()
		if err == nil {
			pause = firstPause
			c.spend(ds)
			c.deliver(ds)
			c.sock.release()
		} else if c.drains && errors.Is(err, os.ErrDeadlineExceeded) {
			break // nothing waits any more
		} else if err = c.outlive(err); err != nil {
			if c.state.Load() == stateClosed {
				break
			}
			if errors.Is(err, net.ErrClosed) { // by somebody else
				c.err = c.opError(opRead, c.RemoteAddr(), err)
				break
			}
			c.stats.readErrors.Add(1)
			c.log(slog.LevelWarn, "udp: read failed", "error", err)
			if c.drains {
				break
			}
			c.sleep(pause)
			pause = min(2*pause, lastPause)
			if c.state.Load() == stateDraining {
				c.woken()
			}
		}
		if c.drains && c.left < 0 {
			break // the rest has come since
		}
	}
	c.ended = true
}

// outlive does what an error of read is a reason for, and returns one that
// has no known reason.
func (c *Conn) outlive(err error) error {
	errno := errnoOf(err)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		if !c.isAwake() {
			return err // somebody else has set it
		}
		c.paced = false
		return c.woken()
	case isReport(errno) && c.reporter == nil:
		c.stats.undelivered.Add(1)
		c.report(Undelivered{Addr: c.RemoteAddr(), Err: reportErrno(errno)})
	case isReport(errno) && !c.drains:
		if !c.paced {
			return c.woken()
		}
	case isReport(errno):
	case c.reporter != nil && unpollable(err):
		time.Sleep(unpollablePause)
		if !c.drains {
			return c.woken()
		}
	default:
		return err
	}
	c.left -= emptyCost
	return nil
}

// unpollable reports whether err is what Go's poller says of a socket for
// which the system has told it of an error, and of neither data nor room to
// write: a report has come while the send buffer was full. It says so until
// the system tells it of anything else, and reads fail until then.
func unpollable(err error) bool { return cause(err).Error() == "not pollable" }

// unpollablePause is how long to leave the socket alone then.
const unpollablePause = 500 * time.Microsecond

// What a datagram has cost at least of the receive buffer that it waited in:
// its payload and some bytes, as several may be kept as one; for a datagram
// without payload, which is always kept by itself, some hundred.
const (
	leastCost = 8
	emptyCost = 512
)

// spend counts ds towards what can have waited when the Conn began to drain:
// under a flood, the socket is never empty.
func (c *Conn) spend(ds []Datagram) {
	if !c.drains {
		return
	}
	for i := range ds {
		if n := len(ds[i].Payload); n > 0 {
			c.left -= n + leastCost
		} else {
			c.left -= emptyCost
		}
	}
}

// sleep waits for d, or until the Conn is to stop.
func (c *Conn) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.stopping:
	}
}

// end calls HandleStop and closes the socket. It runs also where a handler
// has ended the goroutine, as t.FailNow does in a test.
func (c *Conn) end() {
	if !c.ended {
		if v := recover(); v != nil {
			panic(v) // Recover is nil: this ends the program
		}
		c.err = c.opError(opRead, c.RemoteAddr(), errors.New("a handler ended the goroutine"))
	}
	defer c.log(slog.LevelInfo, "udp: closed")
	defer c.Close()
	c.takeReports()
	if c.handlers.stop != nil {
		if c.config.Recover != nil {
			defer c.recovered()
		}
		c.handlers.stop.HandleStop(c, c.err)
	}
}

// deliver hands to the handler what one read returned.
func (c *Conn) deliver(ds []Datagram) {
	bytes := 0
	for i := range ds {
		bytes += len(ds[i].Payload)
	}
	if c.stats.read(len(ds), bytes)%dropInterval == 0 {
		c.sock.dropped() // its count may wrap
	}
	if c.handlers.batch != nil {
		c.deliverBatch(ds)
		return
	}
	for i := range ds {
		if ds[i].Truncated {
			c.stats.truncated.Add(1)
		}
		switch {
		case !c.accepts(&ds[i]):
			c.stats.discarded.Add(1)
		case c.handlers.datagram != nil:
			c.handle(ds[i])
		}
		if raceEnabled {
			poison(ds[i : i+1])
		}
	}
}

func (c *Conn) handle(d Datagram) {
	if c.config.Recover != nil {
		defer c.recovered()
	}
	c.handlers.datagram.HandleDatagram(c, d)
}

// deliverBatch hands over what is left of ds without those that the handler
// is not to have.
func (c *Conn) deliverBatch(ds []Datagram) {
	accepted := ds[:0]
	for i := range ds {
		if ds[i].Truncated {
			c.stats.truncated.Add(1)
		}
		if c.accepts(&ds[i]) {
			if len(accepted) < i {
				ds[len(accepted)] = ds[i]
			}
			accepted = accepted[:len(accepted)+1]
		} else {
			c.stats.discarded.Add(1)
		}
	}
	if len(accepted) == 0 {
		return
	}
	if raceEnabled {
		c.lent = append(c.lent[:0], accepted...) // the handler may change its elements
		defer func() {
			poison(c.lent)
			copy(accepted, c.lent)
		}()
	}
	c.handleBatch(accepted)
}

func (c *Conn) handleBatch(ds []Datagram) {
	if c.config.Recover != nil {
		defer c.recovered()
	}
	c.handlers.batch.HandleBatch(c, ds)
}

// accepts reports whether d is for the handler: not after Close, from nobody
// but the peer of a connected Conn, and to no group that was not joined.
func (c *Conn) accepts(d *Datagram) bool {
	if c.state.Load() == stateClosed {
		return false
	}
	if peer := c.peer.Load(); peer != nil && *peer != d.Addr {
		return false
	}
	return !d.Local.IsMulticast() || c.adopted || c.memberOf(d)
}

// Limits for reports: how many the Conn holds for its goroutine, and how long
// reads come first when there are more.
const (
	maxReports  = 256
	reportPause = time.Millisecond
)

// askForReports has the socket keep reports apart for HandleUndelivered. A
// socket that cannot gives what it knows by the errors of reads and writes.
func (c *Conn) askForReports() {
	if r, ok := c.sock.(reporter); ok && c.handlers.undelivered != nil && r.askForReports() {
		c.reporter = r
	}
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
	if c.reporter == nil {
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
	if c.reporter == nil {
		return false
	}
	c.wakeMu.Lock()
	defer c.wakeMu.Unlock()
	return c.reporter.takeReports(maxReports-len(c.reports), func(u Undelivered) {
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

// recovered is deferred around each call of a handler, if Recover is set.
func (c *Conn) recovered() {
	if v := recover(); v != nil {
		c.stats.panics.Add(1)
		c.config.Recover(c, v)
	}
}
