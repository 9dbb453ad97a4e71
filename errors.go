package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// The operations that errors name, in net.OpError's Op.
const (
	opListen     = "listen"
	opDial       = "dial"
	opResolve    = "resolve"
	opRead       = "read"
	opWrite      = "write"
	opClose      = "close"
	opShutdown   = "shutdown"
	opConnect    = "connect"
	opDisconnect = "disconnect"
	opJoin       = "join"
	opLeave      = "leave"
	opBlock      = "block"
	opUnblock    = "unblock"
	opPost       = "post"
	opSet        = "set"
	opGet        = "get"
)

// opError wraps err in the one shape that this package's errors have. It
// lets nil pass.
func opError(op string, source, addr netip.AddrPort, err error) error {
	if err == nil {
		return nil
	}
	oe := &net.OpError{Op: op, Net: "udp", Err: cause(err)}
	if source.IsValid() {
		oe.Source = net.UDPAddrFromAddrPort(source)
	}
	var inner *net.OpError
	if addr.IsValid() {
		oe.Addr = net.UDPAddrFromAddrPort(addr)
	} else if errors.As(err, &inner) {
		oe.Addr = inner.Addr
	}
	return oe
}

// cause returns what an *net.OpError is about, as that tells an operation of
// the package net, or one that another of ours is made of.
func cause(err error) error {
	var inner *net.OpError
	for errors.As(err, &inner) && inner.Err != nil {
		err = inner.Err
	}
	var errno syscall.Errno
	if errors.As(err, &errno) && standardErrno(errno) != errno {
		return fmt.Errorf("%w (%w)", err, standardErrno(errno))
	}
	return err
}

// opError is opError for an operation of c. Whatever fails after Close fails
// for that.
func (c *Conn) opError(op string, addr netip.AddrPort, err error) error {
	if err == nil {
		return nil // before LocalAddr: success pays nothing
	}
	if c.state.Load() == stateClosed {
		err = net.ErrClosed
	}
	if !c.config.Broadcast && addr.Addr().Is4() && errnoOf(err) == syscall.EACCES {
		err = fmt.Errorf("%w (if that is a broadcast address: is ListenConfig.Broadcast missing?)", cause(err))
	}
	return opError(op, c.LocalAddr(), addr, err)
}

// unsupported says of an option that the system, or a sandbox, does not have it.
func unsupported(err error) error {
	if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	switch errnoOf(err) {
	case 0, syscall.ENOPROTOOPT, syscall.ENOSYS, syscall.EPERM, syscall.EACCES:
		return fmt.Errorf("%w (%w)", cause(err), errors.ErrUnsupported)
	}
	return err
}

// errnoOf returns the error number of the system in err, and 0 if there is
// none.
func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0 // success pays no allocation
	}
	return findErrno(err)
}

func findErrno(err error) syscall.Errno {
	var errno syscall.Errno
	errors.As(err, &errno)
	return standardErrno(errno)
}
