package udp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"strings"
	"syscall"
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

	// Resolver looks up names of hosts for Listen, Dial and Resolve. If nil,
	// the PacketListener does if it is a Resolver, as a MemNet is, otherwise
	// net.DefaultResolver.
	Resolver Resolver

	// Logger is told when a Conn starts and stops, of errors that it
	// survives, and of settings that the system changed. It is never told
	// what is in a datagram. If nil, nothing is logged.
	Logger *slog.Logger

	// Recover is called, in the goroutine of the Conn, with what a handler
	// panicked with; the Conn goes on. If nil, a panic in a handler ends
	// the program, like any other.
	Recover func(c *Conn, v any)
}

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
	if err := checkAddOns(h); err != nil {
		return nil, opError(opListen, netip.AddrPort{}, netip.AddrPort{}, err)
	}
	c, err := lc.listen(ctx, lc.Network, address, 0)
	if err != nil {
		return nil, opError(opListen, netip.AddrPort{}, netip.AddrPort{}, err)
	}
	return c.start(h, nil)
}

// NewConn acts like the function [NewConn], with the settings of lc. Network,
// ReusePort and PacketListener, which are about opening, are ignored.
func (lc *ListenConfig) NewConn(pc net.PacketConn, h Handler) (*Conn, error) {
	if err := checkAddOns(h); err != nil {
		return nil, opError(opListen, netip.AddrPort{}, netip.AddrPort{}, err)
	}
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
	c := &Conn{config: *lc, done: make(chan struct{}), finished: make(chan struct{})}
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
			c.connectedTo(unmap(peer))
		}
	}
	c.checkBuffers()
	return c, nil
}

// sharing says with whom a socket shares its port, as flags.
type sharing int

const (
	shareLoad  sharing = 1 << iota // ListenConfig.ReusePort
	shareGroup                     // ListenMulticast
)

// A sharingListener is a PacketListener, other than *net.ListenConfig, whose
// sockets can share a port.
type sharingListener interface {
	listenShared(ctx context.Context, network, address string, how sharing) (net.PacketConn, error)
}

// A portKeeper is a socket that would lose its port on disconnecting, if it
// was not told to keep it before anybody knew it.
type portKeeper interface{ keepPort() error }

// portTries is how often listen asks for a port that nobody takes in the
// moment in which the system lets go of it.
const portTries = 4

// check reports settings that make no sense.
func (lc *ListenConfig) check() error {
	switch {
	case lc.MaxDatagram < 0:
		return fmt.Errorf("MaxDatagram is %d", lc.MaxDatagram)
	case lc.ReadBuffer < 0 || lc.WriteBuffer < 0:
		return fmt.Errorf("ReadBuffer is %d, WriteBuffer %d", lc.ReadBuffer, lc.WriteBuffer)
	}
	_, err := familyOf(lc.Network)
	return err
}

// listen opens a socket at address and makes a Conn of it that has no
// goroutine yet.
func (lc *ListenConfig) listen(ctx context.Context, network, address string, how sharing) (*Conn, error) {
	if err := lc.check(); err != nil {
		return nil, err
	}
	at, err := lookup(ctx, lc.resolver(), network, address)
	if err != nil {
		return nil, err
	}
	if at[0].Addr().IsMulticast() {
		return nil, &net.AddrError{Err: "listening on a group; listen on its port, and join it", Addr: address}
	}
	if lc.ReusePort {
		how |= shareLoad
	}
	network, local := bindAddress(network, address, at[0])
	for try := 1; ; try++ {
		pc, err := lc.open(ctx, network, local, how)
		if err != nil {
			return nil, opError(opListen, netip.AddrPort{}, at[0], err)
		}
		c, err := lc.newConn(pc)
		if err == nil && at[0].Port() == 0 {
			err = c.keepPort()
		}
		if err == nil {
			return c, nil
		}
		pc.Close()
		if try == portTries || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, opError(opListen, netip.AddrPort{}, at[0], err)
		}
	}
}

// keepPort makes sure that a port that the system has chosen stays.
func (c *Conn) keepPort() error {
	if k, ok := c.sock.(portKeeper); ok {
		return k.keepPort()
	}
	return nil
}

