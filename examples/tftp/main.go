// Command tftp serves the files of a directory by TFTP (RFC 1350), with the
// block size option (RFC 2348). It does not take any.
//
// It shows transfers with timers: each has a socket of its own, as the protocol
// wants it, sends a block, and sends it again until it is acknowledged. What a
// transfer knows belongs to its Conn's goroutine, the table of the transfers to
// the server's: nothing here needs a lock.
//
//	go run ./examples/tftp -listen 127.0.0.1:6969 -dir .
//	curl tftp://127.0.0.1:6969/README.md
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.com/udp"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:6969", "`address` to listen on; the protocol's port is 69")
	dir := flag.String("dir", ".", "`directory` to serve")
	flag.Parse()
	if err := run(*listen, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "tftp:", err)
		os.Exit(1)
	}
}

func run(listen, dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root, err := os.OpenRoot(dir) // no name leads out of it, not by a symbolic link either
	if err != nil {
		return err
	}
	defer root.Close()
	c, err := serve(ctx, new(udp.ListenConfig), listen, root.FS())
	if err != nil {
		return err
	}
	fmt.Println("listening on", c.LocalAddr())
	context.AfterFunc(ctx, func() { c.Close() })
	return c.Wait()
}

// The packets of the protocol begin with two bytes.
const (
	opRead  = 1
	opWrite = 2
	opData  = 3
	opAck   = 4
	opError = 5
	opOAck  = 6
)

// A packet is sent up to tries times, with firstPause after the first time,
// and twice as much after each.
const (
	firstPause = time.Second
	tries      = 5
)

// maxTransfers is how many there are at most: a socket and a file each.
const maxTransfers = 1000

type server struct {
	config    *udp.ListenConfig
	files     fs.FS
	transfers map[netip.AddrPort]*transfer // by their clients
}

var _ udp.StopHandler = (*server)(nil)

// serve serves files. The ListenConfig is for tests to bring a network.
func serve(ctx context.Context, lc *udp.ListenConfig, address string, files fs.FS) (*udp.Conn, error) {
	return lc.Listen(ctx, address, &server{lc, files, make(map[netip.AddrPort]*transfer)})
}

// HandleDatagram takes a request. As a client has a port for each transfer, a
// second one is the first again, which was answered too late.
func (s *server) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	if s.transfers[d.Addr] != nil || len(s.transfers) == maxTransfers {
		return
	}
	name, options, err := parseRequest(d.Payload)
	if err != nil {
		c.Reply(d, errorPacket(err))
		return
	}
	t := &transfer{server: s, main: c, client: d.Addr, name: name, size: 512}
	if n, err := strconv.Atoi(options["blksize"]); err == nil && n >= 8 && n <= 65464 {
		t.size = n
	}
	local := d.Local // the answers come from the address that was asked
	if !local.IsValid() {
		local = c.LocalAddr().Addr()
	}
	if _, err := s.config.Listen(context.Background(), netip.AddrPortFrom(local, 0).String(), t); err == nil {
		s.transfers[d.Addr] = t
	}
}

// HandleStop ends the transfers. Their own HandleStop has nobody to tell then.
func (s *server) HandleStop(*udp.Conn, error) {
	for _, t := range s.transfers {
		t.conn.Close()
		t.conn.Wait()
	}
}

// A transfer sends one file. All of it happens in the goroutine of its Conn.
type transfer struct {
	server *server
	main   *udp.Conn // the server's
	conn   *udp.Conn // its own
	client netip.AddrPort
	name   string
	size   int // of a block; of all but the last

	file   fs.File
	packet []byte // to be acknowledged
	block  uint16 // its number; it wraps in long files
	last   bool
	tries  int
	timer  *udp.Timer
}

var (
	_ udp.StartHandler = (*transfer)(nil)
	_ udp.StopHandler  = (*transfer)(nil)
)

