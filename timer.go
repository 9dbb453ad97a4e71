package udp

import (
	"container/heap"
	"math"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A workQueue is what goroutines, those of handlers included, leave for the
// goroutine of a Conn. The deadline of the socket's reads is what tells it:
// it is past while there is work, and otherwise the moment of the next timer.
// So one timer of the runtime, which the socket has anyway, serves all of a
// Conn's, and a Conn without work pays nothing.
//
// The mutex is held for moments, and never while a callback runs.
type workQueue struct {
	mu       sync.Mutex
	deadline time.Time     // of the socket's reads; zero: none
	posts    []func()      // in the order of Post
	spare    []func()      // memory for posts
	reports  []Undelivered // for the handler
	timers   timerHeap
	settings uint64        // how often a timer has been set
	epoch    time.Time     // what the moments of timers count from
	ended    bool          // no timer is set any more
	nudge    chan struct{} // ends a pause in reading; nil: there has been none

	moreReports bool // the socket may keep more
}

// maxSpare is how many posts memory is kept for.
const maxSpare = 1024

// Post has the Conn's goroutine run f, where the state of the handler needs no
// lock. Any goroutine may call it, a handler too; it never waits. f runs after
// the callback that runs now, at the latest when all datagrams of the same
// read have been handed over, in the order of the calls of Post. Datagrams are
// read between, also where f posts itself again. A panic in f goes to
// ListenConfig.Recover.
//
// If Post returns nil, f runs unless the Conn is closed before its turn: by
// Close, or by Shutdown whose context is over. Shutdown runs what was posted
// until the socket is drained. After that, in HandleStop, and on a closed
// Conn, Post returns net.ErrClosed. A nil f panics.
func (c *Conn) Post(f func()) error {
	if f == nil {
		panic("udp: Post of a nil function")
	}
	w := &c.work
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.state.Load() >= stateStopping {
		return c.opError(opPost, netip.AddrPort{}, net.ErrClosed)
	}
	if err := c.wake(); err != nil {
		return c.opError(opPost, netip.AddrPort{}, err)
	}
	w.posts = append(w.posts, f)
	return nil
}

// A Timer calls a function in the goroutine of a Conn once.
type Timer struct {
	c     *Conn
	f     func()
	when  time.Duration // since the epoch
	order uint64        // among timers for the same moment
	place int           // in the heap, counted from 1; zero: it is not to run
}

// AfterFunc has the Conn's goroutine run f after d, where the state of the
// handler needs no lock; at once, if d is not above zero. Any goroutine may
// call it. Timers for the same moment run one after the other, in the order in
// which they were set. A panic in f goes to ListenConfig.Recover.
//
// A timer does not keep the Conn open: after Close none runs, after Shutdown
// only those that were due when it was called. The Timer that AfterFunc then
// returns never runs. A nil f panics.
func (c *Conn) AfterFunc(d time.Duration, f func()) *Timer {
	if f == nil {
		panic("udp: AfterFunc of a nil function")
	}
	t := &Timer{c: c, f: f}
	t.Reset(d)
	return t
}

// Stop keeps the timer from running, and reports whether it was still to run.
// When it has returned in the Conn's goroutine, a handler for instance, f does
// not run, also where both were due together. In another goroutine, f may be
// running or about to run.
func (t *Timer) Stop() bool {
	w := &t.c.work
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.timers.remove(t)
}

// Reset has the timer run after d, instead of when it was to run, and reports
// whether it was still to run. On a closed Conn it does nothing, and returns
// false.
func (t *Timer) Reset(d time.Duration) bool {
	w := &t.c.work
	w.mu.Lock()
	defer w.mu.Unlock()
	active := w.timers.remove(t)
	if w.ended {
		return active
	}
	if w.epoch.IsZero() {
		w.epoch = time.Now()
	}
	now := time.Since(w.epoch)
	if t.when = now + max(d, 0); t.when < now {
		t.when = math.MaxInt64
	}
	w.settings++
	t.order = w.settings
	heap.Push(&w.timers, t)
	if w.timers[0] == t {
		if moment := w.epoch.Add(t.when); w.deadline.IsZero() || moment.Before(w.deadline) {
			t.c.setDeadline(moment)
			w.endPause()
		}
	}
	return active
}

// wake has the goroutine look for work. It is called with the mutex held.
func (c *Conn) wake() error {
	if c.work.deadline.Equal(past) {
		return nil
	}
	c.work.endPause()
	return c.setDeadline(past)
}

// setDeadline sets when the goroutine is to look for work; zero: when it is
// woken. It is called with the mutex held.
func (c *Conn) setDeadline(t time.Time) error {
	err := c.sock.setReadDeadline(t)
	if err == nil {
		c.work.deadline = t
	}
	return err
}

// endPause has a pause in reading look for work. It is called with the mutex
// held.
func (w *workQueue) endPause() {
	select {
	case w.nudge <- struct{}{}:
	default:
	}
}

// isWoken reports whether a read whose deadline is over ended for work.
func (c *Conn) isWoken() bool {
	c.work.mu.Lock()
	defer c.work.mu.Unlock()
	return !c.work.deadline.IsZero() && !time.Now().Before(c.work.deadline)
}

// runWork does what waits when it is called, and returns how long the next
// read is to wait: forever, unless there is more.
func (c *Conn) runWork() (wait time.Duration) {
	w := &c.work
	w.mu.Lock()
	posts, reports, more, lastSet := w.posts, w.reports, w.moreReports, w.settings
	w.posts, w.spare, w.reports = w.spare, nil, nil
	w.mu.Unlock()
	for _, u := range reports {
		c.report(u)
	}
	if more {
		c.lookForReports()
	}
	for i, f := range posts {
		posts[i] = nil
		c.run(f)
	}
	c.runTimers(lastSet)

	w.mu.Lock()
	defer w.mu.Unlock()
	if cap(posts) <= maxSpare {
		w.spare = posts[:0]
	}
	switch {
	case len(w.posts) > 0 || len(w.reports) > 0 || w.moreReports, w.isDue():
		w.deadline = past
		return workGrace
	case c.state.Load() != stateOpen: // reads do not wait any more
	case len(w.timers) > 0:
		c.setDeadline(w.epoch.Add(w.timers[0].when))
	default:
		c.setDeadline(time.Time{})
	}
	return forever
}

// run calls what was posted, or a timer's function.
func (c *Conn) run(f func()) {
	if c.state.Load() == stateClosed {
		return
	}
	c.beginCallback()
	defer c.endCallback()
	if c.config.Recover != nil {
		defer c.recovered()
	}
	f()
}

// runTimers runs the timers that are due now and have been set before the
// others, so that a timer that sets itself again waits for the next read.
func (c *Conn) runTimers(lastSet uint64) {
	if lastSet == 0 {
		return // there has never been one
	}
	now := time.Since(c.work.epoch)
	for {
		t := c.work.takeDue(now, lastSet)
		if t == nil {
			return
		}
		c.run(t.f)
	}
}

// takeDue takes out the next timer, if it is due and has been set before
// others; nil: there is none.
func (w *workQueue) takeDue(now time.Duration, lastSet uint64) *Timer {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.timers) == 0 || w.timers[0].when > now || w.timers[0].order > lastSet {
		return nil
	}
	t := w.timers[0]
	w.timers.remove(t)
	return t
}

