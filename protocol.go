package udp

import "net/netip"

// A Datagram is one UDP datagram (RFC 768), received or to be sent.
//
// The zero value of each field but Addr means "not known" in a datagram that
// was received, and "the system's choice" in one that is to be sent.
type Datagram struct {
	// Payload is what the datagram carries; an empty payload is a datagram
	// too. In a handler it is lent: it is valid only until the handler
	// returns, and may be changed until then. Clone keeps it for longer.
	Payload []byte

	// Addr is the peer: the source of a datagram that was received, the
	// destination of one to send. It is never an IPv4 address mapped into
	// IPv6, and has the zone of a link-local IPv6 address.
	Addr netip.AddrPort

	// Local is the address of this host that a received datagram was sent
	// to, which may be a group or a broadcast address. One to send leaves
	// from it; where it is a group or a broadcast address, from the
	// interface's own address.
	Local netip.Addr

	// Interface is the index of the network interface that a received
	// datagram came in by, and that one to send is to leave by. Where Local
	// is a routable address of this host and Addr can be routed to, the
	// routing table decides, as the way back need not be the way here.
	Interface int

	// TTL is the IPv4 TTL or IPv6 hop limit of a received datagram. It is
	// ignored in one to send.
	TTL int

	// Truncated reports that the payload of a received datagram was longer
	// than ListenConfig.MaxDatagram, and is cut to that.
	Truncated bool

	// notOwn is Local as it came, where that is an IPv4 group or broadcast
	// address; by its looks, the broadcast address of a subnet is like others.
	notOwn [4]byte
}

// Clone returns a copy of d with a payload of its own, to keep after the
// handler has returned.
func (d Datagram) Clone() Datagram {
	d.Payload = append(make([]byte, 0, len(d.Payload)), d.Payload...)
	return d
}

// A Handler takes what a Conn receives.
//
// All calls of one Conn, those of the add-on interfaces below included, come
// from the Conn's one goroutine, never two at a time; only HandleStart runs
// in the goroutine that opens the Conn. A handler that blocks stops its own
// Conn and no other; the kernel's receive buffer fills meanwhile, and
// Stats.Dropped counts what did not fit. A Handler that serves several Conns
// is called by all their goroutines.
//
// The payload of a Datagram is lent, and so is the slice given to
// HandleBatch: both are used again as soon as the handler has returned. In a
// build with the race detector they are overwritten at that moment, so that
// the tests of a program find a handler that keeps them. Appending to a
// payload never changes another.
//
// A Handler may also implement BatchHandler, StartHandler, StopHandler and
// UndeliveredHandler, which are looked for once, when the Conn is opened. A
// Handler that wraps another must forward those it wants to keep.
type Handler interface {
	// HandleDatagram is called for each datagram, an empty one included.
	HandleDatagram(c *Conn, d Datagram)
}

// HandlerFunc makes a Handler of a function.
type HandlerFunc func(c *Conn, d Datagram)

var _ Handler = HandlerFunc(nil)

// HandleDatagram calls f(c, d).
func (f HandlerFunc) HandleDatagram(c *Conn, d Datagram) { f(c, d) }

// A BatchHandler takes all that one read returned, in the order in which it
// arrived.
type BatchHandler interface {
	// HandleBatch is called instead of HandleDatagram, with at least one
	// datagram. It may change the elements of ds, and hand ds to WriteBatch.
	HandleBatch(c *Conn, ds []Datagram)
}

// A StartHandler is told that its Conn has been opened.
type StartHandler interface {
	// HandleStart is called before Listen, Dial or NewConn returns, in the
	// goroutine that called it, and before anything is read. It may write,
	// join groups, connect and close. If it returns an error or panics, the
	// socket is closed, Listen returns that error, and HandleStop is not
	// called.
	HandleStart(c *Conn) error
}

// A StopHandler is told that its Conn has come to its end.
type StopHandler interface {
	// HandleStop is the last call, made exactly once. After Shutdown the
	// Conn can still write, to say goodbye. err is nil after Close and
	// Shutdown, otherwise it is why the Conn stopped.
	HandleStop(c *Conn, err error)
}

// An UndeliveredHandler is told of datagrams that did not arrive.
type UndeliveredHandler interface {
	// HandleUndelivered is called once for each report that the system
	// makes. Networks need not report, and often do not.
	HandleUndelivered(c *Conn, u Undelivered)
}

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

// poison overwrites datagrams that a handler was lent.
func poison(ds []Datagram) {
	for i := range ds {
		b := ds[i].Payload
		for j := range b {
			b[j] = 0xDB
		}
		ds[i] = Datagram{Payload: b}
	}
}
