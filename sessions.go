package udp

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"reflect"
	"sync/atomic"
	"time"
)

// Sessions is a Handler that keeps a Handler for each peer. The session of a
// peer begins with its first datagram, and ends when nothing has come from the
// peer for Idle, by End, or with the Conn.
//
// All calls are made in the Conn's goroutine, so that sessions need no lock,
// not even for what they share. Each session gets the datagrams of its peer,
// by HandleBatch if it has that, and the reports about its peer
// (HandleUndelivered). Its HandleStart is called before the first datagram;
// an error refuses that datagram, and ends the session without HandleStop.
// Its HandleStop is called once, at the end, and should stop the timers that
// the session has set; the error is that of the Conn, if the Conn has ended.
// HandleGroups is about the Conn and not about a peer, so it is not passed on.
// A panic in a session, where ListenConfig.Recover is set, costs no other
// session a datagram.
//
// No session is ended to make room for another. The source of a datagram can
// be forged; who sends many costs the memory of Max sessions for Idle, and
// keeps new peers out. Where that matters, New answers with a cookie that only
// the owner of the address can read, returns nil, and begins a session with
// the datagram that has it: see the example.
//
// A Sessions serves one Conn at a time. It cannot be the Handler of a session
// or of Workers.
type Sessions struct {
	// New returns the Handler of a new peer, which then gets d, its first
	// datagram. If New returns nil, d is refused.
	New func(c *Conn, d Datagram) Handler

	// Idle is how long a session goes on without a datagram. It ends at
	// most a tenth of that later. If zero, a minute is used.
	Idle time.Duration

	// Max is how many sessions there are at most; the datagrams of further
	// peers are refused. If zero, 65536 is used.
	Max int

	conn    atomic.Pointer[Conn] // that it serves; nil: none
	length  atomic.Int64
	refused atomic.Uint64

	// Of the Conn's goroutine alone.
	peers          map[peerKey]*session
	oldest, newest *session       // in the order of their last datagrams
	timer          *Timer         // for the oldest; nil: there has been no session
	epoch          time.Time      // what session.used counts from
	zones          map[string]int // the index that each zone had when a session began
	seed           maphash.Seed
	checked        reflect.Type // of the last Handler that New returned
	single         [1]Datagram  // for HandleDatagram
}

var (
	_ Handler            = (*Sessions)(nil)
	_ StartHandler       = (*Sessions)(nil)
	_ StopHandler        = (*Sessions)(nil)
	_ UndeliveredHandler = (*Sessions)(nil)
)

const (
	sessionsIdle = time.Minute
	sessionsMax  = 1 << 16
)

// A session is what Sessions know of a peer.
type session struct {
	handler      Handler
	key          peerKey
	used         time.Duration // when it got its last datagram, since the epoch
	older, newer *session
	batches      bool // the handler has HandleBatch
	busy         bool // a callback of the handler is under way
	ended        bool // it is not among the peers any more
}

// A peerKey is the address of a peer, with the index of its zone in place of
// the name, which can change.
type peerKey struct {
	addr [16]byte // an IPv4 address is mapped into IPv6; no peer has such an IPv6 address
	zone uint32
	port uint16
}

func (s *Sessions) keyOf(c *Conn, a netip.AddrPort) peerKey {
	k := peerKey{addr: a.Addr().As16(), port: a.Port()}
	if a.Addr().Zone() != "" {
		k.zone = s.zoneOf(c, a.Addr())
	}
	return k
}

// zoneOf returns the index of the interface that is the zone of a or, if there
// is none of that name any more, that was. Zones that the socket does not know
// about are told apart by their names.
func (s *Sessions) zoneOf(c *Conn, a netip.Addr) uint32 {
	zone := a.Zone()
	index, _ := c.sock.zoneIndex(a)
	if index == 0 {
		index = s.zones[zone]
	}
	if index == 0 {
		index = interfaceNumber(zone)
	}
	if index == 0 {
		return uint32(maphash.String(s.seed, zone)) | 1<<31 // no index is so high
	}
	return uint32(index)
}

// End ends the session of the peer at addr, and reports whether there was one.
// Its HandleStop is called before End returns; in a callback of that session,
// when the callback has returned. The next datagram of the peer begins a new
// session. End is to be called in the Conn's goroutine.
func (s *Sessions) End(addr netip.AddrPort) bool {
	c := s.conn.Load()
	if c == nil {
		return false
	}
	x := s.peers[s.keyOf(c, addr)]
	if x != nil {
		s.end(c, x)
	}
	return x != nil
}

