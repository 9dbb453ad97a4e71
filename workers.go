package udp

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Workers is a Handler that hands datagrams to goroutines, so that one which
// takes long to handle keeps no others waiting. The datagrams of a peer always
// go to the same goroutine, in their order.
//
// The Handler gets datagrams in those goroutines, by HandleBatch if it has
// that: all that wait there. All its other add-ons are called in the Conn's
// goroutine, as without Workers and at the same time as the datagrams are
// handled: state that they share needs a lock. Payloads are lent, as always.
// What the Handler sends by Conn.Queue leaves when the goroutine has handled
// what waited. A panic is recovered as without Workers, with
// ListenConfig.Recover called in the worker's goroutine; a goroutine that a
// Handler ends (runtime.Goexit) is replaced.
//
// When a Conn is shut down, what waits is handled first. When it is closed,
// what waits is thrown away and counted in Stats.Discarded. In both cases
// HandleStop is called, and Wait returns, when the calls under way have
// returned.
//
// Several Conns may have the same Workers, those that share a port for
// instance (ListenConfig.ReusePort); the goroutines are then one set for all.
// Workers cannot be around Sessions, which need no lock because there is one
// goroutine, nor can they be the Handler of a session.
type Workers struct {
	// Handler gets the datagrams, and the other calls.
	Handler Handler

	// N is the number of goroutines. If zero, runtime.GOMAXPROCS(0) is used.
	N int

	// Queue is how many datagrams wait for each goroutine at most. If zero,
	// 1024 is used. 4 MiB of payload is the most in any case. More are
	// dropped, and counted in Dropped; the Logger is told at most once a
	// second.
	Queue int

	dropped atomic.Uint64
	nextLog atomic.Int64 // when the Logger may be told again, since the epoch

	mu      sync.Mutex // for the beginning and the end of Conns
	conns   int        // how many there are
	workers []*worker  // of them, while there are any
	inner   handlers   // of Handler
	seed    maphash.Seed
	epoch   time.Time
}

var (
	_ Handler            = (*Workers)(nil)
	_ StartHandler       = (*Workers)(nil)
	_ StopHandler        = (*Workers)(nil)
	_ UndeliveredHandler = (*Workers)(nil)
	_ GroupHandler       = (*Workers)(nil)
)

const (
	workersQueue    = 1024
	workersBytes    = 4 << 20
	workersLogPause = time.Second
)

// Dropped returns how many datagrams there were for which a queue had no room.
// Any goroutine may call it.
func (w *Workers) Dropped() uint64 { return w.dropped.Load() }

// checkHandler reports settings that make no sense.
func (w *Workers) checkHandler() error {
	switch {
	case w.Handler == nil:
		return errors.New("Workers.Handler is nil")
	case w.N < 0 || w.Queue < 0:
		return fmt.Errorf("Workers.N is %d, Workers.Queue %d", w.N, w.Queue)
	}
	if _, ok := w.Handler.(wrapper); ok {
		return fmt.Errorf("Workers.Handler is a %T, which is called in one goroutine", w.Handler)
	}
	return checkAddOns(w.Handler)
}

