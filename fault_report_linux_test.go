package udp_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"example.com/udp"
	"golang.org/x/sys/unix"
)

// TestReport writes to ports where nobody listens, on sockets without a peer:
// each report names its datagram's destination, and comes once.
func TestReport(t *testing.T) {
	for _, n := range kernelSetups() {
		t.Run(n.name, func(t *testing.T) {
			r := record()
			c := n.listen(t, r)
			dead := []netip.AddrPort{n.dead(t), n.dead(t), n.dead(t)}
			for _, write := range []struct {
				name string
				to   func(addr netip.AddrPort) error
			}{
				{"WriteTo", func(addr netip.AddrPort) error { return second(c.WriteTo([]byte("x"), addr)) }},
				{"Reply", func(addr netip.AddrPort) error { return second(c.Reply(udp.Datagram{Addr: addr}, nil)) }},
				{"WriteBatch", func(addr netip.AddrPort) error { return second(c.WriteBatch(batch(addr, text(3000)))) }},
			} {
				for _, addr := range dead {
					check(t, write.to(addr))
					u := wait(t, r.undelivered)
					if u.Addr != addr || u.Offender != n.host || u.Err != syscall.ECONNREFUSED || u.MTU != 0 {
						t.Errorf("%s: %+v, want ECONNREFUSED about %v", write.name, u, addr)
					}
				}
			}
			shutdown(t, c)
			if s := c.Stats(); len(r.undelivered) != 0 || s.Undelivered != 9 || s.ReadErrors != 0 || s.WriteErrors != 0 {
				t.Errorf("%d more reports, and %+v", len(r.undelivered), s)
			}
		})
	}
}

// TestReportsInOneBatch has dead and live peers take turns in one WriteBatch,
// in runs of many lengths and one: the live ones get all of theirs.
func TestReportsInOneBatch(t *testing.T) {
	for _, n := range kernelSetups() {
		t.Run(n.name, func(t *testing.T) {
			r, live := record(), record()
			c, l := n.listen(t, r), n.listen(t, live)
			for _, run := range []int{1, 2, 64, 65, 150} {
				for _, size := range []int{1, 30} {
					dead := []netip.AddrPort{n.dead(t), n.dead(t)}
					var ds []udp.Datagram
					for i := range run {
						ds = append(ds, batch(dead[0], text(size))...)
						ds = append(ds, batch(n.reach(l), text(size+i%2))...)
						ds = append(ds, batch(dead[1], text(size))...)
					}
					if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
						t.Fatalf("%d of %d: %v", sent, len(ds), err)
					}
					for i := range run {
						live.expect(t, text(size+i%2), n.reach(c))
					}
					told := make(map[netip.AddrPort]bool)
					for !told[dead[0]] || !told[dead[1]] {
						told[wait(t, r.undelivered).Addr] = true
					}
				}
			}
		})
	}
}

// TestReportInHandler has the handler write to a dead and two live peers at
// once, so that only this WriteBatch meets the report: it is delivered, with
// nothing else going on.
func TestReportInHandler(t *testing.T) {
	for _, n := range kernelSetups() {
		t.Run(n.name, func(t *testing.T) {
			r := record()
			p, last, dead := n.peer(t), n.peer(t), n.dead(t)
			c := n.listen(t, funcs{
				datagram: func(c *udp.Conn, d udp.Datagram) {
					ds := append(batch(d.Addr, "first"), batch(dead, "lost")...)
					if sent, err := c.WriteBatch(append(ds, batch(last.addr, "last")...)); sent != 3 || err != nil {
						t.Errorf("%d, %v", sent, err)
					}
				},
				undelivered: r.HandleUndelivered,
			})
			for range 20 {
				p.send(t, n.reach(c), "go")
				p.expect(t, "first", n.reach(c))
				last.expect(t, "last", n.reach(c))
				checkReport(t, wait(t, r.undelivered), dead, n.host, syscall.ECONNREFUSED)
			}
		})
	}
}