// bindAddress returns what to ask a PacketListener for. An IPv4 host means
// IPv4 only, also the wildcard, where the package net would open a socket for
// both; an empty host stays, as it alone says "whatever the system has".
func bindAddress(network, address string, at netip.AddrPort) (_, local string) {
	if network == "" {
		network = "udp"
	}
	if strings.HasPrefix(address, ":") {
		return network, fmt.Sprintf(":%d", at.Port())
	}
	if at.Addr().Is4() {
		network = "udp4"
	}
	return network, at.String()
}

// open asks the PacketListener for a socket.
func (lc *ListenConfig) open(ctx context.Context, network, address string, how sharing) (net.PacketConn, error) {
	var system net.ListenConfig
	switch l := lc.PacketListener.(type) {
	case nil:
	case *net.ListenConfig:
		system = *l // a copy: the caller's stays as it is
	case sharingListener:
		return l.listenShared(ctx, network, address, how)
	default:
		if how != 0 {
			return nil, fmt.Errorf("sharing a port by way of a %T: %w", l, errors.ErrUnsupported)
		}
		return l.ListenPacket(ctx, network, address)
	}
	if how != 0 {
		system.Control = how.control(system.Control)
	}
	return system.ListenPacket(ctx, network, address)
}

// control returns a function for net.ListenConfig.Control that sets the
// options for how, after next.
func (how sharing) control(next func(string, string, syscall.RawConn) error) func(string, string, syscall.RawConn) error {
	return func(network, address string, raw syscall.RawConn) error {
		if next != nil {
			if err := next(network, address, raw); err != nil {
				return err
			}
		}
		var err error
		cerr := raw.Control(func(fd uintptr) {
			if how&shareGroup != 0 {
				err = setReuseAddr(fd)
			}
			if err == nil && how&shareLoad != 0 {
				err = setReusePort(fd)
			}
		})
		return errors.Join(cerr, err)
	}
}

// newSocket returns the socket that pc is, or can be made.
func newSocket(pc net.PacketConn, lc *ListenConfig) (socket, error) {
	switch pc := pc.(type) {
	case nil:
		return nil, errors.New("nil net.PacketConn")
	case *net.UDPConn:
		if pc == nil {
			return nil, errors.New("nil *net.UDPConn")
		}
		s, err := newUDPSocket(pc, lc.MaxDatagram)
		if err != nil {
			return nil, err
		}
		return accelerate(s, lc.NoOffload), nil
	case *memSocket:
		return pc, pc.configure(lc)
	}
	return newPacketSocket(pc, lc.MaxDatagram)
}

// setBuffers asks the system for the sizes of lc.
func (lc *ListenConfig) setBuffers(pc net.PacketConn) error {
	type buffered interface {
		SetReadBuffer(bytes int) error
		SetWriteBuffer(bytes int) error
	}
	if lc.ReadBuffer == 0 && lc.WriteBuffer == 0 {
		return nil
	}
	b, ok := pc.(buffered)
	if !ok {
		return fmt.Errorf("buffer sizes of a %T: %w", pc, errors.ErrUnsupported)
	}
	if lc.ReadBuffer != 0 {
		if err := b.SetReadBuffer(min(lc.ReadBuffer, math.MaxInt32)); err != nil {
			return err
		}
	}
	if lc.WriteBuffer != 0 {
		return b.SetWriteBuffer(min(lc.WriteBuffer, math.MaxInt32))
	}
	return nil
}

// A bufferKind is one of the two buffers of a socket, with the name of the
// setting that limits it and the system's options for it.
type bufferKind struct {
	name, limit   string
	option, force int
}

// checkBuffers says so if the system made less of a size than was asked for.
func (c *Conn) checkBuffers() {
	raw, err := c.sock.syscallConn()
	if err != nil {
		return
	}
	check := func(kind bufferKind, asked int) {
		if asked == 0 {
			return
		}
		if size := grantedSize(raw, kind, asked); size < asked {
			c.log(slog.LevelWarn, "udp: buffer clamped", "buffer", kind.name, "asked", asked, "size", size, "limit", kind.limit)
		}
	}
	check(receiveBuffer, c.config.ReadBuffer)
	check(sendBuffer, c.config.WriteBuffer)
}

// mayWait returns how many bytes can be waiting in the socket.
func (c *Conn) mayWait() int {
	size := max(c.config.ReadBuffer, 1<<20)
	if raw, err := c.sock.syscallConn(); err == nil {
		if n := bufferSize(raw, receiveBuffer); n > 0 {
			size = n
		}
	}
	return size + readBuffer // one more is let in while there is any room
}
