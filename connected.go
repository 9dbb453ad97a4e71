package udp

import (
	"context"
	"net"
	"net/netip"
	"syscall"
)

// Dial opens a socket at a port that the system chooses, connects it to
// address, "host:port", and starts a goroutine that hands what arrives from
// there to h. A host name is looked up, and its addresses are tried in turn;
// an empty or unspecified host stands for this one.
//
// HandleStart finds the Conn connected. Dial sends nothing, so that it does
// not learn whether anybody listens at address.
func Dial(ctx context.Context, address string, h Handler) (*Conn, error) {
	return new(ListenConfig).Dial(ctx, address, h)
}

// Dial acts like the function [Dial], with the settings of lc. Network says
// which addresses of a host name to try. The context is for looking up the
// name; once Dial has returned, it does not affect the Conn.
func (lc *ListenConfig) Dial(ctx context.Context, address string, h Handler) (*Conn, error) {
	if err := checkAddOns(h); err != nil {
		return nil, opError(opDial, netip.AddrPort{}, netip.AddrPort{}, err)
	}
	c, err := lc.dial(ctx, address)
	if err != nil {
		return nil, opError(opDial, netip.AddrPort{}, netip.AddrPort{}, err)
	}
	return c.start(h, nil)
}

func (lc *ListenConfig) dial(ctx context.Context, address string) (*Conn, error) {
	addrs, err := lookup(ctx, lc.resolver(), lc.Network, address)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, canceled(ctx, ctx.Err())
	}
	for _, addr := range addrs {
		var c *Conn
		if c, err = lc.dialAddr(ctx, addr); err == nil {
			return c, nil
		}
	}
	return nil, err
}

func (lc *ListenConfig) dialAddr(ctx context.Context, addr netip.AddrPort) (*Conn, error) {
	network := "udp6"
	if addr.Addr().Is4() {
		network = "udp4"
	}
	if addr.Addr().IsUnspecified() {
		addr = netip.AddrPortFrom(loopbackOf(addr.Addr()), addr.Port())
	}
	c, err := lc.listen(ctx, network, ":0", 0)
	if err != nil {
		return nil, err
	}
	peer := netip.AddrPort{}
	if err = c.checkAddr(addr); err == nil {
		peer, err = c.sock.connect(addr)
	}
	if err != nil {
		err = c.opError(opConnect, addr, err)
		c.Close()
		return nil, err
	}
	c.connectedTo(peer)
	return c, nil
}

// Connect makes addr the only one that the Conn sends to and receives from.
// It may be called at any time, again for another peer too. The local port
// stays. When Connect has returned, nothing from anyone else is delivered,
// not even what waited in the socket; if it fails, the peer is what it was.
//
// A connected Conn may be told of datagrams that did not arrive, by
// HandleUndelivered: with syscall.ECONNREFUSED, if nobody listens at addr. It
// goes on working, and addr is heard as soon as somebody does listen there.
//
// What the socket was opened with stays: its port, its interface, its zone.
// Where the system cannot keep it, connecting again is errors.ErrUnsupported,
// as is Disconnect: on macOS and the BSDs for a socket that was opened at one
// address, or for both families and has an IPv4 peer. On Solaris, AIX, js and
// wasip1 the Conn alone keeps to its peer, and hears no refusals.
//
// On a Conn of all addresses with ReusePort, Connect takes the socket out of
// those that share the port; Linux does not let it in again.
func (c *Conn) Connect(addr netip.AddrPort) error {
	c.configure.Lock()
	defer c.configure.Unlock()
	addr = unmap(addr)
	if err := c.checkAddr(addr); err != nil {
		return c.opError(opConnect, addr, err)
	}
	if c.state.Load() == stateClosed {
		return c.opError(opConnect, addr, net.ErrClosed)
	}
	c.takePending()
	peer, err := c.sock.connect(addr)
	if err != nil {
		return c.opError(opConnect, addr, err)
	}
	c.connectedTo(peer)
	return nil
}

// Disconnect takes the peer away: the Conn hears everyone again, and sends to
// addresses. The local port stays. On a Conn that is not connected it fails
// with syscall.ENOTCONN.
func (c *Conn) Disconnect() error {
	c.configure.Lock()
	defer c.configure.Unlock()
	peer := c.RemoteAddr()
	if !peer.IsValid() {
		return c.opError(opDisconnect, peer, syscall.ENOTCONN)
	}
	if c.state.Load() == stateClosed {
		return c.opError(opDisconnect, peer, net.ErrClosed)
	}
	c.takePending()
	if err := c.sock.disconnect(); err != nil {
		return c.opError(opDisconnect, peer, err)
	}
	c.peer.Store(nil)
	return nil
}

// takePending records a report that belongs to the peer so far.
func (c *Conn) takePending() {
	c.lookForReports()
	peer := c.RemoteAddr()
	if !peer.IsValid() || c.keepsReports {
		return
	}
	if errno := c.sock.pending(); isReport(errno) {
		c.recordReport(Undelivered{Addr: peer, Err: errno})
	}
}

// RemoteAddr returns the peer of a connected Conn, its zone as the interface is
// called now; zero: it is not connected.
func (c *Conn) RemoteAddr() netip.AddrPort {
	p := c.peer.Load()
	if p == nil {
		return netip.AddrPort{}
	}
	if p.index != 0 {
		if zone := c.sock.zoneName(p.index); zone != "" {
			return netip.AddrPortFrom(p.addr.Addr().WithZone(zone), p.addr.Port())
		}
	}
	return p.addr
}

// Write sends b in one datagram to the peer. On a Conn that is not connected
// it fails with syscall.ENOTCONN. Otherwise it acts like WriteTo. A refusal is
// never an error of Write: it is told of a datagram that was sent before.
func (c *Conn) Write(b []byte) (int, error) {
	peer := c.peer.Load()
	if peer == nil {
		c.stats.writeErrors.Add(1)
		return 0, c.opError(opWrite, netip.AddrPort{}, syscall.ENOTCONN)
	}
	d := Datagram{Payload: b}
	if peer.index == 0 { // or its interface may have another name now
		d.Addr = peer.addr
	}
	return c.writeOne(&d, true)
}