// TestDeadPeers has one peer in ten be dead, of forty, and four goroutines
// that write to all: nothing for the others is lost, nor is any write an
// error, and each report is about a dead one.
func TestDeadPeers(t *testing.T) {
	needTime(t)
	const peers, writers, rounds = 40, 4, 50
	for _, n := range kernelSetups() {
		t.Run(n.name, func(t *testing.T) {
			n.config.ReadBuffer = 4 << 20
			var received [peers]atomic.Int64
			dead := make(map[netip.AddrPort]bool)
			var addrs []netip.AddrPort
			var ls []*udp.Conn
			for i := range peers {
				if i%10 == 0 {
					addrs = append(addrs, n.dead(t))
					dead[addrs[i]] = true
					continue
				}
				l := n.listen(t, udp.HandlerFunc(func(*udp.Conn, udp.Datagram) { received[i].Add(1) }))
				ls, addrs = append(ls, l), append(addrs, n.reach(l))
			}
			var reports atomic.Uint64
			c := n.listen(t, funcs{undelivered: func(_ *udp.Conn, u udp.Undelivered) {
				reports.Add(1)
				if !dead[u.Addr] || u.Err != syscall.ECONNREFUSED {
					t.Errorf("%+v", u)
				}
			}})
			var done sync.WaitGroup
			for range writers {
				done.Go(func() {
					for range rounds {
						var ds []udp.Datagram
						for _, addr := range addrs {
							ds = append(ds, batch(addr, "a", "b")...)
						}
						rand.Shuffle(len(ds), func(i, j int) { ds[i], ds[j] = ds[j], ds[i] })
						if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
							t.Errorf("WriteBatch: %d of %d: %v", sent, len(ds), err)
						}
						for _, addr := range addrs {
							if _, err := c.WriteTo([]byte("c"), addr); err != nil {
								t.Error(err)
							}
						}
					}
				})
			}
			done.Wait()
			for _, c := range append(ls, c) {
				done.Go(func() { c.Shutdown(t.Context()) })
			}
			done.Wait()
			for _, l := range ls {
				if s := l.Stats(); s.Dropped != 0 {
					t.Skipf("%+v: the test needs net.core.rmem_max=4194304", s)
				}
			}
			for i := range peers {
				if got := received[i].Load(); !dead[addrs[i]] && got != 3*writers*rounds {
					t.Errorf("peer %d gets %d of %d", i, got, 3*writers*rounds)
				}
			}
			if s := c.Stats(); s.Undelivered == 0 || reports.Load() != s.Undelivered || s.ReadErrors+s.WriteErrors != 0 {
				t.Errorf("%d reports, %+v", reports.Load(), s)
			}
		})
	}
}

// TestReportStorm gets 20,000 reports as fast as they can be made, and data
// in between: nothing is lost or counted twice, the data get through, and
// then the goroutine waits.
func TestReportStorm(t *testing.T) {
	needTime(t)
	const total = 20000
	n := setup{bind: "127.0.0.1:0", host: loopback4}
	var reports atomic.Uint64
	datagrams := make(chan string, total)
	c := n.listen(t, funcs{
		datagram:    func(_ *udp.Conn, d udp.Datagram) { datagrams <- string(d.Payload) },
		undelivered: func(*udp.Conn, udp.Undelivered) { reports.Add(1) },
	})
	dead, p := n.dead(t), n.peer(t)
	for i := range total {
		check(t, second(c.WriteTo([]byte("x"), dead)))
		if i%100 == 0 {
			p.send(t, n.reach(c), "data")
			wait(t, datagrams)
		}
	}
	// Without a limit on loopback, each datagram is refused.
	eventually(t, "all reports are delivered", func() bool { return reports.Load() == total })
	eventually(t, "the goroutine waits", func() bool {
		return strings.Contains(stackOf("udp.(*Conn).loop"), "[IO wait")
	})
	if s := c.Stats(); s.Undelivered != total || s.ReadErrors+s.WriteErrors != 0 || s.WriteDatagrams != total {
		t.Errorf("%+v", s)
	}
}

// TestReportsWhileBlocked blocks the handler while writes meet reports by the
// thousand: no write fails, what is kept is bounded, and afterwards all works.
func TestReportsWhileBlocked(t *testing.T) {
	needTime(t)
	const total = 20000
	for _, connected := range []bool{false, true} {
		n := setup{bind: "127.0.0.1:0", host: loopback4}
		entered, open := make(chan struct{}), make(chan struct{})
		r := record()
		var reports int
		c := n.listen(t, funcs{
			datagram: func(c *udp.Conn, d udp.Datagram) {
				if string(d.Payload) == "block" {
					close(entered)
					<-open
				}
				r.HandleDatagram(c, d)
			},
			undelivered: func(*udp.Conn, udp.Undelivered) { reports++ },
		})
		p := n.peer(t)
		p.send(t, n.reach(c), "block")
		wait(t, entered)
		dead := n.dead(t)
		if connected {
			check(t, c.Connect(dead))
		}
		before := settledHeap()
		for range total {
			check(t, second(c.WriteTo([]byte("x"), dead)))
		}
		if grown := settledHeap() - before; grown > 256<<10 {
			t.Errorf("%d reports take %d bytes", total, grown)
		}
		if connected {
			check(t, c.Disconnect())
		}
		close(open)
		wait(t, r.datagrams)
		p.send(t, n.reach(c), "hello")
		r.expect(t, "hello", p.addr)
		shutdown(t, c)
		if s := c.Stats(); reports == 0 || reports > 5000 || s.Undelivered < uint64(reports) || s.WriteDatagrams != total {
			t.Errorf("%d reports, %+v", reports, s)
		}
	}
}

