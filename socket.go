package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// A socket moves datagrams for a Conn. The kernel's (udpSocket) and those of
// a MemNet are sockets; packetSocket makes one of any other net.PacketConn.
//
// Errors come as the system, or the package net, returns them: the Conn says
// what they mean, and wraps them.
type socket interface {
	// localAddr is the address that the socket is bound to now, unmapped.
	localAddr() netip.AddrPort

	// setInterface binds the socket to the interface of that index: it sends
	// and receives by no other. If that fails, nothing has changed.
	setInterface(index int) error

	// followInterface binds the socket to the interface of that name, if the
	// one that it is bound to has gone.
	followInterface(name string)

	// setUp sets what the socket needs for a Conn with the settings of lc.
	setUp(lc *ListenConfig) error

	// families tells whether the socket can send to IPv4 and to IPv6.
	families() (ip4, ip6 bool)

	// read returns what has arrived: at least one datagram, in the order of
	// arrival, none longer than the MaxDatagram of the socket. Sources are
	// unmapped; one that is still mapped was forged.
	// While there is none it waits, for as long as it takes if wait is
	// forever, and otherwise returns os.ErrDeadlineExceeded. A socket that
	// cannot be asked without waiting waits so long for an answer; it may
	// then change the read deadline.
	//
	// What read returns is lent until release. Only the Conn's goroutine
	// reads and releases.
	read(wait time.Duration) ([]Datagram, error)
	release()

	// drain is called before the last reads of a Conn that shuts down: what
	// waits already is still to be read, but nothing more need come.
	drain()

	// setReadDeadline makes the read that waits, and later ones that would
	// wait forever, return os.ErrDeadlineExceeded at t.
	setReadDeadline(t time.Time) error

	// write sends one datagram, whose address is of a family that the
	// socket has: to the peer, where the socket is connected. It waits
	// while the send buffer is full. Any goroutine may call it.
	write(d Datagram) error

	// ownsAddress reports whether a, which a datagram could not be sent from,
	// is an address of the socket's host, as far as the system tells.
	ownsAddress(a netip.Addr) bool

	// notice says what the Logger is to be told of the socket when it is
	// open; empty: nothing.
	notice() string

	// The TTL is that of datagrams to single hosts; class is what all that
	// is sent has whose TrafficClass is zero.
	setUnicastTTL(ttl int) error
	unicastTTL() (int, error)
	setTrafficClass(class uint8) error
	trafficClass() (uint8, error)

	// pathMTU returns the longest packet that the way to the peer takes, as
	// far as the system knows.
	pathMTU() (int, error)

	// queued returns how many bytes wait in the receive buffer, as the
	// system counts them; zero: none, or unknown.
	queued() uint64

	// dropped counts what the system has thrown away since the socket was
	// opened, because the receive buffer was full. Any goroutine may call
	// it, also after close.
	dropped() uint64

	syscallConn() (syscall.RawConn, error)
	close() error

	// writeBatch sends all it can of ds with as few system calls as the
	// system allows. A socket that sends each by itself calls c.writeEach.
	writeBatch(c *Conn, ds []Datagram) (n int, err error)

	// connect makes peer the only one to send to and receive from, and
	// returns it as the system has it. On failure the peer is what it was.
	connect(peer netip.AddrPort) (netip.AddrPort, error)

	// disconnect ends that. The local port stays.
	disconnect() error

	// pending takes a report about the peer that the system has ready, so
	// that it is not mistaken for one about the next peer; zero: none.
	pending() syscall.Errno

	// askForReports begins to keep the network's reports apart, each with
	// the address that it is about, if the system can. An error that read
	// or write then returns may be about any of them, and says only that
	// there are some.
	askForReports() (on bool)

	// takeReports hands at most limit of them to take, and tells whether
	// there may be more. Only the Conn's goroutine calls it.
	takeReports(limit int, take func(Undelivered)) (more bool)

	// Groups: the index is that of an interface; zero: the one that the
	// system chooses. A source that is not valid stands for any.
	join(group, source netip.Addr, index int) error
	leave(group, source netip.Addr, index int) error
	block(group, source netip.Addr, index int) error
	unblock(group, source netip.Addr, index int) error

	setMulticastTTL(ttl int) error
	multicastTTL() (int, error)
	setMulticastLoopback(on bool) error
	multicastLoopback() (bool, error)
	setMulticastInterface(index int) error
	multicastInterface() (index int, err error)

	// zoneIndex returns the index of the interface that the zone of a names
	// now; zero: a has none, or the socket does not know about zones.
	// zoneName is the zone of the interface of that index; empty: unknown.
	zoneIndex(a netip.Addr) (index int, err error)
	zoneName(index int) string

	// interfaces returns those that the socket's host has now. Where that
	// is errors.ErrUnsupported, a join that names no interface is for all.
	interfaces() ([]net.Interface, error)

	// hasAddress reports whether an interface of the socket's host has an
	// address of IPv4, or of IPv6.
	hasAddress(ifi *net.Interface, ip4 bool) bool

	// ownGroupsOnly asks the system, if it can, to keep away what comes to
	// groups that the socket has not joined, but another one of the host. It
	// is called by what joins groups, and when such a datagram has come.
	ownGroupsOnly()

	// memberAt reports whether the system says that the socket has joined
	// group on the interface of that index. Not every system does.
	memberAt(group netip.Addr, index int) bool

	// watchInterfaces returns what has a value after something has changed;
	// if it is nil or closed, somebody must look. After stop nothing is left.
	watchInterfaces() (changes <-chan struct{}, stop func(), err error)
}

