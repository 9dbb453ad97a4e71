package udp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A PacketListener opens sockets. *net.ListenConfig and *MemNet are
// PacketListeners.
type PacketListener interface {
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
}

// A ListenConfig opens Conns. The zero value is ready to use; methods never
// change it, and any goroutine may call them.
type ListenConfig struct {
	// Network is "udp" (IPv4 and IPv6), "udp4" or "udp6". If empty, "udp"
	// is used; an address with an IPv4 host is then for IPv4 only.
	Network string

	// MaxDatagram is the longest payload in bytes that is delivered whole.
	// If zero, 65535 is used, which is longer than any.
	MaxDatagram int

	// ReadBuffer and WriteBuffer are the sizes in bytes of the kernel's
	// buffers for the socket, which the system may clamp. If zero, the
	// system's default is used.
	ReadBuffer  int
	WriteBuffer int

	// ReusePort lets several sockets, here or in other processes of the
	// same user, share the load of one port (SO_REUSEPORT, socket(7)): each
	// peer's datagrams go to one of them. On Linux, DragonFly and FreeBSD
	// the kernel balances; elsewhere one socket may get everything.
	ReusePort bool

	// NoOffload keeps the kernel from cutting and joining datagrams on the
	// way (Linux UDP_SEGMENT and UDP_GRO, udp(7)).
	NoOffload bool

	// PacketListener opens the sockets. If nil, the operating system does.
	PacketListener PacketListener

	// Logger is told when a Conn starts and stops, of errors that it
	// survives, and of settings that the system changed. It is never told
	// what is in a datagram. If nil, nothing is logged.
	Logger *slog.Logger

	// Recover is called, in the goroutine of the Conn, with what a handler
	// panicked with; the Conn goes on. If nil, a panic in a handler ends
	// the program, like any other.
	Recover func(c *Conn, v any)
}

// A Conn is a UDP socket whose datagrams go to a Handler. Its methods may be
// called from any goroutine, and, but for Shutdown and Wait, from handlers.
type Conn struct {
	config   ListenConfig
	sock     socket
	handlers handlers
	ip4, ip6 bool // what it can send to
	adopted  bool // opened elsewhere: groups may have been joined there

	reporter reporter // nil: reports are the errors of reads and writes

	configure sync.Mutex                     // one Connect, Disconnect, Join or the like at a time
	peer      atomic.Pointer[netip.AddrPort] // nil: not connected
	members   atomic.Pointer[[]membership]   // nil: no groups
	follow    follower                       // for JoinAll

	state    atomic.Int32  // stateOpen and on; only grows
	stopping chan struct{} // closed when state leaves stateOpen
	done     chan struct{} // closed when the goroutine is at its end
	err      error         // why it came to that; to be read after done

	wakeMu  sync.Mutex
	awake   bool          // the read deadline is over, so that the goroutine looks here
	reports []Undelivered // for the goroutine to deliver

	// Of the goroutine alone.
	pause  time.Duration // after the next failure
	drains bool          // the socket has been told to drain
	left   int           // what it may still read then, in bytes
	paced  bool          // more reports wait, for a moment in which reads come first
	ended  bool          // the loop has come to its end by itself

	stats statistics
}

// The states of a Conn.
const (
	stateOpen     = iota
	stateDraining // by Shutdown: read what waits, then stop
	stateClosed
)

// Listen opens a socket at address, "host:port", and starts a goroutine that
// hands what arrives to h. An empty host stands for all addresses of this
// host, IPv4 and IPv6; port 0 for one that the system chooses. A nil h
// discards what arrives.
//
// Listen uses context.Background internally; to specify a context, use
// [ListenConfig.Listen].
func Listen(address string, h Handler) (*Conn, error) {
	return new(ListenConfig).Listen(context.Background(), address, h)
}

// NewConn makes a Conn of a socket that is open already, as if it had been
// opened by Listen, and connected if pc is. The socket belongs to the Conn
// from then on, unless NewConn fails before it calls h.
//
// With a *net.UDPConn, everything works as on a socket of Listen; but as
// the Conn does not know which groups had been joined before, it leaves it to
// the system to keep those of other sockets away. Other implementations of
// net.PacketConn do what they can: groups and control messages are
// unsupported, and Connect is a filter without reports of refusals.
func NewConn(pc net.PacketConn, h Handler) (*Conn, error) {
	return new(ListenConfig).NewConn(pc, h)
}

// Listen acts like the function [Listen], with the settings of lc. The
// context is for looking up a host name in address; once Listen has returned,
// it does not affect the Conn.
func (lc *ListenConfig) Listen(ctx context.Context, address string, h Handler) (*Conn, error) {
	c, err := lc.listen(ctx, lc.Network, address, 0)
	if err != nil {
		return nil, opError(opListen, netip.AddrPort{}, netip.AddrPort{}, err)
	}
	return c.start(h, nil)
}

// NewConn acts like the function [NewConn], with the settings of lc. Network,
// ReusePort and PacketListener, which are about opening, are ignored.
func (lc *ListenConfig) NewConn(pc net.PacketConn, h Handler) (*Conn, error) {
	c, err := lc.newConn(pc)
	if err != nil {
		return nil, opError(opListen, netip.AddrPort{}, netip.AddrPort{}, err)
	}
	c.adopted = true
	return c.start(h, nil)
}