// TestReportConnected connects to one dead peer after another: each report is
// delivered once, with the peer that it is about.
func TestReportConnected(t *testing.T) {
	for _, n := range kernelSetups() {
		t.Run(n.name, func(t *testing.T) {
			r := record()
			c := n.listen(t, r)
			var want []netip.AddrPort
			for range 50 {
				dead := n.dead(t)
				check(t, c.Connect(dead))
				check(t, second(c.Write([]byte("x"))))
				want = append(want, dead)
			}
			check(t, c.Disconnect())
			dead := n.dead(t)
			check(t, second(c.WriteTo([]byte("x"), dead)))
			for i, addr := range append(want, dead) {
				if u := wait(t, r.undelivered); u.Addr != addr || u.Err != syscall.ECONNREFUSED {
					t.Fatalf("report %d: %+v, want ECONNREFUSED about %v", i, u, addr)
				}
			}
			shutdown(t, c)
			if s := c.Stats(); len(r.undelivered) != 0 || s.Undelivered != 51 {
				t.Errorf("%d more reports, and %+v", len(r.undelivered), s)
			}
		})
	}
}

// TestReportsUnasked has a Handler without HandleUndelivered: what the kernel
// says is counted, with and without a peer, and takes no room in the receive
// buffer.
func TestReportsUnasked(t *testing.T) {
	n := setup{bind: ":0", host: loopback4}
	for _, h := range []udp.Handler{nil, record()} {
		c := n.listen(t, h)
		if option(t, c, unix.IPPROTO_IP, unix.IP_RECVERR) != 1 || option(t, c, unix.IPPROTO_IPV6, unix.IPV6_RECVERR) != 1 {
			t.Error("IP_RECVERR is off")
		}
	}
	c := n.listen(t, udp.HandlerFunc(func(*udp.Conn, udp.Datagram) {}))
	dead := n.dead(t)
	for range 3 {
		check(t, second(c.WriteTo([]byte("x"), dead)))
	}
	eventually(t, "the reports are counted", func() bool { return c.Stats().Undelivered == 3 })
	check(t, c.Connect(dead))
	check(t, second(c.Write([]byte("x"))))
	eventually(t, "the report is counted", func() bool { return c.Stats().Undelivered == 4 })
	eventually(t, "nothing is left in the buffer", func() bool { return receiveQueue(t, c) == 0 })
}

// receiveQueue returns how much the receive buffer of c holds.
func receiveQueue(t *testing.T, c *udp.Conn) (bytes uint32) {
	raw, err := c.SyscallConn()
	check(t, err)
	check(t, raw.Control(func(fd uintptr) {
		var info [16]uint32
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			t.Skip("SO_MEMINFO: ", errno)
		}
		bytes = info[unix.SK_MEMINFO_RMEM_ALLOC]
	}))
	return bytes
}

// TestLocalErrors writes what is too long, thousands of times: Write says so,
// nobody else does, and nothing of it stays in the socket's buffer.
func TestLocalErrors(t *testing.T) {
	needTime(t)
	for _, n := range kernelSetups() {
		t.Run(n.name, func(t *testing.T) {
			r := record()
			c := n.listen(t, r)
			p := n.peer(t)
			tooLong := make([]byte, 65530) // not for the length field, but for an IP packet
			for range 300 {
				if _, err := c.WriteTo(tooLong, p.addr); !errors.Is(err, syscall.EMSGSIZE) {
					t.Fatal(err)
				}
			}
			for i := range 100 {
				p.send(t, n.reach(c), fmt.Sprint(i))
			}
			for i := range 100 {
				r.expect(t, fmt.Sprint(i), p.addr)
			}
			shutdown(t, c)
			if s := c.Stats(); s.Undelivered != 0 || s.ReadErrors != 0 || s.Dropped != 0 || s.WriteErrors != 300 || len(r.undelivered) != 0 {
				t.Errorf("%d reports, %+v", len(r.undelivered), s)
			}
		})
	}
}

