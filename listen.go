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
	at, err := lookup(ctx, network, address)
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
		pc.max = lc.MaxDatagram
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
