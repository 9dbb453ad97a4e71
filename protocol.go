package udp

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"
)

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
	// to, or the group. On Linux it is 255.255.255.255 where that was a
	// broadcast address, also of a subnet, which looks like any other. It is
	// filled on Linux, macOS, the BSDs and Windows. One to send leaves from
	// it; where it is a group or a broadcast address, from the interface's
	// own address.
	Local netip.Addr

	// Interface is the index of the network interface that a received
	// datagram came in by, and that one to send is to leave by. Where Local
	// is a routable address of this host and Addr can be routed to, the
	// routing table decides, as the way back need not be the way here.
	// It is filled on Linux, macOS, the BSDs and Windows, but not for a
	// socket that was opened at one address.
	Interface int

	// TTL is the IPv4 TTL or IPv6 hop limit of a received datagram (Linux,
	// macOS, the BSDs, Windows). It is ignored in one to send: see
	// [Conn.SetTTL].
	TTL int

	// TrafficClass is the DSCP (RFC 2474), six bits, and the ECN (RFC 3168),
	// two bits: of a received datagram, if ListenConfig.ReadTrafficClass is
	// set (Linux, Windows; IPv6 on macOS and the BSDs); of one to send by
	// WriteBatch or Queue, where zero stands for the socket's
	// ([Conn.SetTrafficClass]). What is sent back as it came has its class,
	// a mark of congestion included: set it to zero to avoid that. Reply
	// has the socket's.
	TrafficClass uint8

	// Truncated reports that the payload of a received datagram was longer
	// than ListenConfig.MaxDatagram, and is cut to that.
	Truncated bool

	// Time is when the system received the datagram, by its clock, if
	// ListenConfig.ReadTime is set (Linux, macOS, FreeBSD). It has no
	// monotonic reading: compare it with time.Now().Round(0). It is ignored
	// in one to send.
	Time time.Time
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
// A Handler may also implement BatchHandler, StartHandler, StopHandler,
// UndeliveredHandler and GroupHandler, which are looked for once, before the
// socket is opened. A method of such a name with another signature, or one
// that only a pointer to the Handler has, is an error of Listen. A Handler
// that wraps another must forward those it wants to keep; one that embeds
// another in a struct does.
type Handler interface {
	// HandleDatagram is called for each datagram, an empty one included.
	HandleDatagram(c *Conn, d Datagram)
}

// HandlerFunc makes a Handler of a function.
type HandlerFunc func(c *Conn, d Datagram)

var _ Handler = HandlerFunc(nil)

// HandleDatagram calls f(c, d).
func (f HandlerFunc) HandleDatagram(c *Conn, d Datagram) { f(c, d) }

// BatchHandlerFunc makes a Handler that is a BatchHandler of a function.
type BatchHandlerFunc func(c *Conn, ds []Datagram)

var (
	_ Handler      = BatchHandlerFunc(nil)
	_ BatchHandler = BatchHandlerFunc(nil)
)

// HandleBatch calls f(c, ds).
func (f BatchHandlerFunc) HandleBatch(c *Conn, ds []Datagram) { f(c, ds) }

// HandleDatagram calls f with d alone. A Conn calls HandleBatch instead.
func (f BatchHandlerFunc) HandleDatagram(c *Conn, d Datagram) { f(c, []Datagram{d}) }

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

// A GroupHandler is told which groups the Conn is in because of JoinAll.
type GroupHandler interface {
	// HandleGroups is called when JoinAll has joined groups, those with
	// which it begins included, and when some are left because their
	// interface has gone. Leave is not told. What is left has the interface
	// as it was.
	HandleGroups(c *Conn, joined, left []Group)
}

// handlers are the interfaces of a Handler, found once; nil: it has none.
type handlers struct {
	datagram    Handler
	batch       BatchHandler
	start       StartHandler
	stop        StopHandler
	undelivered UndeliveredHandler
	groups      GroupHandler
}

func (hs *handlers) find(h Handler) {
	hs.datagram = h
	switch h := h.(type) {
	case BatchHandler:
		hs.batch = h
	case *Sessions:
		hs.batch = (*sessionBatches)(h)
	case *Workers:
		hs.batch = (*workerBatches)(h)
	}
	hs.start, _ = h.(StartHandler)
	hs.stop, _ = h.(StopHandler)
	hs.undelivered, _ = h.(UndeliveredHandler)
	hs.groups, _ = h.(GroupHandler)
	if w, ok := h.(*Workers); ok { // which has what its Handler has
		hs.undelivered, _ = w.Handler.(UndeliveredHandler)
		hs.groups, _ = w.Handler.(GroupHandler)
	}
}

// A wrapper is Sessions or Workers, or embeds one of them.
type wrapper interface {
	checkHandler() error // reports settings that make no sense
}

// checkAddOns reports a method of h that has the name of an add-on and would
// never be called. MethodByName has a constant each time: for any other
// string, a loop over the names included, the linker would keep all exported
// methods of the program.
func checkAddOns(h Handler) error {
	if h == nil {
		return nil
	}
	if w, ok := h.(wrapper); ok {
		if err := w.checkHandler(); err != nil {
			return err
		}
	}
	t := reflect.TypeOf(h)
	if t.Kind() != reflect.Pointer {
		t = reflect.PointerTo(t) // it has the methods of h, and its own
	}
	if _, ok := h.(BatchHandler); !ok {
		if m, found := t.MethodByName("HandleBatch"); found {
			return addOnError(h, m, BatchHandler.HandleBatch)
		}
	}
	if _, ok := h.(StartHandler); !ok {
		if m, found := t.MethodByName("HandleStart"); found {
			return addOnError(h, m, StartHandler.HandleStart)
		}
	}
	if _, ok := h.(StopHandler); !ok {
		if m, found := t.MethodByName("HandleStop"); found {
			return addOnError(h, m, StopHandler.HandleStop)
		}
	}
	if _, ok := h.(UndeliveredHandler); !ok {
		if m, found := t.MethodByName("HandleUndelivered"); found {
			return addOnError(h, m, UndeliveredHandler.HandleUndelivered)
		}
	}
	if _, ok := h.(GroupHandler); !ok {
		if m, found := t.MethodByName("HandleGroups"); found {
			return addOnError(h, m, GroupHandler.HandleGroups)
		}
	}
	return nil
}

// addOnError says why m, a method of h or of a pointer to it, is not the
// method of an add-on, which is given as a method expression.
func addOnError(h Handler, m reflect.Method, method any) error {
	want := reflect.TypeOf(method)
	receiver, addOn := m.Type.In(0), want.In(0)
	if receiver.Implements(addOn) {
		return fmt.Errorf("handler %T: only %v has %s: pass a pointer", h, receiver, m.Name)
	}
	return fmt.Errorf("handler %T: %s%s is not the %s%s of %v", h, m.Name, signature(m.Type), m.Name, signature(want), addOn)
}

// signature returns the parameters and results of a method of that type, whose
// first parameter is the receiver.
func signature(method reflect.Type) string {
	s := strings.TrimPrefix(method.String(), "func("+method.In(0).String())
	return "(" + strings.TrimPrefix(s, ", ")
}

// poison overwrites a datagram that a handler was lent.
func poison(d *Datagram) {
	for i := range d.Payload {
		d.Payload[i] = 0xDB
	}
	*d = Datagram{Payload: d.Payload}
}