// icmpRows are what ICMP and ICMPv6 can say, and what Linux makes of it
// (icmp_err_convert, icmpv6_err_convert).
var icmpRows = []struct {
	version, kind, code int
	errno               syscall.Errno
}{
	{4, 3, 0, unix.ENETUNREACH},   // no route to the network
	{4, 3, 1, unix.EHOSTUNREACH},  // no route to the host, or it does not answer
	{4, 3, 2, unix.ENOPROTOOPT},   // no UDP there
	{4, 3, 3, unix.ECONNREFUSED},  // nobody listens
	{4, 3, 4, unix.EMSGSIZE},      // too long for the path
	{4, 3, 5, unix.EOPNOTSUPP},    // source route failed
	{4, 3, 6, unix.ENETUNREACH},   // network unknown
	{4, 3, 7, unix.EHOSTDOWN},     // host unknown
	{4, 3, 8, unix.ENONET},        // host isolated
	{4, 3, 9, unix.ENETUNREACH},   // network prohibited
	{4, 3, 10, unix.EHOSTUNREACH}, // host prohibited
	{4, 3, 11, unix.ENETUNREACH},  // not for this type of service
	{4, 3, 12, unix.EHOSTUNREACH}, // likewise
	{4, 3, 13, unix.EHOSTUNREACH}, // filtered
	{4, 3, 14, unix.EHOSTUNREACH}, // precedence violation
	{4, 3, 15, unix.EHOSTUNREACH}, // precedence cutoff
	{4, 11, 0, unix.EHOSTUNREACH}, // TTL expired
	{4, 12, 0, unix.EPROTO},       // bad header
	{6, 1, 0, unix.ENETUNREACH},   // no route
	{6, 1, 1, unix.EACCES},        // prohibited
	{6, 1, 2, unix.EHOSTUNREACH},  // beyond the scope of the source
	{6, 1, 3, unix.EHOSTUNREACH},  // the host does not answer
	{6, 1, 4, unix.ECONNREFUSED},  // nobody listens
	{6, 1, 5, unix.EACCES},        // source address failed policy
	{6, 1, 6, unix.EACCES},        // rejected route
	{6, 2, 0, unix.EMSGSIZE},      // too long for the path
	{6, 3, 0, unix.EHOSTUNREACH},  // hop limit exceeded
	{6, 4, 0, unix.EPROTO},        // bad header
}

// reportedMTU is what the messages say of the path. The kernel believes them,
// for all its sockets and for ten minutes.
const reportedMTU = 1400

// TestEveryReport has each kind of ICMP message come, on a socket without a
// peer, on a connected one, and on a connected one without HandleUndelivered.
// It does so in a namespace, which is the only one to believe the messages.
func TestEveryReport(t *testing.T) {
	for _, n := range kernelSetups() {
		t.Run(n.name, func(t *testing.T) {
			hosts(t, "a")[0].enter(func() { testEveryReport(t, n) })
		})
	}
}

func testEveryReport(t *testing.T, n setup) {
	icmp := openICMP(t, n.host)
	p := n.peer(t)
	r, connectedR := record(), record()
	c, connected, unheard := n.listen(t, r), n.dial(t, p.addr, connectedR), n.dial(t, p.addr, nil)
	counted := uint64(0)
	for _, row := range icmpRows {
		if row.version == 4 != n.host.Is4() {
			continue
		}
		about := netip.AddrPortFrom(p.addr.Addr(), 9)
		icmp.report(t, row.kind, row.code, n.reach(c), about)
		checkReport(t, wait(t, r.undelivered), about, n.host, row.errno)
		icmp.report(t, row.kind, row.code, connected.LocalAddr(), p.addr)
		checkReport(t, wait(t, connectedR.undelivered), p.addr, n.host, row.errno)
		icmp.report(t, row.kind, row.code, unheard.LocalAddr(), p.addr)
		counted++
		eventually(t, "the report is counted", func() bool { return unheard.Stats().Undelivered == counted })
	}
	for _, c := range []*udp.Conn{c, connected, unheard} {
		check(t, second(c.WriteTo([]byte("works"), p.addr)))
		p.expect(t, "works", n.reach(c))
		shutdown(t, c)
		if s := c.Stats(); s.ReadErrors != 0 || s.WriteErrors != 0 {
			t.Errorf("%+v", s)
		}
	}
	if len(r.undelivered)+len(connectedR.undelivered) != 0 || unheard.Stats().Undelivered != counted {
		t.Errorf("%d and %d more reports, %+v", len(r.undelivered), len(connectedR.undelivered), unheard.Stats())
	}
}

