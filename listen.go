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

	// Interface is the one that the socket sends and receives by; it is known
	// by its Index. If nil, it sends and receives by all. When the interface
	// has gone, the Conn waits for the next one with its Name (Linux); until then
	// writes fail with syscall.ENODEV, or ENETUNREACH, as they do while it
	// is down. Linux, macOS; Windows, for sending only; elsewhere it is
	// errors.ErrUnsupported.
	Interface *net.Interface

	// WriteTimeout is how long a write waits while the send buffer is full;
	// then it fails with os.ErrDeadlineExceeded. Each write has its own
	// time, a WriteBatch for all of its datagrams. If zero, it waits as long
	// as it takes; below zero, not at all (off Linux for a millisecond). The
	// buffer is one for all peers: this bounds the wait for a slow one, and
	// reserves no room for the others.
	WriteTimeout time.Duration

	// ReadTime fills Datagram.Time. On Linux that costs some tens of
	// nanoseconds for each datagram, and begins a moment after the Conn is
	// opened.
	ReadTime bool

	// ReadTrafficClass fills Datagram.TrafficClass.
	ReadTrafficClass bool

	// DontFragment has nothing that is sent be fragmented, and the system
	// not heed what it has heard of the path (Linux IP_PMTUDISC_PROBE, macOS
	// and FreeBSD IP_DONTFRAG, Windows IP_DONTFRAGMENT): what is longer than
	// the interface takes is syscall.EMSGSIZE, and what the path does not
	// take is lost, and may be reported. It is for protocols that find the
	// path's MTU themselves (RFC 8899). Where the system cannot, opening
	// fails with errors.ErrUnsupported.
	DontFragment bool

	// Broadcast lets the Conn send to broadcast addresses. Without it that
	// is syscall.EACCES, so that nobody who forges a source makes a server
	// answer to a whole network.
	Broadcast bool

	// ReusePort lets several sockets, here or in other processes of the
	// same user, share the load of one port (SO_REUSEPORT, socket(7)): each
	// peer's datagrams go to one of them. On Linux, DragonFly and FreeBSD
	// the kernel balances; elsewhere one socket may get everything.
	ReusePort bool

	// NoOffload keeps the kernel from cutting and joining datagrams on the
	// way (Linux UDP_SEGMENT and UDP_GRO, udp(7)). The environment variable
	// UDP_NO_OFFLOAD=1 does so for the whole program, without a new build.
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
	c.sock.ownGroupsOnly()
	return c.start(h, nil)
}

// NewConn acts like the function [NewConn], with the settings of lc. Network,
// ReusePort and PacketListener, which are about opening, are ignored.
func (lc *ListenConfig) NewConn(pc net.PacketConn, h Handler) (*Conn, error) {
	if err := checkAddOns(h); err != nil {
		return nil, opError(opListen, netip.AddrPort{}, netip.AddrPort{}, err)
	}
	c, err := lc.newConn(pc, "")
	if err != nil {
		return nil, opError(opListen, netip.AddrPort{}, netip.AddrPort{}, err)
	}
	c.adopted = true
	return c.start(h, nil)
}

