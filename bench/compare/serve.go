package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"

	"golang.org/x/net/ipv4"

	"example.com/udp"
)

const (
	batch       = 64      // datagrams that a peer hands over in one call, at most
	size        = 1200    // bytes of payload where the row is about bulk
	bufferSize  = 4 << 20 // of every socket, each way
	idleSockets = 1000
)

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// A server is one peer's part, as a process of its own. All peers, whatever
// their language, speak the same protocol with the program that starts them:
// the arguments are the kind, the role and the port to send to; the server
// prints the port it listens on; it answers each line on its standard input
// with the number of datagrams handled and of objects allocated so far, and
// the end of its input ends it.
type server struct {
	kind  string
	to    netip.AddrPort
	count atomic.Uint64
}

// serve runs the Go peers.
func serve(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: compare serve KIND ROLE PORT")
	}
	port, err := strconv.ParseUint(args[2], 10, 16)
	if err != nil {
		return err
	}
	s := &server{kind: args[0], to: netip.AddrPortFrom(loopback, uint16(port))}
	start := map[string]func() (netip.AddrPort, error){
		"net echo":       s.netServer(s.netEcho),
		"net recv":       s.netServer(s.netReceive),
		"net send":       s.netServer(s.netSend),
		"net write":      s.netWrite,
		"net idle":       s.netIdle,
		"xnet echo":      s.netServer(s.xnetEcho),
		"xnet recv":      s.netServer(s.xnetReceive),
		"xnet send":      s.netServer(s.xnetSend),
		"simple echo":    s.udpServer(udp.HandlerFunc(s.echo)),
		"simple recv":    s.udpServer(udp.HandlerFunc(s.receive)),
		"queue echo":     s.udpServer(udp.HandlerFunc(s.echoQueue)),
		"batch echo":     s.udpServer(batchHandler(s.echoBatch)),
		"batch recv":     s.udpServer(batchHandler(s.receiveBatch)),
		"batch send":     s.udpSend,
		"nooffload recv": s.udpServer(batchHandler(s.receiveBatch)),
		"nooffload send": s.udpSend,
		"simple write":   s.udpWrite,
		"simple idle":    s.udpIdle,
		"simple open":    s.opener(s.udpOpen),
		"simple dial":    s.opener(s.udpDial),
		"net open":       s.opener(s.netOpen),
		"net dial":       s.opener(s.netDial),
	}[args[0]+" "+args[1]]
	if start == nil {
		return fmt.Errorf("no peer %q for %q", args[0], args[1])
	}
	addr, err := start()
	if err != nil {
		return err
	}
	fmt.Println(addr.Port())
	return s.control()
}

func (s *server) control() error {
	var m runtime.MemStats
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		runtime.ReadMemStats(&m)
		fmt.Println(s.count.Load(), m.Mallocs)
	}
	return in.Err()
}

// The peers that use package net, and golang.org/x/net with batches.

func netListen() (*net.UDPConn, error) {
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		return nil, err
	}
	return c, errors.Join(c.SetReadBuffer(bufferSize), c.SetWriteBuffer(bufferSize))
}

func (s *server) netServer(loop func(*net.UDPConn) error) func() (netip.AddrPort, error) {
	return func() (netip.AddrPort, error) {
		c, err := netListen()
		if err != nil {
			return netip.AddrPort{}, err
		}
		go mustRun(func() error { return loop(c) })
		return c.LocalAddr().(*net.UDPAddr).AddrPort(), nil
	}
}

func (s *server) netEcho(c *net.UDPConn) error {
	b := make([]byte, 65535)
	for {
		n, addr, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return err
		}
		c.WriteToUDPAddrPort(b[:n], addr)
	}
}

func (s *server) netReceive(c *net.UDPConn) error {
	b := make([]byte, 65535)
	for {
		n, _, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return err
		}
		s.take(b[:n])
	}
}

func (s *server) netSend(c *net.UDPConn) error {
	bs := payloads()
	for {
		for _, b := range bs {
			if _, err := c.WriteToUDPAddrPort(b, s.to); err != nil {
				return err
			}
			s.add(1)
		}
	}
}