// Len returns how many sessions there are now. Any goroutine may call it.
func (s *Sessions) Len() int { return int(s.length.Load()) }

// Refused returns how many datagrams there were for which no session began:
// New returned nil or panicked, HandleStart failed, or Max was reached. Any
// goroutine may call it.
func (s *Sessions) Refused() uint64 { return s.refused.Load() }

// checkHandler reports settings that make no sense.
func (s *Sessions) checkHandler() error {
	switch {
	case s.New == nil:
		return errors.New("Sessions.New is nil")
	case s.Idle < 0 || s.Max < 0:
		return fmt.Errorf("Sessions.Idle is %v, Sessions.Max %d", s.Idle, s.Max)
	}
	return nil
}

// HandleStart is for the Conn. It fails if s serves another one.
func (s *Sessions) HandleStart(c *Conn) error {
	old := s.conn.Load()
	if old != nil && !old.isFinished() || !s.conn.CompareAndSwap(old, c) {
		return c.opError(opListen, netip.AddrPort{}, errors.New("Sessions serve one Conn at a time"))
	}
	s.peers, s.oldest, s.newest, s.timer = make(map[peerKey]*session), nil, nil, nil
	s.epoch, s.seed, s.zones = time.Now(), maphash.MakeSeed(), make(map[string]int)
	s.length.Store(0)
	return nil
}

// HandleDatagram is for the Conn, or for a Handler around s that has its own
// HandleDatagram.
func (s *Sessions) HandleDatagram(c *Conn, d Datagram) {
	if s.conn.Load() != c {
		panic("udp: a Handler around Sessions does not forward HandleStart")
	}
	if x := s.find(c, &d); x != nil {
		s.single[0] = d
		s.handle(c, x, s.single[:])
		s.single[0] = Datagram{}
	}
}

// sessionBatches are Sessions that the Conn calls without a Handler between.
// That is no method of Sessions: a Handler that embeds Sessions and has its
// own HandleDatagram, say, to keep peers out, would not be called.
type sessionBatches Sessions

func (b *sessionBatches) HandleBatch(c *Conn, ds []Datagram) {
	s := (*Sessions)(b)
	next := 0
	defer func() {
		if next < len(ds) {
			if v := recover(); v != nil {
				panic(v) // Recover is nil: this ends the program
			}
			b.HandleBatch(c, ds[next:]) // one session has ended the goroutine, the others get what is theirs
		}
	}()
	for next < len(ds) {
		first := next
		next++
		if !c.accepts(&ds[first]) { // any more: the callbacks before may have closed or connected
			c.stats.discarded.Add(1)
			continue
		}
		x := s.find(c, &ds[first])
		if x == nil {
			continue
		}
		for x.batches && next < len(ds) && ds[next].Addr == ds[first].Addr {
			next++
		}
		s.handle(c, x, ds[first:next:next])
	}
}

// find returns the session that d is for, a new one if need be, and nil if d
// is refused.
func (s *Sessions) find(c *Conn, d *Datagram) *session {
	key := s.keyOf(c, d.Addr)
	x := s.newest
	if x == nil || x.key != key {
		if x = s.peers[key]; x == nil {
			return s.begin(c, key, d)
		}
		s.unlink(x)
		s.link(x)
	}
	x.used = time.Since(s.epoch)
	return x
}

// begin begins a session, or refuses d and returns nil.
func (s *Sessions) begin(c *Conn, key peerKey, d *Datagram) (begun *session) {
	var x *session
	defer func() {
		if begun == nil {
			s.refused.Add(1)
			if x != nil {
				s.remove(x)
			}
		}
	}()
	if len(s.peers) >= cmp.Or(s.Max, sessionsMax) {
		return nil
	}
	if c.config.Recover != nil {
		defer c.recovered()
	}
	h := s.New(c, *d)
	if h == nil {
		return nil
	}
	s.mustServe(h)
	if zone := d.Addr.Addr().Zone(); zone != "" {
		s.zones[zone] = int(key.zone)
	}
	x = s.add(c, key, h)
	if h, ok := h.(StartHandler); ok {
		x.busy = true
		if h.HandleStart(c) != nil {
			return nil
		}
		x.busy = false
	}
	if x.ended { // in HandleStart
		s.stop(c, x, nil)
		return nil
	}
	return x
}

// mustServe panics if h cannot be the Handler of a session.
func (s *Sessions) mustServe(h Handler) {
	t := reflect.TypeOf(h)
	if t == s.checked {
		return
	}
	if _, ok := h.(wrapper); ok {
		panic(fmt.Sprintf("udp: Sessions.New returned a %T, which serves a whole Conn", h))
	}
	if err := checkAddOns(h); err != nil {
		panic(fmt.Sprintf("udp: Sessions.New: %v", err))
	}
	s.checked = t
}

