package udp

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
)

// What waits in a sendQueue at most, in datagrams and in bytes of payload.
const (
	maxQueued      = 64
	maxQueuedBytes = 256 << 10
)

// A sendQueue has what Conn.Queue took and is not sent yet.
type sendQueue struct {
	callbacks atomic.Int32 // under way: each flushes the queue at its end
	waits     atomic.Bool  // batch is not nil

	sending sync.Mutex // one flush at a time, or they would overtake each other
	mu      sync.Mutex // guards batch; held for moments
	batch   *queuedBatch
}

// A queuedBatch is the memory for what waits. Pages of it that nothing has been
// copied to cost nothing.
type queuedBatch struct {
	ds    []Datagram
	bytes int
	room  [maxQueuedBytes]byte
}

var queuedBatches = sync.Pool{New: func() any { return &queuedBatch{ds: make([]Datagram, 0, maxQueued)} }}

// Queue copies d, and sends it with others as WriteBatch does, when the
// callback that runs has returned, and all other calls for the datagrams of the
// same read; at the latest when 64 datagrams or 256 KiB wait. So a plain
// Handler sends in batches. While no callback runs, Queue sends d at once.
//
// Go cannot tell goroutines apart: while a callback runs, what any goroutine
// queues waits for its end. WriteTo, Reply and WriteBatch overtake what is
// queued. What is queued when the Conn is closed is not sent; so the last word
// before Close goes by WriteTo, or by Queue in HandleStop under Shutdown.
//
// An error says that d was not taken: it cannot go to its address by this Conn,
// or the Conn is closed; or, if d was sent at once, why it could not be. What
// was taken and could not be sent is told to the Logger, and counts in
// Stats.WriteErrors.
func (c *Conn) Queue(d Datagram) error {
	q := &c.queue
	if q.callbacks.Load() == 0 {
		_, err := c.writeOne(&d, true)
		return err
	}
	addr, err := c.destination(&d, true)
	switch {
	case c.state.Load() == stateClosed:
		err = net.ErrClosed
	case err == nil && len(d.Payload) > maxPayload:
		err = syscall.EMSGSIZE
	}
	if err != nil {
		c.stats.writeErrors.Add(1)
		return c.opError(opWrite, addr, err)
	}
	d.Addr = addr
	for !q.add(&d) {
		c.flushQueue()
	}
	if q.callbacks.Load() == 0 {
		c.flushQueue() // the last callback has ended meanwhile, and may have missed it
	}
	return nil
}

// maxPayload is the longest payload of UDP: over IPv6, without jumbograms.
const maxPayload = 65527

// add puts a copy of d into the queue, if there is room.
func (q *sendQueue) add(d *Datagram) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.batch == nil {
		q.batch = queuedBatches.Get().(*queuedBatch)
		q.waits.Store(true)
	}
	b := q.batch
	end := b.bytes + len(d.Payload)
	if len(b.ds) == maxQueued || end > maxQueuedBytes {
		return false
	}
	b.ds = append(b.ds, *d)
	b.ds[len(b.ds)-1].Payload = b.room[b.bytes:end:end]
	b.bytes += copy(b.room[b.bytes:], d.Payload)
	return true
}

// beginCallback says that a callback begins, whose end sends what is queued
// meanwhile. The goroutine that makes it calls endCallback, deferred.
func (c *Conn) beginCallback() { c.queue.callbacks.Add(1) }

func (c *Conn) endCallback() {
	c.queue.callbacks.Add(-1)
	if c.queue.waits.Load() {
		c.flushQueue()
	}
}

// flushQueue sends what is queued.
func (c *Conn) flushQueue() {
	q := &c.queue
	q.sending.Lock()
	defer q.sending.Unlock()
	q.mu.Lock()
	b := q.batch
	q.batch = nil
	q.waits.Store(false)
	q.mu.Unlock()
	if b == nil {
		return
	}
	n, err := 0, error(nil)
	if c.state.Load() == stateClosed {
		err = c.opError(opWrite, netip.AddrPort{}, net.ErrClosed)
		c.stats.writeErrors.Add(uint64(len(b.ds)))
	} else {
		n, err = c.WriteBatch(b.ds)
	}
	if err != nil {
		c.log(slog.LevelWarn, "udp: queued datagrams not sent", "datagrams", len(b.ds)-n, "error", err)
	}
	clear(b.ds)
	b.ds, b.bytes = b.ds[:0], 0
	queuedBatches.Put(b)
}