// newConn makes a Conn of pc that has no goroutine yet. The network is what
// package net has opened pc for, just now; empty: somebody else has opened it.
func (lc *ListenConfig) newConn(pc net.PacketConn, network string) (*Conn, error) {
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
	var err error
	if c.sock, err = newSocket(pc, &c.config, network); err != nil {
		return nil, err
	}
	if lc.Interface != nil {
		if err := c.sock.setInterface(lc.Interface.Index); err != nil {
			return nil, fmt.Errorf("setting ListenConfig.Interface: %w", err)
		}
	}
	if err := lc.setBuffers(pc); err != nil {
		return nil, err
	}
	if err := c.sock.setUp(&c.config); err != nil {
		return nil, err
	}
	if network == "" {
		pc.SetDeadline(time.Time{}) // one may be left of what it was used for
		c.sock.ownGroupsOnly()      // a Conn that adopts a socket does not know its groups
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

// check reports settings that make no sense.
func (lc *ListenConfig) check() error {
	switch {
	case lc.Interface != nil && lc.Interface.Index <= 0:
		return fmt.Errorf("interface %q has index %d", lc.Interface.Name, lc.Interface.Index)
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
	c, err := lc.open(ctx, network, local, how)
	if err != nil {
		return nil, opError(opListen, netip.AddrPort{}, at[0], err)
	}
	return c, nil
}

// bindAddress returns what to ask a PacketListener for. An IPv4 host means
// IPv4 only, also the wildcard, where the package net would open a socket for
// both; an empty host stays, as it alone says "whatever the system has".
func bindAddress(network, address string, at netip.AddrPort) (string, *net.UDPAddr) {
	if network == "" {
		network = "udp"
	}
	if strings.HasPrefix(address, ":") {
		return network, &net.UDPAddr{Port: int(at.Port())}
	}
	if at.Addr().Is4() {
		network = "udp4"
	}
	return network, net.UDPAddrFromAddrPort(at)
}

// open asks the PacketListener for a socket, and makes a Conn of it.
func (lc *ListenConfig) open(ctx context.Context, network string, address *net.UDPAddr, how sharing) (c *Conn, err error) {
	var pc net.PacketConn
	switch l := lc.PacketListener.(type) {
	case nil:
		pc, err = lc.listenSystem(ctx, nil, network, address, how)
	case *net.ListenConfig:
		pc, err = lc.listenSystem(ctx, l.Control, network, address, how)
		network = "" // its Control may have done anything
	case sharingListener:
		pc, err = l.listenShared(ctx, network, address.String(), how)
	default:
		if how != 0 {
			return nil, fmt.Errorf("sharing a port by way of a %T: %w", l, errors.ErrUnsupported)
		}
		pc, err = l.ListenPacket(ctx, network, address.String())
		network = ""
	}
	if err != nil {
		return nil, err
	}
	if c, err = lc.newConn(pc, network); err != nil {
		pc.Close()
	}
	return c, err
}

// listenSystem opens a socket of the system. One for all addresses is for IPv6
// too, where the system has that: package net makes it one for IPv4 where
// 127.0.0.1 is not an address of the host (golang/go#61310).
func (lc *ListenConfig) listenSystem(ctx context.Context, next control, network string, address *net.UDPAddr, how sharing) (net.PacketConn, error) {
	address, err := numberZone(address)
	if err != nil {
		return nil, err
	}
	pc, err := lc.listenUDP(ctx, next, network, address, how, false)
	if err != nil || network != "udp" || address.IP.To4() != nil || address.IP != nil && !address.IP.IsUnspecified() {
		return pc, err
	}
	if pc.LocalAddr().(*net.UDPAddr).IP.To4() == nil {
		return pc, nil
	}
	pc.Close()
	pc, err = lc.listenUDP(ctx, next, "udp6", &net.UDPAddr{IP: net.IPv6unspecified, Port: address.Port}, how, true)
	if err == nil {
		return pc, nil
	}
	return lc.listenUDP(ctx, next, network, address, how, false) // the system has no IPv6
}

func (lc *ListenConfig) listenUDP(ctx context.Context, next control, network string, address *net.UDPAddr, how sharing, dualStack bool) (net.PacketConn, error) {
	c := lc.control(next, how, dualStack)
	if c == nil { // with fewer allocations
		pc, err := net.ListenUDP(network, address)
		if err != nil {
			return nil, err
		}
		return pc, nil
	}
	return (&net.ListenConfig{Control: c}).ListenPacket(ctx, network, address.String())
}

// A control is net.ListenConfig's.
type control = func(network, address string, raw syscall.RawConn) error

// control returns a function for net.ListenConfig.Control that sets, after
// next, what must be set before a socket is bound; nil: nothing must.
func (lc *ListenConfig) control(next control, how sharing, dualStack bool) control {
	if how == 0 && !dualStack && lc.Interface == nil {
		return next
	}
	return func(network, address string, raw syscall.RawConn) error {
		if next != nil {
			if err := next(network, address, raw); err != nil {
				return err
			}
		}
		var err error
		cerr := raw.Control(func(fd uintptr) {
			if dualStack {
				err = setDualStack(fd)
			}
			if err == nil && how&shareGroup != 0 {
				err = setReuseAddr(fd)
			}
			if err == nil && how&shareLoad != 0 {
				err = setReusePort(fd)
			}
			if err == nil && lc.Interface != nil {
				err = bindInterface(fd, lc.Interface.Index, network == "udp6")
			}
		})
		return errors.Join(cerr, err)
	}
}

// newSocket returns the socket that pc is, or can be made.
func newSocket(pc net.PacketConn, lc *ListenConfig, network string) (socket, error) {
	switch pc := pc.(type) {
	case nil:
		return nil, errors.New("nil net.PacketConn")
	case *net.UDPConn:
		if pc == nil {
			return nil, errors.New("nil *net.UDPConn")
		}
		return newSystemSocket(pc, lc, network)
	case *memSocket:
		return pc, nil
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
	if c.config.ReadBuffer == 0 && c.config.WriteBuffer == 0 {
		return
	}
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

// interfaceInterval is how often a Conn with an Interface looks whether that is
// still there. The system tells a socket nothing of it.
const interfaceInterval = time.Second

func (c *Conn) followInterface() {
	c.sock.followInterface(c.config.Interface.Name)
	c.AfterFunc(interfaceInterval, c.followInterface)
}
