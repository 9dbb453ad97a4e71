package udp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
)

// The bodies below are to be replaced, file by file, by the real thing.

type Undelivered struct {
	Addr     netip.AddrPort
	Offender netip.Addr
	Err      error
	MTU      int
}
type PacketListener interface {
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
}
type ListenConfig struct {
	Network        string
	MaxDatagram    int
	ReadBuffer     int
	WriteBuffer    int
	ReusePort      bool
	NoOffload      bool
	PacketListener PacketListener
	Logger         *slog.Logger
	Recover        func(c *Conn, v any)
}
type Conn struct{}
type Stats struct {
	Reads, ReadDatagrams, ReadBytes    uint64
	Truncated                          uint64
	Dropped                            uint64
	Discarded                          uint64
	Undelivered                        uint64
	ReadErrors                         uint64
	Writes, WriteDatagrams, WriteBytes uint64
	WriteErrors                        uint64
	Panics                             uint64
}
type Group struct {
	Addr      netip.Addr
	Source    netip.Addr
	Interface *net.Interface
}

var errSkeleton = errors.New("not yet")

func Listen(address string, h Handler) (*Conn, error)     { return nil, errSkeleton }
func NewConn(pc net.PacketConn, h Handler) (*Conn, error) { return nil, errSkeleton }
func (lc *ListenConfig) Listen(ctx context.Context, address string, h Handler) (*Conn, error) {
	return nil, errSkeleton
}
func (lc *ListenConfig) NewConn(pc net.PacketConn, h Handler) (*Conn, error) {
	return nil, errSkeleton
}
func (c *Conn) LocalAddr() netip.AddrPort                          { return netip.AddrPort{} }
func (c *Conn) String() string                                     { return "" }
func (c *Conn) Close() error                                       { return errSkeleton }
func (c *Conn) Shutdown(ctx context.Context) error                 { return errSkeleton }
func (c *Conn) Wait() error                                        { return errSkeleton }
func (c *Conn) Stats() Stats                                       { return Stats{} }
func (c *Conn) SyscallConn() (syscall.RawConn, error)              { return nil, errSkeleton }
func (c *Conn) WriteTo(b []byte, addr netip.AddrPort) (int, error) { return 0, errSkeleton }
func (c *Conn) Reply(d Datagram, b []byte) (int, error)            { return 0, errSkeleton }
func (c *Conn) WriteBatch(ds []Datagram) (n int, err error)        { return 0, errSkeleton }
func Dial(ctx context.Context, address string, h Handler) (*Conn, error) {
	return nil, errSkeleton
}
func (lc *ListenConfig) Dial(ctx context.Context, address string, h Handler) (*Conn, error) {
	return nil, errSkeleton
}
func (c *Conn) Connect(addr netip.AddrPort) error { return errSkeleton }
func (c *Conn) Disconnect() error                 { return errSkeleton }
func (c *Conn) RemoteAddr() netip.AddrPort        { return netip.AddrPort{} }
func (c *Conn) Write(b []byte) (int, error)       { return 0, errSkeleton }
func (g Group) String() string                    { return "" }
func ListenMulticast(address string, h Handler, groups ...Group) (*Conn, error) {
	return nil, errSkeleton
}
func (lc *ListenConfig) ListenMulticast(ctx context.Context, address string, h Handler, groups ...Group) (*Conn, error) {
	return nil, errSkeleton
}
func (c *Conn) Join(g Group) error                             { return errSkeleton }
func (c *Conn) JoinAll(group netip.Addr) error                 { return errSkeleton }
func (c *Conn) Leave(g Group) error                            { return errSkeleton }
func (c *Conn) Block(g Group) error                            { return errSkeleton }
func (c *Conn) Unblock(g Group) error                          { return errSkeleton }
func (c *Conn) Groups() []Group                                { return nil }
func (c *Conn) SetMulticastTTL(ttl int) error                  { return errSkeleton }
func (c *Conn) MulticastTTL() (int, error)                     { return 0, errSkeleton }
func (c *Conn) SetMulticastLoopback(on bool) error             { return errSkeleton }
func (c *Conn) MulticastLoopback() (bool, error)               { return false, errSkeleton }
func (c *Conn) SetMulticastInterface(ifi *net.Interface) error { return errSkeleton }
func (c *Conn) MulticastInterface() (*net.Interface, error)    { return nil, errSkeleton }
func Resolve(ctx context.Context, network, address string) (netip.AddrPort, error) {
	return netip.AddrPort{}, errSkeleton
}
