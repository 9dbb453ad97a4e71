package udp_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// A fullConn is what *net.UDPConn and a MemNet's socket have in common.
type fullConn interface {
	net.Conn
	net.PacketConn
	ReadFromUDP(b []byte) (int, *net.UDPAddr, error)
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error)
	ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error)
	WriteToUDP(b []byte, addr *net.UDPAddr) (int, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
	WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error)
	WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error)
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
}

var _ fullConn = (*net.UDPConn)(nil)

// A contextDialer is a net.Dialer or a MemNet.
type contextDialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// TestPacketConnMethods calls all methods of a socket that is not connected and
// of one that is, of package net and of a MemNet.
func TestPacketConnMethods(t *testing.T) {
	mem := new(udp.MemNet)
	for _, network := range []struct {
		name     string
		listener udp.PacketListener
		dialer   contextDialer
	}{
		{"net", new(net.ListenConfig), new(net.Dialer)},
		{"MemNet", mem, mem},
		{"Host", mem.Host(host1), nil},
	} {
		t.Run(network.name, func(t *testing.T) {
			if network.dialer == nil { // 127.0.0.1 is each host's own
				network.dialer = network.listener.(contextDialer)
			}
			testMethods(t, network.listener, network.dialer)
		})
	}
}

func testMethods(t *testing.T, listener udp.PacketListener, d contextDialer) {
	pc, err := listener.ListenPacket(t.Context(), "udp4", "127.0.0.1:0")
	check(t, err)
	defer pc.Close()
	nc, err := d.DialContext(t.Context(), "udp", pc.LocalAddr().String())
	check(t, err)
	defer nc.Close()
	server, client := pc.(fullConn), nc.(fullConn)
	if server.RemoteAddr() != nil || !sameAddr(client.RemoteAddr(), server.LocalAddr()) {
		t.Errorf("RemoteAddr is %v and %v", server.RemoteAddr(), client.RemoteAddr())
	}
	check(t, server.SetReadBuffer(1<<20))
	check(t, server.SetWriteBuffer(1<<20))
	check(t, server.SetReadDeadline(time.Now().Add(failSafe)))
	check(t, client.SetReadDeadline(time.Now().Add(failSafe)))

	buf := make([]byte, 100)
	to := client.LocalAddr().(*net.UDPAddr)
	for range 5 {
		check(t, second(client.Write([]byte("hello"))))
	}
	_, _, err = client.WriteMsgUDP([]byte("hello"), nil, nil)
	check(t, err)
	expect := func(n int, from net.Addr, err error) {
		t.Helper()
		if err != nil || string(buf[:n]) != "hello" || !sameAddr(from, to) {
			t.Errorf("read %q from %v, %v; want it from %v", buf[:n], from, err, to)
		}
	}
	n, from, err := server.ReadFrom(buf)
	expect(n, from, err)
	n, from2, err := server.ReadFromUDP(buf)
	expect(n, from2, err)
	n, from3, err := server.ReadFromUDPAddrPort(buf)
	expect(n, net.UDPAddrFromAddrPort(from3), err)
	n, _, _, from2, err = server.ReadMsgUDP(buf, nil)
	expect(n, from2, err)
	n, _, _, from3, err = server.ReadMsgUDPAddrPort(buf, nil)
	expect(n, net.UDPAddrFromAddrPort(from3), err)
	n, err = server.Read(buf)
	expect(n, to, err)

	check(t, second(server.WriteTo([]byte("1"), to)))
	check(t, second(server.WriteToUDP([]byte("2"), to)))
	check(t, second(server.WriteToUDPAddrPort([]byte("3"), to.AddrPort())))
	_, _, err = server.WriteMsgUDP([]byte("4"), nil, to)
	check(t, err)
	_, _, err = server.WriteMsgUDPAddrPort([]byte("5"), nil, to.AddrPort())
	check(t, err)
	for _, want := range []string{"1", "2", "3", "4", "5"} {
		if n, err := client.Read(buf); string(buf[:n]) != want || err != nil {
			t.Errorf("read %q, %v; want %q", buf[:n], err, want)
		}
	}

	isError(t, second(client.WriteTo(nil, server.LocalAddr())), net.ErrWriteToConnected)
	_, _, err = client.WriteMsgUDP(nil, nil, server.LocalAddr().(*net.UDPAddr))
	isError(t, err, net.ErrWriteToConnected)
	if _, err := server.Write(nil); err == nil {
		t.Error("Write works without a peer")
	}
	check(t, server.Close())
	client.Write([]byte("refused"))
	_, err = client.Read(buf)
	isError(t, err, syscall.ECONNREFUSED)
	checkOp(t, err, "read")
	check(t, client.SetDeadline(time.Unix(1, 0)))
	_, err = client.Read(buf)
	isError(t, err, os.ErrDeadlineExceeded)
	isError(t, second(client.Write(nil)), os.ErrDeadlineExceeded)
	check(t, client.Close())
	isError(t, second(client.Read(buf)), net.ErrClosed)
	isError(t, second(client.Write(buf)), net.ErrClosed)
}

func checkOp(t *testing.T, err error, op string) {
	t.Helper()
	if e, ok := errors.AsType[*net.OpError](err); !ok || e.Op != op {
		t.Errorf("the error is %#v", err)
	}
}

// TestMemNetDialContext dials by names, and what cannot be dialled.
func TestMemNetDialContext(t *testing.T) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		mem.Names = map[string][]netip.Addr{"server": addrs("2001:db8::1", "10.0.0.1")}
		for network, want := range map[string]string{"udp": "10.0.0.1:7", "udp4": "10.0.0.1:7", "udp6": "[2001:db8::1]:7"} {
			c, err := mem.DialContext(t.Context(), network, "server:7")
			check(t, err)
			if c.RemoteAddr().String() != want {
				t.Errorf("%s: connected to %v, want %s", network, c.RemoteAddr(), want)
			}
			// What others send does not arrive.
			p := n.peerAt(t, netip.AddrPortFrom(host2, 0))
			if network == "udp4" {
				p.send(t, addrPort(c.LocalAddr()), "x")
				check(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
				_, err = c.Read(make([]byte, 10))
				isError(t, err, os.ErrDeadlineExceeded)
			}
			check(t, c.Close())
			check(t, p.Close())
		}
		for _, test := range []struct{ network, address string }{
			{"tcp", "server:7"}, {"", "server:7"}, {"udp", "unknown:7"}, {"udp", "server"}, {"udp6", "10.0.0.1:7"},
		} {
			c, err := mem.DialContext(t.Context(), test.network, test.address)
			if c != nil || err == nil {
				t.Errorf("%s %s: %v, %v", test.network, test.address, c, err)
			}
			checkOp(t, err, "dial")
		}
		only4 := mem.Host(host1).(contextDialer)
		_, err := only4.DialContext(t.Context(), "udp6", "server:7")
		isError(t, err, syscall.ENETUNREACH)
		synctest.Wait()
	})
}