func checkReport(t *testing.T, u udp.Undelivered, about netip.AddrPort, offender netip.Addr, errno syscall.Errno) {
	t.Helper()
	want := udp.Undelivered{Addr: about, Offender: offender, Err: errno}
	if errno == syscall.EMSGSIZE {
		want.MTU = reportedMTU
	}
	if u != want {
		t.Errorf("%+v, want %+v", u, want)
	}
}

// TestWriteThroughReports writes to a live peer while reports of each kind
// about another come, from a second goroutine: no write fails.
func TestWriteThroughReports(t *testing.T) {
	for _, n := range []setup{{name: "udp4", bind: "127.0.0.1:0", host: loopback4}, {name: "udp6", bind: "[::1]:0", host: loopback6}} {
		t.Run(n.name, func(t *testing.T) {
			hosts(t, "a")[0].enter(func() { testWriteThroughReports(t, n) })
		})
	}
}

func testWriteThroughReports(t *testing.T, n setup) {
	icmp := openICMP(t, n.host)
	var reports atomic.Uint64
	c := n.listen(t, funcs{undelivered: func(*udp.Conn, udp.Undelivered) { reports.Add(1) }})
	n.config.NoOffload = true // or the kernel counts what it has joined as one
	l := n.listen(t, nil)
	about := netip.AddrPortFrom(n.host, 9)
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			for _, row := range icmpRows {
				if row.version == 4 != n.host.Is4() {
					continue
				}
				select {
				case <-stop:
					return
				default:
					icmp.report(t, row.kind, row.code, n.reach(c), about)
				}
			}
		}
	})
	written := 0
	for reports.Load() < 2000 {
		if sent, err := c.WriteBatch(batch(n.reach(l), "one", "two", "three")); sent != 3 || err != nil {
			t.Fatalf("%d, %v", sent, err)
		}
		check(t, second(c.WriteTo([]byte("four"), n.reach(l))))
		written += 4
	}
	close(stop)
	done.Wait()
	shutdown(t, c)
	shutdown(t, l)
	if s := l.Stats(); s.ReadDatagrams+s.Dropped != uint64(written) {
		t.Errorf("%d datagrams are written, %+v", written, s)
	}
	if s := c.Stats(); reports.Load() != s.Undelivered || s.ReadErrors+s.WriteErrors != 0 {
		t.Errorf("%d reports, %+v", reports.Load(), s)
	}
}

// An icmpSocket sends ICMP messages.
type icmpSocket struct {
	net.PacketConn
	host netip.Addr
}

func openICMP(t *testing.T, host netip.Addr) icmpSocket {
	t.Helper()
	network := "ip4:icmp"
	if host.Is6() {
		network = "ip6:ipv6-icmp"
	}
	pc, err := net.ListenPacket(network, host.String())
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("%v: try as root, or with CAP_NET_RAW", err)
	}
	check(t, err)
	t.Cleanup(func() { pc.Close() })
	return icmpSocket{pc, host}
}

// report sends a report about a datagram from one address to another.
func (s icmpSocket) report(t *testing.T, kind, code int, from, to netip.AddrPort) {
	t.Helper()
	b := []byte{byte(kind), byte(code), 0, 0}
	b = binary.BigEndian.AppendUint32(b, reportedMTU) // for IPv4, its lower half
	if from.Addr().Is4() {
		b = append(b, 0x45, 0, 0, 28+4, 0, 1, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0)
	} else {
		b = append(b, 0x60, 0, 0, 0, 0, 8+4, unix.IPPROTO_UDP, 64)
	}
	b = append(b, s.host.AsSlice()...)
	b = append(b, to.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = append(b, 0, 8+4, 0, 0, 'l', 'o', 's', 't')
	if s.host.Is4() { // for IPv6, the kernel does it
		sum := uint32(0)
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		binary.BigEndian.PutUint16(b[2:], ^uint16(sum))
	}
	if _, err := s.WriteTo(b, &net.IPAddr{IP: s.host.AsSlice()}); err != nil {
		t.Error(err)
	}
}

// stackOf returns the stack of the goroutine that is in a function.
func stackOf(function string) string {
	for _, stack := range stacks() {
		if strings.Contains(stack, function) {
			return stack
		}
	}
	return ""
}
