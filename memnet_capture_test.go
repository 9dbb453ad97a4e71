package udp_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// A writesBuffer counts its writes, and fails them after it has kept them.
type writesBuffer struct {
	bytes.Buffer
	writes int
}

func (w *writesBuffer) Write(b []byte) (int, error) {
	w.writes++
	w.Buffer.Write(b)
	return 0, errors.New("ignored")
}

// captureAll sends something of each kind on a MemNet with a Capture, and
// returns what tshark is to read there, packet by packet.
func captureAll(t *testing.T, w *writesBuffer) (want []string) {
	onMemNet(t, func(t *testing.T, mem *udp.MemNet, n setup) {
		mem.Capture = w
		mem.Drop = func(_, _ netip.AddrPort, payload []byte) bool { return string(payload) == "lost" }
		mem.Copies = func(_, _ netip.AddrPort, payload []byte) int {
			return map[string]int{"twice": 1, "thrice": 2}[string(payload)]
		}
		n.config.Broadcast = true
		n.listenAt(t, ":7", nil)
		conns := make(map[string]*udp.Conn)
		for _, address := range []string{"10.0.0.2:9", "10.0.0.2:40000", "[2001:db8::2]:9"} {
			conns[address] = n.listenAt(t, address, nil)
		}
		check(t, conns["10.0.0.2:9"].SetMulticastTTL(5))
		for _, test := range []struct {
			from, to, payload string
			packets           int
			ttl, number       int
		}{
			{"10.0.0.2:9", "10.0.0.1:7", "hello", 1, 64, 1},
			{"10.0.0.2:9", "10.0.0.1:7", "", 1, 64, 2},
			{"10.0.0.2:9", "10.0.0.1:7", "lost", 1, 0, 3},
			{"10.0.0.2:9", "10.0.0.1:7", "twice", 2, 64, 4},
			{"10.0.0.2:9", "10.0.0.1:8", "odd", 1, 64, 1},
			{"10.0.0.2:40000", "10.0.0.1:7", "another flow", 1, 64, 1},
			{"10.0.0.2:9", "239.255.0.5:7", "group", 1, 5, 1},
			{"10.0.0.2:9", "255.255.255.255:7", "all", 1, 64, 1},
			{"[2001:db8::2]:9", "[2001:db8::1]:7", "hello", 1, 64, 1},
			{"[2001:db8::2]:9", "[2001:db8::1]:7", "lost", 1, 0, 2},
			{"[2001:db8::2]:9", "[2001:db8::1]:7", "thrice", 3, 64, 3},
			{"[2001:db8::2]:9", "[2001:db8::1]:7", "", 1, 64, 4},
			{"10.0.0.2:9", "10.0.0.1:7", text(65507), 1, 64, 5},
			{"[2001:db8::2]:9", "[2001:db8::1]:7", text(65527), 1, 64, 5},
			// The checksum of this one is 0 by itself, which stands for none.
			{"10.0.0.2:9", "10.0.0.1:7", string(zeroChecksum("10.0.0.2:9", "10.0.0.1:7")), 1, 64, 6},
		} {
			time.Sleep(1234567 * time.Nanosecond)
			before := w.writes
			from, to := netip.MustParseAddrPort(test.from), netip.MustParseAddrPort(test.to)
			write(t, conns[test.from], to, test.payload)
			if got := w.writes - before; got != test.packets && before > 0 {
				t.Errorf("%q: %d writes for %d packets", test.payload, got, test.packets)
			}
			for range test.packets {
				want = append(want, fmt.Sprintf("%d.%09d %v %d %v %d ttl %d number %d %s checksums good",
					time.Now().Unix(), time.Now().Nanosecond(), from.Addr(), from.Port(), to.Addr(), to.Port(), test.ttl, test.number,
					hex.EncodeToString([]byte(test.payload))))
			}
		}
		synctest.Wait()
	})
	return want
}

// zeroChecksum returns a payload of two bytes that gives a datagram over IPv4
// the checksum 0.
func zeroChecksum(from, to string) []byte {
	a, b := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	sum := 17 + 10 + 10 + int(a.Port()) + int(b.Port())
	for _, addr := range []netip.Addr{a.Addr(), b.Addr()} {
		four := addr.As4()
		sum += int(four[0])<<8 + int(four[1]) + int(four[2])<<8 + int(four[3])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	rest := 0xffff - sum
	return []byte{byte(rest >> 8), byte(rest)}
}

// TestMemNetCapture has tshark read a capture, and compares field by field.
func TestMemNetCapture(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skipf("%v: try apt-get install tshark", err)
	}
	needTime(t)
	var w writesBuffer
	want := captureAll(t, &w)
	if w.writes != 1+len(want) {
		t.Errorf("%d writes, want one for the header and %d packets", w.writes, len(want))
	}
	file := filepath.Join(t.TempDir(), "capture.pcap")
	check(t, os.WriteFile(file, w.Bytes(), 0o600))
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), tshark, "-n", "-r", file, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-T", "fields", "-E", "separator=|",
		"-e", "frame.time_epoch", "-e", "ip.src", "-e", "ipv6.src", "-e", "udp.srcport", "-e", "ip.dst", "-e", "ipv6.dst", "-e", "udp.dstport",
		"-e", "ip.ttl", "-e", "ipv6.hlim", "-e", "ip.id", "-e", "ipv6.flow", "-e", "udp.payload",
		"-e", "ip.checksum.status", "-e", "udp.checksum.status", "-e", "ip.len", "-e", "ipv6.plen", "-e", "udp.length")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v\n%s", err, &stderr)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	for i, line := range lines {
		f := strings.Split(line, "|")
		if i >= len(want) || len(f) != 17 {
			t.Fatalf("packet %d: %.200q", i, line)
		}
		checksums := "good"
		if f[1] != "" && f[12] != "1" || f[13] != "1" {
			checksums = fmt.Sprintf("%q %q", f[12], f[13])
		}
		var number int
		fmt.Sscanf(f[9]+f[10], "%v", &number)
		got := fmt.Sprintf("%s %s %s %s %s ttl %s number %d %s checksums %s", f[0], f[1]+f[2], f[3], f[4]+f[5], f[6], f[7]+f[8], number, f[11], checksums)
		if got != want[i] {
			t.Errorf("packet %d:\n%.300s, want\n%.300s", i, got, want[i])
		}
		size := len(f[11])/2 + 8
		if f[16] != fmt.Sprint(size) || f[14] != "" && f[14] != fmt.Sprint(size+20) || f[15] != "" && f[15] != fmt.Sprint(size) {
			t.Errorf("packet %d: lengths %q %q %q of %d bytes", i, f[14], f[15], f[16], size)
		}
	}
	if len(lines) != len(want) {
		t.Errorf("tshark reads %d packets, want %d", len(lines), len(want))
	}
	if stderr.Len() > 0 {
		t.Logf("tshark says: %s", &stderr)
	}
}
