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

// loop is the goroutine of a Conn. See the states of a Conn.
func (c *Conn) loop() {
	defer c.finish()
	defer c.stop()
	c.serve()
	c.drain()
	c.refuseWork()
	c.lookForReports()
	c.runWork() // what was posted until now
	c.returned = true
}

// serve reads, and calls the handler, while the Conn is open.
//
// Other goroutines wake it by the deadline of the read that is under way, or
// of the next: work costs nothing while there is none. A read that does not
// wait comes between one round of work and the next, so that neither keeps
// the other waiting.
func (c *Conn) serve() {
	wait := forever
	for c.state.Load() == stateOpen {
		ds, err := c.sock.read(wait)
		if err == nil {
			c.handleDatagrams(ds)
		} else {
			c.handleReadError(err, wait)
		}
		if err != nil || wait != forever {
			wait = c.runWork()
		}
	}
}

// drain reads what waits in the socket when Shutdown is called, as far as it
// can have waited: under a flood, the socket is never empty.
func (c *Conn) drain() {
	if c.state.Load() != stateDraining {
		return
	}
	c.sock.drain()
	for budget := c.mayWait(); budget >= 0 && c.state.Load() == stateDraining; {
		c.runWork()
		ds, err := c.sock.read(drainGrace)
		switch {
		case err == nil:
			budget -= queueCost(ds)
			c.handleDatagrams(ds)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return // nothing waits any more
		case c.handleReport(err):
			budget -= emptyCost
		default:
			c.countReadError(err)
			return
		}
	}
}

// How long a socket that cannot be asked without waiting is silent before it
// counts as empty: when a Conn drains, and when there is work to do meanwhile.
const (
	drainGrace = 20 * time.Millisecond
	workGrace  = 100 * time.Microsecond
)

// What a datagram has cost at least of the receive buffer that it waited in:
// its payload and some bytes, as several may be kept as one; for a datagram
// without payload, which is always kept by itself, some hundred.
const (
	leastCost = 8
	emptyCost = 512
)

// queueCost returns how many bytes of the receive buffer ds have had at least.
func queueCost(ds []Datagram) (bytes int) {
	for i := range ds {
		if n := len(ds[i].Payload); n > 0 {
			bytes += n + leastCost
		} else {
			bytes += emptyCost
		}
	}
	return bytes
}

// handleReadError does what an error of a read that waited so long is a
// reason for.
func (c *Conn) handleReadError(err error, wait time.Duration) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && (wait != forever || c.isWoken()):
	case c.handleReport(err):
	case c.state.Load() == stateClosed:
	case errors.Is(err, net.ErrClosed): // by somebody else
		c.err = c.opError(opRead, c.RemoteAddr(), err)
		c.Close()
	default:
		c.countReadError(err)
		c.pauseReading(c.pause)
		c.pause = min(2*c.pause, lastPause)
	}
}

func (c *Conn) countReadError(err error) {
	if c.state.Load() != stateClosed {
		c.stats.readErrors.Add(1)
		c.log(slog.LevelWarn, "udp: read failed", "error", err)
	}
}

// sleep waits for d, or until the Conn is closed.
func (c *Conn) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.done:
	}
}

// stop calls HandleStop and closes the socket. It runs also where a callback
// has ended the goroutine, as t.FailNow does in a test.
func (c *Conn) stop() {
	if !c.returned {
		if v := recover(); v != nil {
			panic(v) // Recover is nil: this ends the program
		}
		c.refuseWork()
		c.stats.discarded.Add(uint64(c.unhanded))
		if c.state.Load() != stateClosed {
			c.err = c.opError(opRead, c.RemoteAddr(), errors.New("a handler ended the goroutine"))
		}
	}
	defer c.log(slog.LevelInfo, "udp: closed")
	defer c.ensureClosed()
	if c.handlers.stop != nil {
		c.beginCallback()
		defer c.endCallback()
		if c.config.Recover != nil {
			defer c.recovered()
		}
		c.handlers.stop.HandleStop(c, c.err)
	}
}

// handleDatagrams hands to the handler what one read returned.
func (c *Conn) handleDatagrams(ds []Datagram) {
	c.beginCallback()
	defer c.endCallback()
	c.pause = firstPause
	c.deliver(ds)
	c.sock.release()
}

// deliver counts ds, and calls the handler.
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
		c.deliverBatch(c.handlers.batch, ds)
	} else {
		c.deliverEach(ds)
	}
}

func (c *Conn) deliverEach(ds []Datagram) {
	for i := range ds {
		c.unhanded = len(ds) - i - 1
		c.deliverOne(c.handlers.datagram, &ds[i])
	}
}

// deliverOne hands d to h, unless it is not to have it. Workers call it in
// their goroutines.
func (c *Conn) deliverOne(h Handler, d *Datagram) {
	switch {
	case !c.accepts(d):
		c.stats.discarded.Add(1)
	case h != nil:
		c.handle(h, d)
	}
	if raceEnabled {
		poison(d)
	}
}

func (c *Conn) handle(h Handler, d *Datagram) {
	if c.config.Recover != nil {
		defer c.recovered()
	}
	h.HandleDatagram(c, *d)
}

// deliverBatch hands to h what is left of ds without those that it is not to
// have. Workers call it in their goroutines.
func (c *Conn) deliverBatch(h BatchHandler, ds []Datagram) {
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
			for i := range lent {
				poison(&lent[i])
			}
			copy(accepted, lent)
		}()
	}
	c.handleBatch(h, accepted[:len(accepted):len(accepted)]) // appending to it goes elsewhere
}

func (c *Conn) handleBatch(h BatchHandler, ds []Datagram) {
	if c.config.Recover != nil {
		defer c.recovered()
	}
	h.HandleBatch(c, ds)
}

// accepts reports whether d is for the handler: not after Close, from nobody
// but the peer of a connected Conn, from no forged source, and to no group that
// was not joined.
func (c *Conn) accepts(d *Datagram) bool {
	if c.state.Load() == stateClosed || d.Addr.Addr().Is4In6() || d.Interface == foreignInterface {
		return false
	}
	if peer := c.peer.Load(); peer != nil && peer.addr != d.Addr && !c.isPeer(peer, d.Addr) {
		return false
	}
	if !d.Local.IsMulticast() || c.adopted || c.memberOf(d) {
		return true
	}
	c.sock.ownGroupsOnly()
	return false
}

// recovered is deferred around each call of a handler, if Recover is set.
func (c *Conn) recovered() {
	if v := recover(); v != nil {
		c.stats.panics.Add(1)
		c.config.Recover(c, v)
	}
}