// HandleStart sends the first packet. Once connected, it hears nobody but the
// client.
func (t *transfer) HandleStart(c *udp.Conn) error {
	if err := c.Connect(t.client); err != nil {
		return err
	}
	t.conn = c
	var err error
	if t.file, err = t.server.files.Open(t.name); err != nil {
		t.fail(err)
		return nil
	}
	if info, err := t.file.Stat(); err != nil || !info.Mode().IsRegular() {
		t.fail(fs.ErrNotExist)
		return nil
	}
	if t.size == 512 {
		t.next()
		return nil
	}
	t.send(fmt.Appendf(nil, "\x00%cblksize\x00%d\x00", opOAck, t.size)) // block 0, to be acknowledged like one
	return nil
}

// HandleDatagram goes on when the packet has been acknowledged. An
// acknowledgement that comes twice must not have the next block sent twice:
// that would double all that follows (RFC 1123, section 4.2.3.1).
func (t *transfer) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	if len(d.Payload) < 4 {
		return
	}
	switch op, number := binary.BigEndian.Uint16(d.Payload), binary.BigEndian.Uint16(d.Payload[2:]); {
	case op == opError:
		c.Close()
	case op == opAck && number == t.block && t.last:
		c.Close()
	case op == opAck && number == t.block:
		t.next()
	}
}

// next sends the next block. One that is shorter than others is the last.
func (t *transfer) next() {
	t.block++
	packet := make([]byte, 4+t.size)
	n, err := io.ReadFull(t.file, packet[4:])
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		t.fail(err)
		return
	}
	t.last = n < t.size
	binary.BigEndian.PutUint16(packet, opData)
	binary.BigEndian.PutUint16(packet[2:], t.block)
	t.send(packet[:4+n])
}

func (t *transfer) send(packet []byte) {
	if t.timer != nil {
		t.timer.Stop()
	}
	t.packet, t.tries = packet, 0
	t.try()
}

// try sends the packet, and again if nothing comes.
func (t *transfer) try() {
	if t.tries == tries {
		t.conn.Close()
		return
	}
	t.conn.Write(t.packet) // an error is like a loss
	t.timer = t.conn.AfterFunc(firstPause<<t.tries, t.try)
	t.tries++
}

// fail tells the client once, as nobody acknowledges an error.
func (t *transfer) fail(err error) {
	t.conn.Write(errorPacket(err))
	t.conn.Close()
}

// HandleStop takes the transfer out of the table, in the server's goroutine.
func (t *transfer) HandleStop(*udp.Conn, error) {
	if t.file != nil {
		t.file.Close()
	}
	t.main.Post(func() { delete(t.server.transfers, t.client) })
}

// parseRequest returns the name and the options of a read request: texts that
// end with a zero byte each.
func parseRequest(packet []byte) (name string, options map[string]string, err error) {
	if len(packet) < 2 || packet[len(packet)-1] != 0 {
		return "", nil, errors.New("no request")
	}
	texts := strings.Split(string(bytes.TrimSuffix(packet[2:], []byte{0})), "\x00")
	switch op := binary.BigEndian.Uint16(packet); {
	case op == opWrite:
		return "", nil, fs.ErrPermission
	case op != opRead || len(texts) < 2:
		return "", nil, errors.New("no request")
	case !strings.EqualFold(texts[1], "octet"):
		return "", nil, errors.New("only octet mode is served")
	}
	options = make(map[string]string)
	for i := 2; i+1 < len(texts); i += 2 {
		options[strings.ToLower(texts[i])] = texts[i+1]
	}
	return strings.TrimLeft(texts[0], "/"), options, nil
}

// errorPacket says what went wrong, and nothing of where the files are.
func errorPacket(err error) []byte {
	code, text := byte(0), err.Error()
	switch {
	case errors.Is(err, fs.ErrPermission):
		code, text = 2, "access violation"
	case errors.As(err, new(*fs.PathError)), errors.Is(err, fs.ErrNotExist):
		code, text = 1, "file not found"
	}
	return append([]byte{0, opError, 0, code}, text+"\x00"...)
}
