//go:build linux

package udp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The tests of this kind need several hosts. They make them of network
// namespaces, joined by veth pairs and bridges, and run this test binary
// again inside of each (peer_test.go). Nothing leaves the machine.

// patience is how long a test waits for what must happen, as a fail-safe.
const patience = 10 * time.Second

// A host is a network namespace.
type host struct {
	t    *testing.T
	name string // as ip-netns(8) knows it
}

// hosts makes a namespace for each name, and removes them when the test ends.
// They are silent: no duplicate address detection, no router solicitations.
func hosts(t *testing.T, names ...string) []*host {
	t.Helper()
	needNamespaces(t)
	var hs []*host
	for _, name := range names {
		h := &host{t: t, name: fmt.Sprintf("udp%d-%d-%s", os.Getpid(), hostNumber.Add(1), name)}
		if out, err := exec.Command("ip", "netns", "add", h.name).CombinedOutput(); err != nil {
			t.Fatalf("ip netns add: %v: %s", err, out)
		}
		t.Cleanup(func() {
			if out, err := exec.Command("ip", "netns", "delete", h.name).CombinedOutput(); err != nil {
				t.Errorf("ip netns delete: %v: %s", err, out)
			}
		})
		h.sysctl(
			"net/ipv4/icmp_ratelimit=0", "net/ipv6/icmp/ratelimit=0",
			"net/ipv6/conf/all/accept_dad=0", "net/ipv6/conf/default/accept_dad=0",
			"net/ipv6/conf/all/router_solicitations=0", "net/ipv6/conf/default/router_solicitations=0")
		h.ip("link set lo up")
		hs = append(hs, h)
	}
	return hs
}

var hostNumber atomic.Int32

// needNamespaces skips the test where there can be none, and removes those
// that a test which was killed has left.
func needNamespaces(t *testing.T) {
	t.Helper()
	needTime(t)
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs network namespaces: install iproute2, and run as root")
	}
	if os.Getuid() != 0 {
		t.Skip("needs network namespaces: run as root")
	}
	if out := cannotAddNamespace(); out != "" {
		t.Skipf("needs network namespaces: run with CAP_SYS_ADMIN and CAP_NET_ADMIN: %s", out)
	}
	left, _ := filepath.Glob("/run/netns/udp*-*-*")
	for _, path := range left {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(path), "udp%d-", &pid); err == nil && !exists(fmt.Sprintf("/proc/%d", pid)) {
			exec.Command("ip", "netns", "delete", filepath.Base(path)).Run()
		}
	}
}

// cannotAddNamespace says why, where even root cannot.
var cannotAddNamespace = sync.OnceValue(func() string {
	name := fmt.Sprintf("udp%d-0-probe", os.Getpid())
	for _, args := range []string{"netns add " + name, "-n " + name + " link set lo up", "netns delete " + name} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Sprintf("ip %s: %v: %s", args, err, out)
		}
	}
	return ""
})

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// needPrograms skips the test where a program is missing.
func needPrograms(t *testing.T, debian string, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s: apt-get install %s", p, debian)
		}
	}
}

// ip runs ip(8) in the namespace once, with a command for each line.
func (h *host) ip(lines ...string) {
	h.t.Helper()
	cmd := exec.Command("ip", "-n", h.name, "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("ip %q: %v: %s", lines, err, out)
	}
}

// command returns a command to run in the namespace, ended with the test.
func (h *host) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithCancel(context.Background())
	h.t.Cleanup(cancel)
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", h.name, name}, args...)...)
}

// A process is a program that runs in a namespace until the test ends.
type process struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	said  []string // lines that nobody has waited for
}

// start runs a program with what it prints, to the standard output and error,
// as lines to wait for.
func (h *host) start(name string, args ...string) *process {
	h.t.Helper()
	cmd := h.command(name, args...)
	p := &process{t: h.t, name: name, cmd: cmd, lines: make(chan string, 1000)}
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		h.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	h.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		for range p.lines { // until it has closed its output
		}
		cmd.Wait()
	})
	return p
}

// says waits for a line with all of the words, if it has not come already,
// and returns it. No line is returned twice.
func (p *process) says(words ...string) string {
	p.t.Helper()
	has := func(line string) bool {
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) })
	}
	if i := slices.IndexFunc(p.said, has); i >= 0 {
		line := p.said[i]
		p.said = slices.Delete(p.said, i, i+1)
		return line
	}
	for end := time.After(patience); ; {
		select {
		case line, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("%s ended without %q; it said %q", p.name, words, p.said)
			}
			if has(line) {
				return line
			}
			p.said = append(p.said, line)
		case <-end:
			p.t.Fatalf("%s did not say %q but %q", p.name, words, p.said)
		}
	}
}

