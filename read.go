package udp

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"
)

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
	for {
		ds, err := c.sock.read()
		if err != nil {
			if c.ends(err) {
				break
			}
			continue
		}
		c.pause = firstPause
		last := c.drains && c.spent(ds)
		c.deliver(ds)
		c.sock.release()
		if last {
			break
		}
	}
	c.ended = true
}

// ends sees to an error of read, and reports whether it is the last.
func (c *Conn) ends(err error) bool {
	if c.drains && errors.Is(err, os.ErrDeadlineExceeded) {
		return true // nothing waits any more
	}
	if err = c.outlive(err); err == nil {
		return c.drains && c.left < 0
	}
	if c.state.Load() == stateClosed {
		return true
	}
	if errors.Is(err, net.ErrClosed) { // by somebody else
		c.err = c.opError(opRead, c.RemoteAddr(), err)
		return true
	}
	c.stats.readErrors.Add(1)
	c.log(slog.LevelWarn, "udp: read failed", "error", err)
	if c.drains {
		return true
	}
	c.sleep(c.pause)
	c.pause = min(2*c.pause, lastPause)
	if c.state.Load() == stateDraining {
		c.woken()
	}
	return false
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
	case isReport(errno) && !c.keepsReports:
		c.stats.undelivered.Add(1)
		c.report(Undelivered{Addr: c.RemoteAddr(), Err: errno})
	case isReport(errno) && !c.drains:
		if !c.paced {
			return c.woken()
		}
	case isReport(errno):
	case c.keepsReports && unpollable(err):
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

// spent counts ds towards what can have waited when the Conn began to drain,
// and reports whether that has all been read: under a flood, the socket is
// never empty.
func (c *Conn) spent(ds []Datagram) bool {
	for i := range ds {
		if n := len(ds[i].Payload); n > 0 {
			c.left -= n + leastCost
		} else {
			c.left -= emptyCost
		}
	}
	return c.left < 0
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
		if ds[i].Truncated {
			c.stats.truncated.Add(1)
		}
	}
	if c.stats.read(len(ds), bytes)%dropInterval == 0 {
		c.sock.dropped() // its count may wrap
	}
	if c.handlers.batch != nil {
		c.deliverBatch(ds)
	} else {
		c.deliverEach(ds)
	}
}

func (c *Conn) deliverEach(ds []Datagram) {
	for i := range ds {
		switch {
		case !c.accepts(&ds[i]):
			c.stats.discarded.Add(1)
		case c.handlers.datagram != nil:
			c.handle(&ds[i])
		}
		if raceEnabled {
			poison(ds[i : i+1])
		}
	}
}

func (c *Conn) handle(d *Datagram) {
	if c.config.Recover != nil {
		defer c.recovered()
	}
	c.handlers.datagram.HandleDatagram(c, *d)
}

// deliverBatch hands over what is left of ds without those that the handler
// is not to have.
func (c *Conn) deliverBatch(ds []Datagram) {
	accepted := ds[:0]
	for i := range ds {
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
		lent := slices.Clone(accepted) // the handler may change its elements
		defer func() {
			poison(lent)
			copy(accepted, lent)
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
	if peer := c.peer.Load(); peer != nil && !c.isPeer(peer, d.Addr) {
		return false
	}
	return !d.Local.IsMulticast() || c.adopted || c.memberOf(d)
}

// recovered is deferred around each call of a handler, if Recover is set.
func (c *Conn) recovered() {
	if v := recover(); v != nil {
		c.stats.panics.Add(1)
		c.config.Recover(c, v)
	}
}