func (s *server) netWrite() (netip.AddrPort, error) {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(s.to))
	if err != nil {
		return netip.AddrPort{}, err
	}
	go mustRun(func() error { return s.write(c.Write) })
	return c.LocalAddr().(*net.UDPAddr).AddrPort(), c.SetWriteBuffer(bufferSize)
}

func messages(room int) []ipv4.Message {
	ms := make([]ipv4.Message, batch)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, room)}
	}
	return ms
}

func (s *server) xnetEcho(c *net.UDPConn) error {
	pc, ms := ipv4.NewPacketConn(c), messages(2048)
	for {
		n, err := pc.ReadBatch(ms, 0)
		if err != nil {
			return err
		}
		for i := range ms[:n] {
			ms[i].Buffers[0] = ms[i].Buffers[0][:ms[i].N]
		}
		for out := ms[:n]; len(out) > 0; {
			k, err := pc.WriteBatch(out, 0)
			if err != nil {
				k = 1
			}
			out = out[k:]
		}
		for i := range ms[:n] {
			ms[i].Buffers[0] = ms[i].Buffers[0][:2048]
		}
	}
}

func (s *server) xnetReceive(c *net.UDPConn) error {
	pc, ms := ipv4.NewPacketConn(c), messages(2048)
	for {
		n, err := pc.ReadBatch(ms, 0)
		if err != nil {
			return err
		}
		for _, m := range ms[:n] {
			s.take(m.Buffers[0][:m.N])
		}
	}
}

func (s *server) xnetSend(c *net.UDPConn) error {
	pc, ms, addr := ipv4.NewPacketConn(c), messages(size), net.UDPAddrFromAddrPort(s.to)
	for i, b := range payloads() {
		ms[i].Buffers[0], ms[i].Addr = b, addr
	}
	for {
		for out := ms; len(out) > 0; {
			k, err := pc.WriteBatch(out, 0)
			if err != nil {
				return err
			}
			s.add(k)
			out = out[k:]
		}
	}
}

// The peers that use package udp.

type batchHandler func(c *udp.Conn, ds []udp.Datagram)

func (h batchHandler) HandleDatagram(c *udp.Conn, d udp.Datagram) {}
func (h batchHandler) HandleBatch(c *udp.Conn, ds []udp.Datagram) { h(c, ds) }

func (s *server) config() *udp.ListenConfig {
	return &udp.ListenConfig{
		Network:     "udp4",
		ReadBuffer:  bufferSize,
		WriteBuffer: bufferSize,
		NoOffload:   s.kind == "nooffload",
	}
}

func (s *server) udpServer(h udp.Handler) func() (netip.AddrPort, error) {
	return func() (netip.AddrPort, error) {
		c, err := s.config().Listen(context.Background(), "127.0.0.1:0", h)
		if err != nil {
			return netip.AddrPort{}, err
		}
		return c.LocalAddr(), nil
	}
}

func (s *server) echo(c *udp.Conn, d udp.Datagram)         { c.Reply(d, d.Payload) }
func (s *server) echoQueue(c *udp.Conn, d udp.Datagram)    { c.Queue(d) }
func (s *server) echoBatch(c *udp.Conn, ds []udp.Datagram) { c.WriteBatch(ds) }
func (s *server) receive(c *udp.Conn, d udp.Datagram)      { s.take(d.Payload) }
func (s *server) receiveBatch(_ *udp.Conn, ds []udp.Datagram) {
	n := 0
	for i := range ds {
		n += good(ds[i].Payload)
	}
	s.add(n)
}

func (s *server) udpSend() (netip.AddrPort, error) {
	c, err := s.config().Listen(context.Background(), "127.0.0.1:0", nil)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ds := make([]udp.Datagram, batch)
	for i, b := range payloads() {
		ds[i] = udp.Datagram{Payload: b, Addr: s.to}
	}
	go mustRun(func() error {
		for {
			n, err := c.WriteBatch(ds)
			if err != nil {
				return err
			}
			s.add(n)
		}
	})
	return c.LocalAddr(), nil
}

func (s *server) udpWrite() (netip.AddrPort, error) {
	c, err := s.config().Dial(context.Background(), s.to.String(), nil)
	if err != nil {
		return netip.AddrPort{}, err
	}
	go mustRun(func() error { return s.write(c.Write) })
	return c.LocalAddr(), nil
}

