package udp_test

import (
	"bytes"
	"context"
	"expvar"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/netip"
	"strings"

	"example.com/udp"
)

// A name becomes an address before anything is sent, for as long as the
// context allows. An address is taken as it is.
func ExampleResolve() {
	for _, address := range []string{"192.0.2.7:53", "[2001:db8::1]:domain", "localhost:123"} {
		addr, err := udp.Resolve(context.Background(), "udp", address)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(addr)
	}
	// Output:
	// 192.0.2.7:53
	// [2001:db8::1]:53
	// 127.0.0.1:123
}

// The counters of a Conn are published by package expvar, in one line, and for
// Prometheus in its text format.
func ExampleConn_Stats() {
	c, err := udp.Listen("127.0.0.1:0", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	if expvar.Get("udp") == nil { // a name can be published once
		expvar.Publish("udp", expvar.Func(func() any { return c.Stats() }))
	}

	metrics := func(w io.Writer) {
		s := c.Stats()
		for _, m := range []struct {
			name  string
			value uint64
		}{
			{"udp_received_datagrams_total", s.ReadDatagrams},
			{"udp_received_bytes_total", s.ReadBytes},
			{"udp_receive_calls_total", s.Reads},
			{"udp_dropped_datagrams_total", s.Dropped},
			{"udp_sent_datagrams_total", s.WriteDatagrams},
			{"udp_sent_bytes_total", s.WriteBytes},
			{"udp_send_errors_total", s.WriteErrors},
		} {
			fmt.Fprintf(w, "# TYPE %s counter\n%s{conn=%q} %d\n", m.name, m.name, c.LocalAddr(), m.value)
		}
	}

	if _, err := c.WriteTo([]byte("hello"), netip.MustParseAddrPort("127.0.0.1:9")); err != nil {
		log.Fatal(err)
	}
	var page bytes.Buffer
	metrics(&page)
	fmt.Println("expvar:", strings.Contains(expvar.Get("udp").String(), `"WriteDatagrams":1`))
	fmt.Println("prometheus:", strings.Contains(page.String(), fmt.Sprintf("udp_sent_bytes_total{conn=%q} 5\n", c.LocalAddr())))
	// Output:
	// expvar: true
	// prometheus: true
}

// The Logger is told when a Conn starts and stops, what it survives, and which
// settings the system changed.
func ExampleListenConfig_logger() {
	var text bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.MessageKey || a.Key == slog.LevelKey {
				return a
			}
			return slog.Attr{} // times and ports differ from run to run
		},
	}))
	lc := udp.ListenConfig{Logger: logger}
	c, err := lc.Listen(context.Background(), "127.0.0.1:0", nil)
	if err != nil {
		log.Fatal(err)
	}
	c.Close()
	c.Wait()
	fmt.Print(&text)
	// Output:
	// level=INFO msg="udp: listening"
	// level=INFO msg="udp: closed"
}

// counter is a handler that is ready when its Conn is: HandleStart runs before
// the first datagram, and what it returns is what Listen returns.
type counter struct{ counts map[netip.AddrPort]int }

var _ udp.StartHandler = (*counter)(nil)

func (h *counter) HandleStart(c *udp.Conn) error {
	if !c.LocalAddr().Addr().IsLoopback() {
		return fmt.Errorf("%v is not for the network", c.LocalAddr())
	}
	h.counts = make(map[netip.AddrPort]int)
	return nil
}

func (h *counter) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	h.counts[d.Addr]++ // no lock: one goroutine makes all calls
	c.Reply(d, fmt.Append(nil, h.counts[d.Addr]))
}

func ExampleStartHandler() {
	if _, err := udp.Listen("0.0.0.0:0", new(counter)); err != nil {
		fmt.Println("refused")
	}
	server, err := udp.Listen("127.0.0.1:0", new(counter))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	answers := make(chan string)
	client, err := udp.Dial(context.Background(), server.LocalAddr().String(), udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		answers <- string(d.Payload)
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for range 2 {
		if _, err := client.Write(nil); err != nil {
			log.Fatal(err)
		}
		fmt.Println(<-answers)
	}
	// Output:
	// refused
	// 1
	// 2
}