// newConn makes a Conn of pc that has no goroutine yet.
func (lc *ListenConfig) newConn(pc net.PacketConn) (*Conn, error) {
	if err := lc.check(); err != nil {
		return nil, err
	}
	if pc == nil {
		return nil, errors.New("nil net.PacketConn")
	}
	c := &Conn{config: *lc, stopping: make(chan struct{}), done: make(chan struct{}), pause: firstPause}
	if c.config.MaxDatagram == 0 {
		c.config.MaxDatagram = readBuffer - 1
	}
	if err := lc.setBuffers(pc); err != nil {
		return nil, err
	}
	var err error
	if c.sock, err = newSocket(pc, &c.config); err != nil {
		return nil, err
	}
	c.ip4, c.ip6 = c.sock.families()
	if nc, ok := pc.(net.Conn); ok {
		if peer, ok := addrPortOf(nc.RemoteAddr()); ok {
			peer = unmap(peer)
			c.peer.Store(&peer)
		}
	}
	c.checkBuffers()
	return c, nil
}

// start runs prepare and HandleStart, and starts the goroutine. If one of
// them fails or panics, the socket is closed and HandleStop is not called.
func (c *Conn) start(h Handler, prepare func() error) (*Conn, error) {
	c.handlers.find(h)
	c.askForReports()
	started := false
	defer func() {
		if !started {
			c.finish()
		}
	}()
	if prepare != nil {
		c.err = prepare()
	}
	if c.err == nil && c.handlers.start != nil {
		c.err = c.handlers.start.HandleStart(c)
	}
	if c.err != nil {
		return nil, c.err
	}
	started = true
	c.log(slog.LevelInfo, "udp: listening")
	go c.loop()
	return c, nil
}

// finish closes the Conn and waits for what JoinAll has started, the last of
// its goroutines but for the caller.
func (c *Conn) finish() {
	c.Close()
	c.configure.Lock() // after a JoinAll that may still start it
	c.follow.groups = nil
	c.configure.Unlock()
	c.follow.ended.Wait()
	close(c.done)
}

// LocalAddr returns the address that the socket is bound to. Connecting a
// socket of all addresses binds it to the one that reaches the peer.
func (c *Conn) LocalAddr() netip.AddrPort { return c.sock.localAddr() }

// String returns the network and the addresses: "udp 127.0.0.1:9999", or
// "udp 127.0.0.1:9999->127.0.0.1:53" while it is connected.
func (c *Conn) String() string {
	if peer := c.peer.Load(); peer != nil {
		return fmt.Sprintf("udp %v->%v", c.LocalAddr(), *peer)
	}
	return fmt.Sprintf("udp %v", c.LocalAddr())
}

// SyscallConn returns the socket as the system knows it, for options that
// this package does not have. Reading, writing, and connecting by it confuse
// the Conn. A socket that is not the system's is errors.ErrUnsupported.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.sock.syscallConn()
	return raw, c.opError(opGet, netip.AddrPort{}, err)
}

// Close closes the socket, and returns at once. A call of the handler that is
// under way may still finish, and HandleStop follows; no other call begins.
// A second Close returns net.ErrClosed.
func (c *Conn) Close() error {
	switch c.state.Swap(stateClosed) {
	case stateClosed:
		return c.opError(opClose, netip.AddrPort{}, net.ErrClosed)
	case stateOpen:
		close(c.stopping)
	}
	return c.opError(opClose, netip.AddrPort{}, c.sock.close())
}

// Shutdown lets the handler have what already waits in the socket, calls
// HandleStop while the socket can still write, closes it, and waits for all
// that. If ctx is done first, the socket is closed then, and Shutdown returns
// the error of ctx. On a Conn that is closed already, Shutdown waits, and
// returns net.ErrClosed.
//
// A handler must not call Shutdown, as it would wait for itself.
func (c *Conn) Shutdown(ctx context.Context) error {
	switch {
	case c.state.CompareAndSwap(stateOpen, stateDraining):
		close(c.stopping)
		if err := c.wake(); err != nil {
			c.Close() // it cannot be told to stop in any other way
		}
	case c.state.Load() == stateClosed:
		if err := c.waitFor(ctx); err != nil {
			return err
		}
		return c.opError(opShutdown, netip.AddrPort{}, net.ErrClosed)
	}
	err := c.waitFor(ctx)
	if err != nil {
		c.Close()
	}
	return err
}

func (c *Conn) waitFor(ctx context.Context) error {
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Wait returns when the Conn has come to its end, HandleStop included: nil
// after Close or Shutdown, otherwise why it stopped. No goroutine of the Conn
// is left then. A handler must not call Wait, as it would wait for itself.
func (c *Conn) Wait() error {
	<-c.done
	return c.err
}

func (c *Conn) log(level slog.Level, msg string, args ...any) {
	if c.config.Logger != nil {
		args = append(args, slog.String("conn", c.String()))
		c.config.Logger.Log(context.Background(), level, msg, args...)
	}
}
