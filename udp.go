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
	all       joinedAll                    // for JoinAll

	state    atomic.Int32  // stateOpen and on; only grows
	done     chan struct{} // closed when state is stateClosed
	finished chan struct{} // closed when the goroutine is at its end
	err      error         // why it stopped; nobody but the goroutine reads it before finished

	work  workQueue // what others leave for the goroutine
	queue sendQueue // what Queue took

	handedOver sync.WaitGroup // datagrams that Workers have and have not handled

	// Of the goroutine alone.
	pause    time.Duration // after the next read that fails
	unhanded int           // datagrams of this read that the handler has not been given yet
	returned bool          // the loop has ended by itself, not by runtime.Goexit or a panic

	stats statistics
}

// The states of a Conn. It goes down only:
//
//	open        HandleStart has its turn, then the goroutine reads (serve)
//	  |  \
//	  |   Shutdown
//	  |     |
//	  |   draining   what waits in the socket is read (drain)
//	  |     |  \
//	  |     |   nothing waits
//	  |     |     |
//	  |     |   stopping   what was posted until now runs, HandleStop is called
//	  |     |     |
//	Close   |     HandleStop has returned
//	  |     |     |
//	closed <+<----+   the socket is closed, Done too; HandleStop, if it has not been called
//	  |
//	finished          the goroutine ends, and Wait returns
//
// Close leads from each of them to closed. So does an end that nobody asked
// for: a handler has called runtime.Goexit, or somebody else has closed the
// socket.
const (
	stateOpen = iota
	stateDraining
	stateStopping
	stateClosed
)

// start runs prepare and HandleStart, and starts the goroutine. If one of
// them fails or panics, the socket is closed and HandleStop is not called.
func (c *Conn) start(h Handler, prepare func() error) (*Conn, error) {
	c.handlers.find(h)
	c.askForReports()
	c.pause = firstPause
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
	if ifi := c.config.Interface; ifi != nil && ifi.Name != "" {
		c.AfterFunc(interfaceInterval, c.followInterface)
	}
	c.log(slog.LevelInfo, "udp: listening")
	if notice := c.sock.notice(); notice != "" {
		c.log(slog.LevelWarn, "udp: "+notice)
	}
	go c.loop()
	return c, nil
}

// finish closes the Conn and waits for what JoinAll has started, the last of
// its goroutines but for the caller.
func (c *Conn) finish() {
	c.ensureClosed()
	c.configure.Lock() // after a JoinAll that may still start it
	c.all.groups = nil
	c.configure.Unlock()
	c.all.ended.Wait()
	close(c.finished)
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

// SetTTL sets the TTL (IPv6: hop limit) of what the Conn sends to single hosts,
// 1 to 255; anything else is syscall.EINVAL. The default is the system's, 64
// on most. For groups see [Conn.SetMulticastTTL]. GTSM (RFC 5082) asks for 255.
func (c *Conn) SetTTL(ttl int) error {
	return c.option(opSet, func() error {
		if ttl < 1 || ttl > 255 {
			return fmt.Errorf("TTL of %d: %w", ttl, syscall.EINVAL)
		}
		return unsupported(c.sock.setUnicastTTL(ttl))
	})
}

// TTL returns what SetTTL sets.
func (c *Conn) TTL() (ttl int, err error) {
	err = c.option(opGet, func() (err error) {
		ttl, err = c.sock.unicastTTL()
		return unsupported(err)
	})
	return ttl, err
}

// SetTrafficClass sets the DSCP (RFC 2474), in the upper six bits, and the ECN
// (RFC 3168), in the lower two, of all that the Conn sends, where
// Datagram.TrafficClass does not say another. The default is 0. Where the
// system or a sandbox refuses it, it is errors.ErrUnsupported.
func (c *Conn) SetTrafficClass(class uint8) error {
	return c.option(opSet, func() error { return unsupported(c.sock.setTrafficClass(class)) })
}

// TrafficClass returns what SetTrafficClass sets.
func (c *Conn) TrafficClass() (class uint8, err error) {
	err = c.option(opGet, func() (err error) {
		class, err = c.sock.trafficClass()
		return unsupported(err)
	})
	return class, err
}

// PathMTU returns the longest packet in bytes, the headers of IP (20 bytes, or
// 40 for IPv6) and UDP (8) included, that the system knows the path to the
// peer to take. On a Conn that is not connected it is syscall.ENOTCONN, off
// Linux errors.ErrUnsupported.
func (c *Conn) PathMTU() (mtu int, err error) {
	err = c.option(opGet, func() (err error) {
		if !c.RemoteAddr().IsValid() {
			return syscall.ENOTCONN
		}
		mtu, err = c.sock.pathMTU()
		return err
	})
	return mtu, err
}

// Close closes the socket, and returns at once. The call of a handler, of a
// timer, or of what was posted, that is under way or about to be made may
// still run: one at most, as each is made only after the Conn has been found
// open. HandleStop follows. A second Close returns net.ErrClosed.
func (c *Conn) Close() error {
	if c.state.Swap(stateClosed) == stateClosed {
		return c.opError(opClose, netip.AddrPort{}, net.ErrClosed)
	}
	err := c.sock.close()
	c.dropWork()
	close(c.done)
	return c.opError(opClose, netip.AddrPort{}, err)
}

// ensureClosed is Close without an error for a Conn that is closed already,
// which would cost more than all else at a Conn's end.
func (c *Conn) ensureClosed() {
	if c.state.Load() != stateClosed {
		c.Close()
	}
}

// Done returns a channel that is closed when the Conn is closed: by Close, or
// by Shutdown when HandleStop has returned or its context is over. It is for a
// handler that waits for something else too, and so would keep the Conn from
// its end:
//
//	select {
//	case jobs <- d.Clone():
//	case <-c.Done():
//	}
//
// Wait returns later, when the handlers have returned.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Shutdown lets the handler have what already waits in the socket, runs what
// was posted, calls HandleStop while the socket can still write, closes it,
// and waits for all that. If ctx is done first, the socket is closed then, and
// Shutdown returns the error of ctx. On a Conn that is closed already,
// Shutdown waits, and returns net.ErrClosed. Timers that are not due when
// Shutdown is called do not run.
//
// A handler must not call Shutdown, as it would wait for itself.
func (c *Conn) Shutdown(ctx context.Context) error {
	switch begun, err := c.beginDrain(); {
	case err != nil:
		c.Close() // it cannot be told to stop in any other way
	case !begun && c.state.Load() == stateClosed:
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
	case <-c.finished:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Wait returns when the Conn has come to its end, HandleStop included: nil
// after Close or Shutdown, otherwise why it stopped. No goroutine of the Conn
// is left then. A handler must not call Wait, as it would wait for itself.
func (c *Conn) Wait() error {
	<-c.finished
	return c.err
}

func (c *Conn) log(level slog.Level, msg string, args ...any) {
	if c.config.Logger != nil {
		args = append(args, slog.String("conn", c.String()))
		c.config.Logger.Log(context.Background(), level, msg, args...)
	}
}