// HandleStart is for the Conn. It starts the goroutines.
func (w *Workers) HandleStart(c *Conn) error {
	if h, ok := w.Handler.(StartHandler); ok {
		if err := h.HandleStart(c); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conns++; w.conns > 1 {
		return nil
	}
	w.inner.find(w.Handler)
	w.seed, w.epoch = maphash.MakeSeed(), time.Now()
	w.nextLog.Store(0)
	w.workers = make([]*worker, cmp.Or(w.N, runtime.GOMAXPROCS(0)))
	for i := range w.workers {
		k := &worker{handlers: &w.inner, limit: cmp.Or(w.Queue, workersQueue), ended: make(chan struct{})}
		k.wake.L = &k.mu
		w.workers[i] = k
		go k.run()
	}
	return nil
}

// HandleStop is for the Conn. It waits until all is handled or, if the Conn is
// closed, thrown away. With the last Conn it ends the goroutines.
func (w *Workers) HandleStop(c *Conn, err error) {
	c.handedOver.Wait()
	w.mu.Lock()
	if w.conns--; w.conns == 0 {
		for _, k := range w.workers {
			k.end()
		}
		w.workers = nil
	}
	w.mu.Unlock()
	if h, ok := w.Handler.(StopHandler); ok {
		h.HandleStop(c, err)
	}
}

// HandleUndelivered is for the Conn.
func (w *Workers) HandleUndelivered(c *Conn, u Undelivered) {
	if h, ok := w.Handler.(UndeliveredHandler); ok {
		h.HandleUndelivered(c, u)
	}
}

// HandleGroups is for the Conn.
func (w *Workers) HandleGroups(c *Conn, joined, left []Group) {
	if h, ok := w.Handler.(GroupHandler); ok {
		h.HandleGroups(c, joined, left)
	}
}

// HandleDatagram is for the Conn, or for a Handler around w that has its own
// HandleDatagram.
func (w *Workers) HandleDatagram(c *Conn, d Datagram) { w.handOver(c, &d) }

// workerBatches are Workers that the Conn calls without a Handler between, as
// sessionBatches are Sessions.
type workerBatches Workers

func (b *workerBatches) HandleBatch(c *Conn, ds []Datagram) {
	for i := range ds {
		(*Workers)(b).handOver(c, &ds[i])
	}
}

// handOver gives d to the worker of its peer, or drops it.
func (w *Workers) handOver(c *Conn, d *Datagram) {
	if w.workers == nil {
		panic("udp: a Handler around Workers does not forward HandleStart")
	}
	flow := maphash.Comparable(w.seed, peerKey{addr: d.Addr.Addr().As16(), port: d.Addr.Port()})
	if w.workers[flow%uint64(len(w.workers))].put(c, d) {
		return
	}
	dropped := w.dropped.Add(1)
	if c.config.Logger == nil {
		return
	}
	now, next := time.Since(w.epoch), w.nextLog.Load()
	if int64(now) >= next && w.nextLog.CompareAndSwap(next, int64(now+workersLogPause)) {
		c.log(slog.LevelWarn, "udp: datagrams dropped, as the workers are behind", "dropped", dropped)
	}
}

// A worker is one goroutine of Workers, and what waits for it.
type worker struct {
	handlers *handlers
	limit    int           // datagrams that wait
	ended    chan struct{} // closed when the goroutine has come to its end

	// How much waits, what the goroutine has taken and not begun included.
	count, bytes atomic.Int64

	mu      sync.Mutex
	wake    sync.Cond // something waits, or the end has come
	waiting backlog
	ends    bool

	// Of the goroutine alone.
	taken backlog
	next  int // of taken
}

// A backlog is a queue of datagrams, with their payloads.
type backlog struct {
	ds     []Datagram
	conns  []*Conn // of each
	memory []*[readBuffer]byte
	used   int // bytes of the last
}

// payloadMemory is where payloads are copied to.
var payloadMemory = sync.Pool{New: func() any { return new([readBuffer]byte) }}

// add puts a copy of d at the end.
func (b *backlog) add(c *Conn, d *Datagram) {
	size := len(d.Payload)
	if len(b.memory) == 0 || b.used+size > readBuffer {
		b.memory = append(b.memory, payloadMemory.Get().(*[readBuffer]byte))
		b.used = 0
	}
	payload := b.memory[len(b.memory)-1][b.used:][:size:size]
	b.used += copy(payload, d.Payload)
	b.ds = append(b.ds, *d)
	b.ds[len(b.ds)-1].Payload = payload
	b.conns = append(b.conns, c)
}

// clear empties b, whose slices can be used again.
func (b *backlog) clear() {
	for _, m := range b.memory {
		payloadMemory.Put(m)
	}
	clear(b.ds)
	clear(b.conns)
	clear(b.memory)
	*b = backlog{ds: b.ds[:0], conns: b.conns[:0], memory: b.memory[:0]}
}

// put puts a copy of d into the queue, if there is room.
func (k *worker) put(c *Conn, d *Datagram) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	size := int64(len(d.Payload))
	if k.count.Load() >= int64(k.limit) || k.bytes.Load()+size > workersBytes {
		return false
	}
	k.count.Add(1)
	k.bytes.Add(size)
	c.handedOver.Add(1)
	k.waiting.add(c, d)
	k.wake.Signal()
	return true
}

// take takes all that waits, and waits until there is some. It returns false
// when there will be none any more.
func (k *worker) take() bool {
	k.taken.clear()
	k.next = 0
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.waiting.ds) == 0 {
		if k.ends {
			return false
		}
		k.wake.Wait()
	}
	k.taken, k.waiting = k.waiting, k.taken
	return true
}

// end ends the goroutine, for which nothing waits, and waits for that.
func (k *worker) end() {
	k.mu.Lock()
	k.ends = true
	k.wake.Signal()
	k.mu.Unlock()
	<-k.ended
}

// run is the goroutine of k. Where a handler ends it, another goes on with
// what is left.
func (k *worker) run() {
	returned := false
	defer func() {
		if returned {
			close(k.ended)
		} else {
			go k.run()
		}
	}()
	for more := true; more; more = k.take() {
		for k.next < len(k.taken.ds) {
			k.handleRun()
		}
	}
	returned = true
}

// handleRun hands over what has been taken, as far as it is of one Conn.
func (k *worker) handleRun() {
	first, c := k.next, k.taken.conns[k.next]
	end := first + 1
	for end < len(k.taken.conns) && k.taken.conns[end] == c {
		end++
	}
	c.beginCallback()
	defer func() {
		c.endCallback()
		c.handedOver.Add(first - k.next)
	}()
	for k.next < end {
		ds := k.taken.ds[k.next:end]
		if k.handlers.batch == nil {
			ds = ds[:1]
		}
		k.begin(ds)
		if k.handlers.batch != nil {
			c.deliverBatch(k.handlers.batch, ds)
		} else {
			c.deliverOne(k.handlers.datagram, &ds[0])
		}
	}
}

// begin takes ds from what waits.
func (k *worker) begin(ds []Datagram) {
	bytes := 0
	for i := range ds {
		bytes += len(ds[i].Payload)
	}
	k.next += len(ds)
	k.count.Add(-int64(len(ds)))
	k.bytes.Add(-int64(bytes))
}
