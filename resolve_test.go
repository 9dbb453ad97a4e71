package udp_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"example.com/udp"
	"golang.org/x/net/dns/dnsmessage"
)

func TestResolve(t *testing.T) {
	useResolver(t, map[string][]string{
		"both.test.": {"2001:db8::9", "192.0.2.9"},
		"four.test.": {"192.0.2.4"},
		"six.test.":  {"2001:db8::6"},
	})
	for _, test := range []struct{ network, address, want string }{
		{"udp", "both.test:53", "192.0.2.9:53"},
		{"", "both.test:53", "192.0.2.9:53"},
		{"udp4", "both.test:53", "192.0.2.9:53"},
		{"udp6", "both.test:53", "[2001:db8::9]:53"},
		{"udp", "four.test:53", "192.0.2.4:53"},
		{"udp", "six.test:53", "[2001:db8::6]:53"},
		{"udp", "four.test:domain", "192.0.2.4:53"},
	} {
		got, err := udp.Resolve(t.Context(), test.network, test.address)
		if err != nil || got.String() != test.want {
			t.Errorf("Resolve(%q, %q) is %v, %v, want %s", test.network, test.address, got, err, test.want)
		}
	}
}

// TestResolveLiteral resolves addresses: no server is asked.
func TestResolveLiteral(t *testing.T) {
	useResolverFunc(t, func(context.Context, string, string) (net.Conn, error) {
		t.Error("a name server is asked")
		return nil, errors.New("none")
	})
	for _, test := range []struct{ network, address, want string }{
		{"udp", "192.0.2.1:53", "192.0.2.1:53"},
		{"udp4", "192.0.2.1:0", "192.0.2.1:0"},
		{"", "[2001:db8::1]:65535", "[2001:db8::1]:65535"},
		{"udp6", "[::1]:domain", "[::1]:53"},
		{"udp", "192.0.2.1:domain", "192.0.2.1:53"},
		{"udp", "[::ffff:192.0.2.1]:53", "192.0.2.1:53"},
		{"udp", "[fe80::1%" + loopback().Name + "]:53", "[fe80::1%" + loopback().Name + "]:53"},
	} {
		got, err := udp.Resolve(t.Context(), test.network, test.address)
		if err != nil || got.String() != test.want {
			t.Errorf("Resolve(%q, %q) is %v, %v, want %s", test.network, test.address, got, err, test.want)
		}
	}
}

func TestResolveFails(t *testing.T) {
	useResolver(t, map[string][]string{
		"four.test.": {"192.0.2.4"},
		"six.test.":  {"2001:db8::6"},
	})
	for _, test := range []struct{ network, address string }{
		{"udp", ""},
		{"udp", "192.0.2.1"},
		{"udp", "192.0.2.1:70000"},
		{"udp", "192.0.2.1:-1"},
		{"udp", "192.0.2.1:no-such-service"},
		{"udp", "[2001:db8::1:53"},
		{"udp", "name.invalid:53"},
		{"udp4", "six.test:53"},
		{"udp6", "four.test:53"},
		{"udp4", "[::1]:53"},
		{"udp6", "192.0.2.1:53"},
		{"tcp", "192.0.2.1:53"},
		{"udp5", "192.0.2.1:53"},
	} {
		got, err := udp.Resolve(t.Context(), test.network, test.address)
		if err == nil || got.IsValid() {
			t.Errorf("Resolve(%q, %q) is %v, %v", test.network, test.address, got, err)
			continue
		}
		checkOpError(t, err)
	}

	_, err := udp.Resolve(t.Context(), "udp", "name.invalid:53")
	var dns *net.DNSError
	if !errors.As(err, &dns) || !dns.IsNotFound || !strings.HasPrefix(dns.Name, "name.invalid") {
		t.Errorf("the cause is lost: %v", err)
	}
}

// TestResolveContext has a name server that never answers.
func TestResolveContext(t *testing.T) {
	asked := make(chan struct{}, 100)
	useResolverFunc(t, func(ctx context.Context, _, _ string) (net.Conn, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	for _, test := range []struct {
		name string
		ctx  func() (context.Context, context.CancelFunc)
		want error
	}{
		{"cancel", func() (context.Context, context.CancelFunc) { return context.WithCancel(t.Context()) }, context.Canceled},
		{"deadline", func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 20*time.Millisecond)
		}, context.DeadlineExceeded},
	} {
		ctx, cancel := test.ctx()
		done := async(func() error { return second(udp.Resolve(ctx, "udp", "silent.test:53")) })
		wait(t, asked)
		if test.want == context.Canceled {
			cancel()
		}
		err := wait(t, done)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
		checkOpError(t, err)
		cancel()
	}
}

// useResolver makes a name server of a table of full names, for the test.
func useResolver(t *testing.T, names map[string][]string) {
	useResolverFunc(t, func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go serveDNS(server, names)
		return client, nil
	})
}

// useResolverFunc makes dial the way to all name servers, for the test.
func useResolverFunc(t *testing.T, dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	old := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: dial}
	t.Cleanup(func() { net.DefaultResolver = old })
}

// serveDNS answers the queries of one stream (RFC 1035, section 4.2.2) until
// its other end is closed.
func serveDNS(stream net.Conn, names map[string][]string) {
	defer stream.Close()
	for {
		var size uint16
		if binary.Read(stream, binary.BigEndian, &size) != nil {
			return
		}
		query := make([]byte, size)
		if _, err := io.ReadFull(stream, query); err != nil {
			return
		}
		answer, err := answerDNS(query, names)
		if err != nil {
			return
		}
		if _, err := stream.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

func answerDNS(query []byte, names map[string][]string) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	q := m.Questions[0]
	addrs, ok := names[q.Name.String()]
	if !ok {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, s := range addrs {
		header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
		switch addr := netip.MustParseAddr(s); {
		case q.Type == dnsmessage.TypeA && addr.Is4():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: addr.As4()}})
		case q.Type == dnsmessage.TypeAAAA && addr.Is6():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	return m.Pack()
}