// sysctl sets names=values, with slashes for dots, below /proc/sys.
func (h *host) sysctl(settings ...string) {
	h.t.Helper()
	var script strings.Builder
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		fmt.Fprintf(&script, "echo %s > /proc/sys/%s\n", value, name)
	}
	if out, err := h.command("sh", "-ec", script.String()).CombinedOutput(); err != nil {
		h.t.Fatalf("%q: %v: %s", settings, err, out)
	}
}

// read returns a file as it is in the namespace.
func (h *host) read(path string) string {
	h.t.Helper()
	out, err := h.command("cat", path).Output()
	if err != nil {
		h.t.Fatalf("%s: %v", path, err)
	}
	return string(out)
}

// member reports whether the kernel lists a group on an interface of the
// host, in /proc/net/igmp or /proc/net/igmp6.
func (h *host) member(ifname, group string) bool {
	h.t.Helper()
	out, err := exec.Command("ip", "-n", h.name, "-json", "maddress", "show", "dev", ifname).Output()
	if err != nil {
		h.t.Fatalf("ip maddress: %v", err)
	}
	var shown []struct {
		Maddr []struct{ Address string }
	}
	if err := json.Unmarshal(out, &shown); err != nil {
		h.t.Fatalf("ip maddress: %v", err)
	}
	for _, dev := range shown {
		for _, m := range dev.Maddr {
			if m.Address == group {
				return true
			}
		}
	}
	return false
}

// index returns the index of an interface of the host.
func (h *host) index(ifname string) int {
	h.t.Helper()
	index, err := strconv.Atoi(strings.TrimSpace(h.read("/sys/class/net/" + ifname + "/ifindex")))
	if err != nil {
		h.t.Fatal(err)
	}
	return index
}

// join makes a veth pair between two hosts, with an end of the given name in
// each, and addresses on it, and waits until both ends can be used.
func join(a *host, aname string, aaddrs []string, b *host, bname string, baddrs []string) {
	a.t.Helper()
	a.ip(fmt.Sprintf("link add name %s type veth peer name %s netns %s", aname, bname, b.name))
	a.up(aname, aaddrs...)
	b.up(bname, baddrs...)
	a.ready(aname)
	b.ready(bname)
}

// up adds addresses to an interface and brings it up.
func (h *host) up(ifname string, addrs ...string) {
	h.t.Helper()
	var lines []string
	for _, addr := range addrs {
		lines = append(lines, fmt.Sprintf("address add %s dev %s", addr, ifname))
	}
	h.ip(append(lines, "link set "+ifname+" up")...)
}

// ready waits until the interface has its link-local address, which the
// kernel gives it when the other end is up too, and tells nobody but netlink.
// With addr_gen_mode 1 it gets none (ip-sysctl).
func (h *host) ready(ifname string) {
	h.t.Helper()
	if h.read("/proc/sys/net/ipv6/conf/"+ifname+"/addr_gen_mode") == "1\n" {
		return
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		out, err := exec.Command("ip", "-n", h.name, "-6", "address", "show", "dev", ifname, "scope", "link", "-tentative").Output()
		if err != nil {
			h.t.Fatalf("ip address show: %v", err)
		}
		if bytes.Contains(out, []byte("fe80:")) {
			return
		}
	}
	h.t.Fatalf("%s of %s has no link-local address", ifname, h.name)
}

// linkLocal returns the link-local address of an interface, without zone.
func (h *host) linkLocal(ifname string) netip.Addr {
	h.t.Helper()
	out, err := exec.Command("ip", "-n", h.name, "-6", "-json", "address", "show", "dev", ifname, "scope", "link").Output()
	if err != nil {
		h.t.Fatalf("ip address show: %v", err)
	}
	var shown []struct {
		Addr_Info []struct{ Local netip.Addr }
	}
	if err := json.Unmarshal(out, &shown); err != nil {
		h.t.Fatalf("ip address show: %v", err)
	}
	for _, dev := range shown {
		for _, a := range dev.Addr_Info { // empty for those of another scope
			if a.Local.IsValid() {
				return a.Local
			}
		}
	}
	h.t.Fatalf("%s of %s has no link-local address", ifname, h.name)
	panic("unreachable")
}
