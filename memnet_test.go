package udp_test

import (
	"net/netip"
	"testing"

	"example.com/udp"
)

// BenchmarkMemNet has a server echo, to a client that sends the next datagram
// when the last has come back: on a MemNet and over the loopback interface.
func BenchmarkMemNet(b *testing.B) {
	for _, network := range []struct {
		name   string
		config udp.ListenConfig
	}{
		{"memory", udp.ListenConfig{PacketListener: new(udp.MemNet)}},
		{"loopback", udp.ListenConfig{}},
	} {
		b.Run(network.name, func(b *testing.B) {
			lc := network.config
			server, err := lc.Listen(b.Context(), "127.0.0.1:0", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
				c.Reply(d, d.Payload)
			}))
			if err != nil {
				b.Fatal(err)
			}
			defer server.Close()
			back := make(chan netip.AddrPort)
			client, err := lc.Dial(b.Context(), server.LocalAddr().String(), udp.HandlerFunc(func(_ *udp.Conn, d udp.Datagram) {
				back <- d.Addr
			}))
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			payload := make([]byte, 1200)
			b.SetBytes(int64(2 * len(payload)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Write(payload); err != nil {
					b.Fatal(err)
				}
				<-back
			}
		})
	}
}
