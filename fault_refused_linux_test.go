//go:build linux && !udpbasic

package udp_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.com/udp"
	"golang.org/x/sys/unix"
)

// TestWriteRefused runs this test binary again where a filter (seccomp(2))
// refuses system calls that send: whatever is refused, all is sent, in order.
func TestWriteRefused(t *testing.T) {
	const variable = "UDP_TEST_WRITE_REFUSED"
	sendmmsg, sendmsg, sendto := refusal{"sendmmsg", unix.SYS_SENDMMSG, 0, 0}, refusal{"sendmsg", unix.SYS_SENDMSG, 0, 0}, refusal{"sendto", unix.SYS_SENDTO, 0, 0}
	segment := refusal{"UDP_SEGMENT", unix.SYS_GETSOCKOPT, 2, unix.UDP_SEGMENT}
	for _, test := range []struct {
		name    string
		refused []refusal
		split   bool // ten datagrams of one length go one by one
		source  bool // no source can be named
	}{
		{"sendmmsg", []refusal{sendmmsg}, false, false},
		{"sendmsg", []refusal{sendmsg}, true, true},
		{"sendmmsg and sendmsg", []refusal{sendmmsg, sendmsg}, true, true},
		{"UDP_SEGMENT", []refusal{segment}, true, false},
		{"sendmmsg and UDP_SEGMENT", []refusal{sendmmsg, segment}, true, false},
		{"sendto", []refusal{sendto}, false, false},
	} {
		for _, errno := range []syscall.Errno{syscall.ENOSYS, syscall.EPERM} {
			name := fmt.Sprintf("%s %s", test.name, unix.ErrnoName(errno))
			switch os.Getenv(variable) {
			case name:
				testWriteRefused(t, func() {
					for _, r := range test.refused {
						refuse(t, r, errno)
					}
				}, test.split, test.source, test.name == "sendto")
			case "":
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					self := again(t, "TestWriteRefused", "-test.v")
					cmd := exec.Command(self[0], self[1:]...)
					cmd.Env = append(os.Environ(), variable+"="+name)
					out, err := cmd.CombinedOutput()
					if err != nil {
						t.Errorf("%v:\n%s", err, out)
					} else if _, why, skipped := strings.Cut(string(out), "seccomp: "); skipped {
						t.Skip("seccomp: ", why)
					}
				})
			}
		}
	}
}

func testWriteRefused(t *testing.T, begin func(), split, source, single bool) {
	a, b := newCollector(t, loopback4), newCollector(t, loopback4)
	logged := new(logBuffer)
	n := setup{bind: ":0", host: loopback4}
	n.config.Logger = slog.New(slog.NewTextHandler(logged, nil))
	before := n.listen(t, nil) // opened before the calls are refused
	begin()
	for _, c := range []*udp.Conn{before, n.listen(t, nil)} {
		from := netip.AddrPortFrom(loopback4, c.LocalAddr().Port())
		mixed, equal := slices.Repeat([]udp.Datagram{{Addr: a.addr}, {Addr: b.addr}, {Addr: a.addr}}, 50), slices.Repeat([]udp.Datagram{{Addr: a.addr}}, 40)
		for i := range mixed {
			mixed[i].Payload = make([]byte, 8+i%7)
			number(mixed[i].Payload, i)
		}
		for i := range equal {
			equal[i].Payload = make([]byte, 1000)
			number(equal[i].Payload, i)
		}
		for round := range 2 {
			for name, ds := range map[string][]udp.Datagram{"mixed": mixed, "equal": equal} {
				if sent, err := c.WriteBatch(ds); sent != len(ds) || err != nil {
					t.Fatalf("round %d, %s: WriteBatch sends %d of %d: %v", round, name, sent, len(ds), err)
				}
				for i, d := range ds {
					to := a
					if d.Addr == b.addr {
						to = b
					}
					if err := to.want(t, d.Payload, from); err != nil {
						t.Fatalf("round %d, %s, number %d: %v", round, name, i, err)
					}
				}
			}
		}
		if s := c.Stats(); s.WriteErrors != 0 || s.WriteDatagrams != uint64(2*(len(mixed)+len(equal))) {
			t.Errorf("%+v", s)
		}
		if got := firstRead(t, c, loopback4, 1000); c != before && (got > 1) == split {
			t.Errorf("after it all, 10 datagrams are read as %d at first", got)
		}
		if !single { // WriteTo has no other call than sendto
			_, err := c.WriteTo([]byte("plain"), a.addr)
			check(t, err)
			check(t, a.want(t, []byte("plain"), from))
		}
		d := udp.Datagram{Addr: a.addr, Local: netip.MustParseAddr("127.0.0.2")}
		switch _, err := c.Reply(d, []byte("from another")); {
		case source && err == nil:
			t.Error("a source is named by a call that is refused")
		case source && errors.Is(err, syscall.EADDRNOTAVAIL):
			t.Errorf("an own address is said to be none: %v", err)
		case !source:
			check(t, err)
			check(t, a.want(t, []byte("from another"), netip.AddrPortFrom(d.Local, c.LocalAddr().Port())))
		}
	}
	if lines := strings.Count(logged.String(), "sendmmsg is refused"); lines > 2 {
		t.Errorf("it is told again and again:\n%s", logged)
	}
}