// isDue reports whether a timer is due.
func (w *workQueue) isDue() bool {
	return len(w.timers) > 0 && w.timers[0].when <= time.Since(w.epoch)
}

// pauseReading lets d pass, and work be done.
func (c *Conn) pauseReading(d time.Duration) {
	w := &c.work
	w.mu.Lock()
	if w.nudge == nil {
		w.nudge = make(chan struct{}, 1)
	}
	w.mu.Unlock()
	end := time.Now().Add(d)
	t := time.NewTimer(d)
	defer t.Stop()
	for c.runWork(); c.state.Load() == stateOpen; c.runWork() {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		w.mu.Lock()
		if !w.deadline.IsZero() {
			left = min(left, time.Until(w.deadline))
		}
		w.mu.Unlock()
		t.Reset(left)
		select {
		case <-t.C:
		case <-w.nudge:
		}
	}
}

// beginDrain has the goroutine drain the socket of an open Conn, and drops the
// timers that are not due. All of it happens under the mutex, so that nothing
// changes the deadline of the reads that drain.
func (c *Conn) beginDrain() (begun bool, err error) {
	w := &c.work
	w.mu.Lock()
	defer w.mu.Unlock()
	if !c.state.CompareAndSwap(stateOpen, stateDraining) {
		return false, nil
	}
	w.ended = true
	due := w.timers[:0]
	if len(w.timers) > 0 {
		now := time.Since(w.epoch)
		for _, t := range w.timers {
			if t.place = 0; t.when <= now {
				due = append(due, t)
				t.place = len(due)
			}
		}
		clear(w.timers[len(due):])
		w.timers = due
		heap.Init(&w.timers)
	}
	return true, c.wake()
}

// refuseWork has Post and AfterFunc take no more.
func (c *Conn) refuseWork() {
	w := &c.work
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	c.state.CompareAndSwap(stateOpen, stateStopping)
	c.state.CompareAndSwap(stateDraining, stateStopping)
}

// dropWork forgets what a closed Conn does not do any more.
func (c *Conn) dropWork() {
	w := &c.work
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.posts, w.spare, w.reports = nil, nil, nil
	for _, t := range w.timers {
		t.place = 0
	}
	w.timers = nil
	w.endPause()
}

// A timerHeap has the timers of a Conn, the next one first (container/heap).
type timerHeap []*Timer

func (h timerHeap) Len() int { return len(h) }

func (h timerHeap) Less(i, j int) bool {
	if h[i].when != h[j].when {
		return h[i].when < h[j].when
	}
	return h[i].order < h[j].order
}

func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

func (h *timerHeap) Push(t any) {
	*h = append(*h, t.(*Timer))
	t.(*Timer).place = len(*h)
}

func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.place = 0
	return t
}

// remove takes t out, and reports whether it was in.
func (h *timerHeap) remove(t *Timer) bool {
	if t.place == 0 {
		return false
	}
	heap.Remove(h, t.place-1)
	return true
}
