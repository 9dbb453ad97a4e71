package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/pion/turn/v5"
	"github.com/quic-go/quic-go"

	"example.com/udp"
)

// What follows runs other libraries, unchanged, on a MemNet that loses 5 %, by
// the clock of a bubble.

func lossyNet() *udp.MemNet {
	return &udp.MemNet{
		Link:  udp.Link{Latency: 10 * time.Millisecond, Jitter: 2 * time.Millisecond, Loss: 0.05, Seed: 1},
		Names: map[string][]netip.Addr{"server.example": {netip.MustParseAddr("10.0.0.1")}},
	}
}

// expectLoss fails unless the network has been as bad as it was to be.
func expectLoss(t *testing.T, mem *udp.MemNet) {
	t.Helper()
	if s := mem.Stats(); s.Lost == 0 {
		t.Errorf("nothing was lost: %+v", s)
	}
}

func listenBare(t *testing.T, l udp.PacketListener, address string) net.PacketConn {
	t.Helper()
	pc, err := l.ListenPacket(t.Context(), "udp4", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc
}

// TestMemNetQUIC sends a megabyte and gets it back, by quic-go.
func TestMemNetQUIC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		mem := lossyNet()
		server := &quic.Transport{Conn: listenBare(t, mem, "server.example:443")}
		defer server.Close()
		echoQUIC(ctx, t, server)
		client := &quic.Transport{Conn: listenBare(t, mem, "10.0.0.2:9")}
		defer client.Close()
		conn, err := client.Dial(ctx, server.Conn.LocalAddr(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"echo"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseWithError(0, "")
		stream, err := conn.OpenStreamSync(ctx)
		if err != nil {
			t.Fatal(err)
		}
		sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		go func() {
			stream.Write(sent)
			stream.Close()
		}()
		got, err := io.ReadAll(stream)
		if !bytes.Equal(got, sent) || err != nil {
			t.Errorf("%d bytes of %d come back: %v", len(got), len(sent), err)
		}
		expectLoss(t, mem)
	})
}

// TestMemNetDNS asks a server of miekg/dns by its own client, and by net's
// resolver.
func TestMemNetDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := lossyNet()
		server := &dns.Server{PacketConn: listenBare(t, mem, "server.example:53"), Handler: dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
			m := new(dns.Msg)
			m.SetReply(question)
			if q := question.Question[0]; q.Qtype == dns.TypeA {
				rr, err := dns.NewRR(q.Name + " 60 IN A 192.0.2.80")
				if err != nil {
					t.Error(err)
				}
				m.Answer = append(m.Answer, rr)
			}
			w.WriteMsg(m)
		})}
		served := make(chan error, 1)
		go func() { served <- server.ActivateAndServe() }()

		client := &dns.Client{Timeout: 500 * time.Millisecond}
		answered := 0
		for i := range 100 {
			conn, err := mem.DialContext(t.Context(), "udp", "server.example:53")
			if err != nil {
				t.Fatal(err)
			}
			m := new(dns.Msg)
			m.SetQuestion(fmt.Sprintf("host%d.example.", i), dns.TypeA)
			answer, _, err := client.ExchangeWithConn(m, &dns.Conn{Conn: conn})
			if err == nil && len(answer.Answer) == 1 {
				answered++
			} else if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
				t.Errorf("question %d: %v, %v", i, answer, err)
			}
			conn.Close()
		}
		if answered < 80 || answered == 100 {
			t.Errorf("%d of 100 questions are answered", answered)
		}
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return mem.DialContext(ctx, network, "server.example:53")
		}}
		for i := range 20 {
			addrs, err := resolver.LookupNetIP(t.Context(), "ip4", fmt.Sprintf("host%d.example.", i))
			if err != nil || len(addrs) != 1 || addrs[0].Unmap() != netip.MustParseAddr("192.0.2.80") {
				t.Errorf("net's resolver: %v, %v", addrs, err)
			}
		}
		expectLoss(t, mem)
		if err := server.Shutdown(); err != nil {
			t.Error(err)
		}
		<-served
	})
}

// A relay opens the relayed addresses of a TURN server.
type relay struct{ listener udp.PacketListener }

func (r relay) Validate() error { return nil }

func (r relay) AllocatePacketConn(turn.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	pc, err := r.listener.ListenPacket(context.Background(), "udp4", "10.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	return pc, pc.LocalAddr(), nil
}

func (r relay) AllocateListener(turn.AllocateListenerConfig) (net.Listener, net.Addr, error) {
	return nil, nil, errors.ErrUnsupported
}

func (r relay) AllocateConn(turn.AllocateConnConfig) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// TestMemNetTURN talks to a peer by a relay of pion/turn.
func TestMemNetTURN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := lossyNet()
		server, err := turn.NewServer(turn.ServerConfig{
			Realm: "example",
			AuthHandler: func(a *turn.RequestAttributes) (string, []byte, bool) {
				return a.Username, turn.GenerateAuthKey(a.Username, "example", "secret"), true
			},
			PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: listenBare(t, mem, "server.example:3478"), RelayAddressGenerator: relay{mem}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		client, err := turn.NewClient(&turn.ClientConfig{
			STUNServerAddr: "10.0.0.1:3478", TURNServerAddr: "10.0.0.1:3478",
			Conn: listenBare(t, mem, "10.0.0.2:9"), Username: "user", Password: "secret", Realm: "example",
		})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if err := client.Listen(); err != nil {
			t.Fatal(err)
		}
		relayed, err := client.Allocate()
		if err != nil {
			t.Fatal(err)
		}
		defer relayed.Close()

		lc := udp.ListenConfig{PacketListener: mem}
		peer, err := lc.Listen(t.Context(), "10.0.0.3:9", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) { c.Reply(d, d.Payload) }))
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		const count = 200
		back := 0
		buf := make([]byte, 1500)
		for i := range count {
			payload := fmt.Sprint("hello ", i)
			if _, err := relayed.WriteTo([]byte(payload), net.UDPAddrFromAddrPort(peer.LocalAddr())); err != nil {
				t.Fatal(err)
			}
			relayed.SetReadDeadline(time.Now().Add(time.Second))
			if n, _, err := relayed.ReadFrom(buf); err == nil && string(buf[:n]) == payload {
				back++
			}
		}
		if back < count/2 || back == count {
			t.Errorf("%d of %d come back by the relay", back, count)
		}
		expectLoss(t, mem)
	})
}
