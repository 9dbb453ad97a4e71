package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"example.com/udp"
)

// A sharedConn is a net.PacketConn for another library on the port of a Conn.
// A handler puts in what is the library's.
type sharedConn struct {
	c  *udp.Conn
	in chan udp.Datagram

	mu       sync.Mutex
	deadline time.Time
	changed  chan struct{} // closed when deadline changes
}

func (s *sharedConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		s.mu.Lock()
		deadline, changed := s.deadline, s.changed
		s.mu.Unlock()
		var expired <-chan time.Time
		if !deadline.IsZero() {
			timer := time.NewTimer(time.Until(deadline))
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case d := <-s.in:
			return copy(b, d.Payload), net.UDPAddrFromAddrPort(d.Addr), nil
		case <-s.c.Done():
			return 0, nil, net.ErrClosed
		case <-expired:
			return 0, nil, os.ErrDeadlineExceeded
		case <-changed:
		}
	}
}

func (s *sharedConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	return s.c.WriteTo(b, addr.(*net.UDPAddr).AddrPort())
}

func (s *sharedConn) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.deadline, s.changed = t, make(chan struct{})
	return nil
}

func (s *sharedConn) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(s.c.LocalAddr()) }
func (s *sharedConn) Close() error                     { return nil } // the Conn is not the library's
func (s *sharedConn) SetDeadline(t time.Time) error    { return s.SetReadDeadline(t) }
func (s *sharedConn) SetWriteDeadline(time.Time) error { return nil }

// TestShareWithQUIC serves QUIC and an echo on one port: the first byte tells
// them apart (RFC 9443).
func TestShareWithQUIC(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	shared := &sharedConn{in: make(chan udp.Datagram, 64), changed: make(chan struct{})}
	c, err := udp.Listen("127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		if len(d.Payload) == 0 || d.Payload[0]&0x40 == 0 {
			c.Reply(d, d.Payload)
			return
		}
		select {
		case shared.in <- d.Clone():
		default: // full: QUIC sends it again
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	shared.c = c

	transport := &quic.Transport{Conn: shared}
	defer transport.Close()
	echoQUIC(ctx, t, transport)

	plain := make(chan string, 1)
	client, err := udp.Dial(ctx, c.LocalAddr().String(), udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) { plain <- string(d.Payload) }))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	conn, err := quic.DialAddr(ctx, c.LocalAddr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"echo"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("\x01hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Write([]byte("hello over QUIC")); err != nil {
		t.Fatal(err)
	}
	stream.Close()
	answer, err := io.ReadAll(stream)
	if err != nil || string(answer) != "hello over QUIC" {
		t.Errorf("QUIC answers %q, %v", answer, err)
	}
	select {
	case got := <-plain:
		if got != "\x01hello" {
			t.Errorf("the echo answers %q", got)
		}
	case <-ctx.Done():
		t.Error("the echo does not answer")
	}
}

// echoQUIC sends back what comes on the first stream of the first connection.
func echoQUIC(ctx context.Context, t *testing.T, transport *quic.Transport) {
	t.Helper()
	listener, err := transport.Listen(&tls.Config{Certificates: []tls.Certificate{certificate(t)}, NextProtos: []string{"echo"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := listener.Accept(ctx)
		if err != nil {
			return
		}
		stream, err := conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		io.Copy(stream, stream)
		stream.Close()
	}()
}

// certificate makes one for the server, which nobody checks.
func certificate(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
