package udp_test

import (
	"errors"
	"net"
	"testing"
	"time"

	"example.com/udp"
)

// TestNewConnOldDeadline takes over a socket whose read deadline has passed.
func TestNewConnOldDeadline(t *testing.T) {
	n := setup{host: loopback4}
	old := n.peer(t)
	check(t, old.SetDeadline(time.Unix(1, 0)))
	r := record()
	c, err := udp.NewConn(old.PacketConn, r)
	check(t, err)
	closeAtEnd(t, c)
	p := n.peer(t)
	p.send(t, old.addr, "hello")
	r.expect(t, "hello", p.addr)
}

// TestNewConnOwnerCloses has who opened a connected socket close it.
func TestNewConnOwnerCloses(t *testing.T) {
	nc, err := net.Dial("udp", setup{host: loopback4}.peer(t).addr.String())
	check(t, err)
	c, err := udp.NewConn(nc.(*net.UDPConn), nil)
	check(t, err)
	closeAtEnd(t, c)
	check(t, nc.Close())
	if err := wait(t, async(c.Wait)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Wait returns %v", err)
	}
}

// TestNewConnUnixNamedLikeAddress refuses a socket whose address only reads
// like one of UDP.
func TestNewConnUnixNamedLikeAddress(t *testing.T) {
	t.Chdir(t.TempDir())
	pc, err := net.ListenPacket("unixgram", "127.0.0.1:9")
	if err != nil {
		t.Skipf("%v: try a system with Unix datagram sockets", err)
	}
	defer pc.Close()
	if c, err := udp.NewConn(pc, startMustNotRun(t)); err == nil {
		t.Errorf("it is %v", c)
	}
}
