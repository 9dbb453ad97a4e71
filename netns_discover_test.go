//go:build linux

package udp_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDiscoverExample needs root and ip(8): it makes network namespaces, and
// runs examples/discover in each of them.
func TestDiscoverExample(t *testing.T) {
	t.Parallel()
	hs := hosts(t, "switch", "one", "two", "three")
	program := filepath.Join(t.TempDir(), "discover")
	if out, err := exec.Command("go", "build", "-o", program, "./examples/discover").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	hub := hs[0]
	hub.ip("link add bridge type bridge mcast_snooping 0", "link set bridge up")
	plug := func(i int) {
		port := fmt.Sprintf("port%d", i)
		join(hub, port, nil, hs[i], "eth0", []string{fmt.Sprintf("10.1.0.%d/24", i)})
		hub.ip("link set " + port + " master bridge")
	}
	plug(1)
	plug(2)
	start := func(i int, name string) *process {
		return hs[i].start(program, "-lan", "-every", "200ms", "-name", name)
	}
	one := start(1, "one")
	one.says("looking")
	two := start(2, "two")
	two.says(`"one" is at 10.1.0.1`)
	one.says(`"two" is at 10.1.0.2`)

	// Two on one host.
	second := start(2, "second")
	second.says(`"one" is at 10.1.0.1`)
	one.says(`"second" is at 10.1.0.2`)
	two.says(`"second" is at 10.1.0.2`)

	// A host that is plugged in later.
	three := start(3, "three")
	three.says("looking")
	plug(3)
	one.says(`"three" is at 10.1.0.3`)
	three.says(`"one" is at 10.1.0.1`)
	three.says(`"second" is at 10.1.0.2`)

	second.cmd.Process.Signal(os.Interrupt)
	for _, p := range []*process{one, two, three} {
		p.says(`"second" says goodbye`)
	}
	for line := range second.lines { // until it has ended
		if strings.HasPrefix(line, "discover:") {
			t.Error(line)
		}
	}

	hub.ip("link set port3 down")
	one.says(`"three" has fallen silent`)
	hub.ip("link set port3 up")
	one.says(`"three" is at 10.1.0.3`)
}