// add puts a new session among the peers.
func (s *Sessions) add(c *Conn, key peerKey, h Handler) *session {
	x := &session{handler: h, key: key, used: time.Since(s.epoch)}
	_, x.batches = h.(BatchHandler)
	switch idle := cmp.Or(s.Idle, sessionsIdle); {
	case s.timer == nil:
		s.timer = c.AfterFunc(idle, func() { s.endIdle(c) })
	case s.oldest == nil:
		s.timer.Reset(idle)
	}
	s.peers[key] = x
	s.length.Add(1)
	s.link(x)
	return x
}

// remove takes x out, after which its peer is new.
func (s *Sessions) remove(x *session) {
	if x.ended {
		return
	}
	x.ended = true
	delete(s.peers, x.key)
	s.length.Add(-1)
	s.unlink(x)
}

// link makes x the newest, and unlink takes it out of the list.
func (s *Sessions) link(x *session) {
	if x.older = s.newest; x.older != nil {
		x.older.newer = x
	} else {
		s.oldest = x
	}
	s.newest = x
}

func (s *Sessions) unlink(x *session) {
	if x.older != nil {
		x.older.newer = x.newer
	} else {
		s.oldest = x.newer
	}
	if x.newer != nil {
		x.newer.older = x.older
	} else {
		s.newest = x.older
	}
	x.older, x.newer = nil, nil
}

// endIdle ends the sessions that have been idle for long enough. It comes back
// for the next, and leaves some time for more to be due then.
func (s *Sessions) endIdle(c *Conn) {
	now, idle := time.Since(s.epoch), cmp.Or(s.Idle, sessionsIdle)
	for s.oldest != nil && now-s.oldest.used >= idle {
		s.end(c, s.oldest)
	}
	if s.oldest != nil {
		s.timer.Reset(max(s.oldest.used+idle-now, idle/10))
	}
}

// end ends x, with HandleStop at once unless a callback of x is under way.
func (s *Sessions) end(c *Conn, x *session) {
	s.remove(x)
	if !x.busy {
		s.stop(c, x, nil)
	}
}

// handle makes a call of x for each of ds, or one for all of them.
func (s *Sessions) handle(c *Conn, x *session, ds []Datagram) {
	if c.state.Load() == stateClosed { // by HandleStart of x
		c.stats.discarded.Add(uint64(len(ds)))
		return
	}
	x.busy = true
	defer s.returned(c, x)
	if c.config.Recover != nil {
		defer c.recovered()
	}
	if x.batches {
		x.handler.(BatchHandler).HandleBatch(c, ds)
	} else {
		x.handler.HandleDatagram(c, ds[0])
	}
}

// returned is deferred around each callback of x.
func (s *Sessions) returned(c *Conn, x *session) {
	x.busy = false
	if x.ended {
		s.stop(c, x, nil)
	}
}

// stop calls HandleStop of x, which is not among the peers any more.
func (s *Sessions) stop(c *Conn, x *session, err error) {
	if c.config.Recover != nil {
		defer c.recovered()
	}
	if h, ok := x.handler.(StopHandler); ok {
		h.HandleStop(c, err)
	}
}

// HandleUndelivered is for the Conn.
func (s *Sessions) HandleUndelivered(c *Conn, u Undelivered) {
	x := s.peers[s.keyOf(c, u.Addr)]
	if x == nil {
		return
	}
	if h, ok := x.handler.(UndeliveredHandler); ok {
		x.busy = true
		defer s.returned(c, x)
		if c.config.Recover != nil {
			defer c.recovered()
		}
		h.HandleUndelivered(c, u)
	}
}

// HandleStop is for the Conn. It ends all sessions, the oldest first.
func (s *Sessions) HandleStop(c *Conn, err error) {
	if s.conn.Load() != c {
		return
	}
	defer func() {
		if s.oldest != nil {
			if v := recover(); v != nil {
				panic(v) // Recover is nil: this ends the program
			}
			s.HandleStop(c, err) // one session has ended the goroutine, the others have their HandleStop
			return
		}
		s.peers, s.zones, s.timer = nil, nil, nil
		s.conn.Store(nil)
	}()
	for s.oldest != nil {
		x := s.oldest
		s.remove(x)
		s.stop(c, x, err)
	}
}

// isFinished reports whether the goroutine of c has come to its end.
func (c *Conn) isFinished() bool {
	select {
	case <-c.finished:
		return true
	default:
		return false
	}
}
