package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

var serverAddr = netip.MustParseAddrPort("10.0.0.1:69")

// start serves a directory with some files on n, and a secret beside it.
func start(t *testing.T, n *udp.MemNet) (_ *udp.ListenConfig, content []byte) {
	content = bytes.Repeat([]byte("0123456789"), 5000)
	dir := t.TempDir()
	for name, b := range map[string][]byte{
		"secret": []byte("secret"), "public/file": content, "public/empty": nil, "public/block": content[:512],
		"public/sub/long": bytes.Repeat(content[:8], 70000),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../secret", filepath.Join(dir, "public/link")); err != nil {
		t.Log("no symbolic link:", err)
	}
	root, err := os.OpenRoot(filepath.Join(dir, "public"))
	if err != nil {
		t.Fatal(err)
	}
	lc := &udp.ListenConfig{PacketListener: n}
	c, err := serve(t.Context(), lc, serverAddr.String(), root.FS())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		c.Wait()
		root.Close()
	})
	return lc, content
}

// fetch is a client as the RFC describes it: it answers each packet, and asks
// again if nothing comes.
func fetch(t *testing.T, lc *udp.ListenConfig, op uint16, texts ...string) (content []byte, failure string) {
	t.Helper()
	pc, err := lc.PacketListener.ListenPacket(t.Context(), "udp", "10.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	request := append(binary.BigEndian.AppendUint16(nil, op), strings.Join(texts, "\x00")+"\x00"...)
	last, to, size := request, net.Addr(net.UDPAddrFromAddrPort(serverAddr)), 512
	next, buf := uint16(1), make([]byte, 1<<16)
	for silence := 0; silence < 20; {
		pc.WriteTo(last, to)
		pc.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			silence++
			continue
		}
		silence = 0
		number := binary.BigEndian.Uint16(buf[2:])
		switch op := binary.BigEndian.Uint16(buf); {
		case op == opError:
			return nil, fmt.Sprintf("%d %s", number, bytes.Trim(buf[4:n], "\x00"))
		case op == opOAck:
			fmt.Sscanf(string(buf[2:n]), "blksize\x00%d\x00", &size)
			number = 0
		case number == next:
			next++
			content = append(content, buf[4:n]...)
		}
		to, last = from, []byte{0, opAck, byte(number >> 8), byte(number)}
		if n < 4+size && number == next-1 && number != 0 {
			pc.WriteTo(last, to)
			return content, ""
		}
	}
	t.Fatal("the server is silent")
	return nil, ""
}

// TestFetch fetches files of all kinds of length, on a network that loses
// nothing and on one that loses some and duplicates more.
func TestFetch(t *testing.T) {
	for name, link := range map[string]udp.Link{
		"perfect": {},
		"lossy":   {Loss: 0.05, Duplicate: 0.2, Latency: 10 * time.Millisecond, Seed: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lc, content := start(t, &udp.MemNet{Link: link})
				for _, size := range []string{"512", "8", "1428", "50000", "65464", "7", "x"} {
					if got, failure := fetch(t, lc, opRead, "file", "octet", "blksize", size); !bytes.Equal(got, content) {
						t.Errorf("in blocks of %s: %d bytes, %s", size, len(got), failure)
					}
				}
				for name, want := range map[string]int{"empty": 0, "/block": 512} {
					if got, failure := fetch(t, lc, opRead, name, "OCTET"); !bytes.Equal(got, content[:want]) {
						t.Errorf("%s: %d bytes, %s", name, len(got), failure)
					}
				}
				if link.Loss == 0 && !testing.Short() { // block numbers wrap
					if got, failure := fetch(t, lc, opRead, "sub/long", "octet", "blksize", "8"); len(got) != 560000 {
						t.Errorf("%d bytes, %s", len(got), failure)
					}
				}
			})
		})
	}
}

// TestRefused asks for what there is not, or is not to be had.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lc, _ := start(t, new(udp.MemNet))
		for _, test := range []struct {
			op    uint16
			texts []string
			want  string
		}{
			{opRead, []string{"nothing", "octet"}, "1 file not found"},
			{opRead, []string{"../secret", "octet"}, "1 file not found"},
			{opRead, []string{"/../../etc/passwd", "octet"}, "1 file not found"},
			{opRead, []string{"link", "octet"}, "1 file not found"},
			{opRead, []string{"sub", "octet"}, "1 file not found"},
			{opRead, []string{".", "octet"}, "1 file not found"},
			{opRead, []string{"file", "netascii"}, "0 only octet mode is served"},
			{opRead, []string{"file"}, "0 no request"},
			{opWrite, []string{"file", "octet"}, "2 access violation"},
			{opAck, []string{"", "", ""}, "0 no request"},
		} {
			if _, failure := fetch(t, lc, test.op, test.texts...); failure != test.want {
				t.Errorf("%q: %q, want %q", test.texts, failure, test.want)
			}
		}
	})
}

// TestGivesUp has a client go away: its block is sent again with growing
// pauses, and then forgotten. A request that comes twice is one transfer.
func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var mu sync.Mutex
		var at []time.Duration
		lc, _ := start(t, &udp.MemNet{Drop: func(from, to netip.AddrPort, _ []byte) bool {
			if from.Addr() == serverAddr.Addr() {
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Since(begin))
			}
			return false
		}})
		pc, err := lc.PacketListener.ListenPacket(t.Context(), "udp", "10.0.0.2:0")
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		for range 2 {
			pc.WriteTo([]byte("\x00\x01file\x00octet\x00"), net.UDPAddrFromAddrPort(serverAddr))
		}
		time.Sleep(time.Hour)
		mu.Lock()
		defer mu.Unlock()
		if got, want := fmt.Sprint(at), "[0s 1s 3s 7s 15s]"; got != want {
			t.Errorf("sent at %s, want %s", got, want)
		}
	})
}