// forever is for a read that waits for as long as it takes.
const forever time.Duration = -1

// plainSocket is for a socket to embed that only sends and receives: it keeps
// no peer, which the Conn then does alone, and knows neither reports nor
// groups.
type plainSocket struct{}

func (plainSocket) drain()                 {}
func (plainSocket) setInterface(int) error { return errors.ErrUnsupported }
func (plainSocket) followInterface(string) {}
func (plainSocket) setUp(lc *ListenConfig) error {
	if lc.DontFragment {
		return fmt.Errorf("DontFragment: %w", errors.ErrUnsupported)
	}
	return nil
}

func (plainSocket) ownsAddress(netip.Addr) bool                          { return true }
func (plainSocket) notice() string                                       { return "" }
func (plainSocket) setUnicastTTL(int) error                              { return errors.ErrUnsupported }
func (plainSocket) unicastTTL() (int, error)                             { return 0, errors.ErrUnsupported }
func (plainSocket) setTrafficClass(uint8) error                          { return errors.ErrUnsupported }
func (plainSocket) trafficClass() (uint8, error)                         { return 0, errors.ErrUnsupported }
func (plainSocket) pathMTU() (int, error)                                { return 0, errors.ErrUnsupported }
func (plainSocket) queued() uint64                                       { return 0 }
func (plainSocket) writeBatch(c *Conn, ds []Datagram) (n int, err error) { return c.writeEach(ds) }
func (plainSocket) connect(peer netip.AddrPort) (netip.AddrPort, error)  { return peer, nil }
func (plainSocket) disconnect() error                                    { return nil }
func (plainSocket) pending() syscall.Errno                               { return 0 }
func (plainSocket) askForReports() bool                                  { return false }
func (plainSocket) takeReports(int, func(Undelivered)) (more bool)       { return false }
func (plainSocket) join(_, _ netip.Addr, _ int) error                    { return errors.ErrUnsupported }
func (plainSocket) leave(_, _ netip.Addr, _ int) error                   { return errors.ErrUnsupported }
func (plainSocket) block(_, _ netip.Addr, _ int) error                   { return errors.ErrUnsupported }
func (plainSocket) unblock(_, _ netip.Addr, _ int) error                 { return errors.ErrUnsupported }
func (plainSocket) setMulticastTTL(int) error                            { return errors.ErrUnsupported }
func (plainSocket) multicastTTL() (int, error)                           { return 0, errors.ErrUnsupported }
func (plainSocket) setMulticastLoopback(bool) error                      { return errors.ErrUnsupported }
func (plainSocket) multicastLoopback() (bool, error)                     { return false, errors.ErrUnsupported }
func (plainSocket) setMulticastInterface(int) error                      { return errors.ErrUnsupported }
func (plainSocket) multicastInterface() (int, error)                     { return 0, errors.ErrUnsupported }
func (plainSocket) zoneIndex(netip.Addr) (int, error)                    { return 0, nil }
func (plainSocket) zoneName(int) string                                  { return "" }
func (plainSocket) interfaces() ([]net.Interface, error)                 { return nil, errors.ErrUnsupported }
func (plainSocket) hasAddress(*net.Interface, bool) bool                 { return false }
func (plainSocket) ownGroupsOnly()                                       {}
func (plainSocket) memberAt(netip.Addr, int) bool                        { return false }
func (plainSocket) watchInterfaces() (<-chan struct{}, func(), error) {
	return nil, func() {}, errors.ErrUnsupported
}

// readBuffer is the size of the buffer for one read: the largest payload that
// the length field of UDP allows, so that no system cuts a datagram itself.
const readBuffer = 1 << 16

// past is a deadline that is over, also on the clock of testing/synctest.
var past = time.Unix(1, 0)

// keep makes payload that of d, cut to limit, so that appending to it goes
// elsewhere.
func (d *Datagram) keep(payload []byte, limit int) {
	if len(payload) > limit {
		payload, d.Truncated = payload[:limit], true
	}
	d.Payload = payload[:len(payload):len(payload)]
}

// unmap returns a with an IPv4 address that is mapped into IPv6 as IPv4.
func unmap(a netip.AddrPort) netip.AddrPort {
	if a.Addr().Is4In6() {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	return a
}

// familiesOf tells what a socket that is bound to a can send to, if nobody
// knows better: a wildcard IPv6 address stands for both.
func familiesOf(a netip.Addr) (ip4, ip6 bool) {
	return a.Is4() || a == netip.IPv6Unspecified(), a.Is6()
}

// loopbackOf is the address of this host in the family of a.
func loopbackOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// addrPortOf returns a as a netip.AddrPort, if it is the address of a UDP
// socket: that of another kind may read like one.
func addrPortOf(a net.Addr) (netip.AddrPort, bool) {
	switch a := a.(type) {
	case nil:
		return netip.AddrPort{}, false
	case *net.UDPAddr:
		if a == nil {
			return netip.AddrPort{}, false
		}
		return a.AddrPort(), a.AddrPort().IsValid()
	}
	ap, err := netip.ParseAddrPort(a.String())
	return ap, err == nil && strings.HasPrefix(a.Network(), "udp")
}

// addrString is a.String() that allows nil.
func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}
