//go:build linux

// init is the first process of a virtual machine. It prepares what a test
// expects of a system, runs each line of /commands, says how each ended, and
// switches the machine off.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	for _, m := range []struct{ dir, kind string }{
		{"/proc", "proc"}, {"/sys", "sysfs"}, {"/dev", "devtmpfs"}, {"/tmp", "tmpfs"},
	} {
		must(os.MkdirAll(m.dir, 0o755))
		must(unix.Mount(m.kind, m.dir, m.kind, 0, ""))
	}
	must(loopbackUp())
	version, err := os.ReadFile("/proc/version")
	must(err)
	fmt.Print("#### ", string(version))
	commands, err := os.ReadFile("/commands")
	must(err)
	for line := range strings.Lines(string(commands)) {
		args := strings.Fields(line)
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Env = "/src", []string{"PATH=/bin", "HOME=/tmp"}
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		start := time.Now()
		err := cmd.Run()
		fmt.Printf("#### %s: status %d, %.0f s\n", strings.TrimSpace(line), cmd.ProcessState.ExitCode(), time.Since(start).Seconds())
		if cmd.ProcessState == nil {
			fmt.Println(err)
		}
	}
	off()
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

func must(err error) {
	if err != nil {
		fmt.Println("#### init:", err)
		off()
	}
}

func off() {
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
