package udp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Conn is a UDP socket whose datagrams go to a Handler. Its methods may be
// called from any goroutine, and, but for Shutdown and Wait, from handlers.
type Conn struct {
	config   ListenConfig
	sock     socket
	handlers handlers
	ip4, ip6 bool // what it can send to
	adopted  bool // opened elsewhere: groups may have been joined there

	keepsReports bool // the socket does, apart; otherwise they are the errors of reads and writes

	configure sync.Mutex                   // one Connect, Disconnect, Join or the like at a time
	peer      atomic.Pointer[peer]         // nil: not connected
	members   atomic.Pointer[[]membership] // nil: no groups
	follow    follower                     // for JoinAll

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
	if peer := c.RemoteAddr(); peer.IsValid() {
		return fmt.Sprintf("udp %v->%v", c.LocalAddr(), peer)
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