// What the peers share.

func (s *server) add(n int) { s.count.Store(s.count.Load() + uint64(n)) }

func (s *server) take(payload []byte) { s.add(good(payload)) }

// good is what a receiver does with a datagram: one of the wrong length, cut
// in the wrong place, does not count.
func good(payload []byte) int {
	if len(payload) != size {
		return 0
	}
	return 1
}

func (s *server) write(write func([]byte) (int, error)) error {
	b := payloads()[0]
	for {
		if _, err := write(b); err != nil {
			return err
		}
		s.add(1)
	}
}

// payloads returns a batch to send, each filled with a byte of its own,
// adjacent in memory.
func payloads() [][]byte {
	all, bs := make([]byte, batch*size), make([][]byte, batch)
	for i := range bs {
		bs[i] = all[i*size : (i+1)*size : (i+1)*size]
		for j := range bs[i] {
			bs[i][j] = byte(i)
		}
	}
	return bs
}

func mustRun(loop func() error) {
	fmt.Fprintln(os.Stderr, loop())
	os.Exit(1)
}

// Opening and closing: the count is of sockets that were open with a goroutine
// that reads from them, which has ended.

func (s *server) opener(once func() error) func() (netip.AddrPort, error) {
	return func() (netip.AddrPort, error) {
		c, err := netListen() // for Dial to connect to, and for a port to print
		if err != nil {
			return netip.AddrPort{}, err
		}
		s.to = c.LocalAddr().(*net.UDPAddr).AddrPort()
		go mustRun(func() error {
			for {
				if err := once(); err != nil {
					return err
				}
				s.add(1)
			}
		})
		return s.to, nil
	}
}

func (s *server) udpOpen() error {
	c, err := udp.Listen("127.0.0.1:0", nil)
	if err != nil {
		return err
	}
	return errors.Join(c.Close(), c.Wait())
}

func (s *server) udpDial() error {
	c, err := udp.Dial(context.Background(), s.to.String(), nil)
	if err != nil {
		return err
	}
	return errors.Join(c.Close(), c.Wait())
}

func (s *server) netOpen() error {
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		return err
	}
	return readAndClose(c)
}

func (s *server) netDial() error {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(s.to))
	if err != nil {
		return err
	}
	return readAndClose(c)
}

func readAndClose(c *net.UDPConn) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var b [1]byte
		c.ReadFromUDPAddrPort(b[:])
	}()
	err := c.Close()
	<-ended
	return err
}

// Idle sockets: the count that these servers report is bytes of Go memory for
// each socket that has had one datagram and waits for the next.

func (s *server) udpIdle() (netip.AddrPort, error) {
	took := make(chan struct{})
	h := udp.HandlerFunc(func(*udp.Conn, udp.Datagram) { took <- struct{}{} })
	return s.idle(took, func() (netip.AddrPort, error) {
		c, err := udp.Listen("127.0.0.1:0", h)
		if err != nil {
			return netip.AddrPort{}, err
		}
		return c.LocalAddr(), nil
	})
}

func (s *server) netIdle() (netip.AddrPort, error) {
	took := make(chan struct{})
	return s.idle(took, func() (netip.AddrPort, error) {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
		if err != nil {
			return netip.AddrPort{}, err
		}
		go func() {
			b := make([]byte, 65535)
			for {
				c.ReadFromUDPAddrPort(b)
				took <- struct{}{}
			}
		}()
		return c.LocalAddr().(*net.UDPAddr).AddrPort(), nil
	})
}

// idle opens the sockets with listen, whose readers tell took.
func (s *server) idle(took <-chan struct{}, listen func() (netip.AddrPort, error)) (addr netip.AddrPort, err error) {
	poke, err := netListen()
	if err != nil {
		return addr, err
	}
	before := goMemory()
	for range idleSockets {
		if addr, err = listen(); err != nil {
			return addr, err
		}
		if _, err := poke.WriteToUDPAddrPort([]byte("x"), addr); err != nil {
			return addr, err
		}
		<-took
	}
	s.count.Store((goMemory() - before) / idleSockets)
	return addr, nil
}

// goMemory is what the heap and the stacks hold, in bytes. It collects twice,
// as a sync.Pool keeps its contents over one collection.
func goMemory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
