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
	pause := firstPause
	for {
		ds, err := c.sock.read()
		if err == nil {
			pause = firstPause
			c.deliver(ds)
			c.sock.release()
			continue
		}
		if c.state.Load() == stateClosed {
			break
		}
		if errors.Is(err, net.ErrClosed) { // by somebody else
			c.err = c.opError(opRead, c.RemoteAddr(), err)
			break
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && c.isAwake() {
			if c.drains {
				break
			}
			err = c.woken()
		} else if errno := errnoOf(err); isReport(errno) {
			c.stats.undelivered.Add(1)
			c.report(Undelivered{Addr: c.RemoteAddr(), Err: reportErrno(errno)})
			err = nil
		}
		if err != nil {
			c.stats.readErrors.Add(1)
			c.log(slog.LevelWarn, "udp: read failed", "error", err)
			if c.state.Load() != stateOpen {
				break // there is no time left to try again
			}
			c.sleep(pause)
			pause = min(2*pause, lastPause)
		}
	}
	c.ended = true
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
	c.deliverReports()
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
	c.stats.read(len(ds), bytes)
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

// note is for a report that a write met. The goroutine delivers it, never the
// writer, which may hold locks that the handler wants.
func (c *Conn) note(u Undelivered) {
	c.stats.undelivered.Add(1)
	if c.handlers.undelivered == nil {
		return
	}
	c.wakeMu.Lock()
	c.reports = append(c.reports, u)
	c.wakeMu.Unlock()
	c.wake()
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
	c.deliverReports()
	c.wakeMu.Lock()
	defer c.wakeMu.Unlock()
	if c.state.Load() == stateDraining {
		c.awake, c.drains = true, true
		return c.sock.drain()
	}
	if len(c.reports) > 0 {
		return nil // new ones: still awake
	}
	c.awake = false
	return c.sock.setReadDeadline(time.Time{})
}

// deliverReports hands the reports of writers to the handler.
func (c *Conn) deliverReports() {
	c.wakeMu.Lock()
	reports := c.reports
	c.reports = nil
	c.wakeMu.Unlock()
	for _, u := range reports {
		c.report(u)
	}
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
