//go:build linux

package main

import (
	"bufio"
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed peers/peer.c
var peerC []byte

//go:embed peers/peer.py
var peerPy []byte

// prepare looks for compilers and interpreters, and returns how each peer is
// started; a peer that the machine has no program for is missing. What it
// makes is left in dir.
func prepare(dir string) (argv map[string][]string, missing map[string]string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	script := filepath.Join(dir, "peer.py")
	if err := os.WriteFile(script, peerPy, 0o600); err != nil {
		return nil, nil, err
	}
	c, why := compile(dir)
	argv, missing = map[string][]string{}, map[string]string{}
	for _, p := range peers {
		switch p.language {
		case "Go":
			argv[p.name] = []string{self, "serve", p.kind}
		case "C":
			if why != "" {
				missing[p.name] = why
				continue
			}
			argv[p.name] = []string{c, p.kind}
		case "Python":
			python := interpreter(p.kind)
			if python == "" {
				missing[p.name] = "no python3 that has " + p.kind
				continue
			}
			argv[p.name] = []string{python, script, p.kind}
		}
	}
	return argv, missing, nil
}

func compile(dir string) (program, why string) {
	source, program := filepath.Join(dir, "peer.c"), filepath.Join(dir, "peer")
	if err := os.WriteFile(source, peerC, 0o600); err != nil {
		return "", err.Error()
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		return "", "no gcc"
	}
	if out, err := exec.Command("gcc", "-O2", "-pthread", "-o", program, source).CombinedOutput(); err != nil {
		return "", fmt.Sprintf("gcc: %v: %s", err, out)
	}
	return program, ""
}

func interpreter(module string) string {
	for _, python := range []string{"/usr/bin/python3", "python3"} {
		if exec.Command(python, "-c", "import "+module).Run() == nil {
			return python
		}
	}
	return ""
}

// A process is a running peer, as described at server.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *os.File
	lines  *bufio.Reader
	stderr bytes.Buffer
	port   int
}

// start runs the peer on one core, with GOMAXPROCS=1.
func start(argv []string, role string, to, core int) (*process, error) {
	p := &process{cmd: exec.Command(argv[0], append(argv[1:len(argv):len(argv)], role, strconv.Itoa(to))...)}
	p.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	p.cmd.Stderr = &p.stderr
	out, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.out, p.lines = w, out, bufio.NewReader(out)
	p.in, err = p.cmd.StdinPipe()
	if err == nil {
		err = startOn(core, p.cmd)
	}
	w.Close() // the process has its own
	if err != nil {
		out.Close()
		return nil, err
	}
	line, err := p.line(10 * time.Second)
	if err == nil {
		_, err = fmt.Sscan(line, &p.port)
	}
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

// startOn starts the command on one core: it inherits those of this thread.
func startOn(core int, cmd *exec.Cmd) error {
	here, err := pin(core)
	if err != nil {
		return err
	}
	return errors.Join(cmd.Start(), unix.SchedSetaffinity(0, here))
}

func (p *process) line(patience time.Duration) (string, error) {
	p.out.SetReadDeadline(time.Now().Add(patience))
	return p.lines.ReadString('\n')
}

// stop ends the process; what it had to say on stderr is an error.
func (p *process) stop() error {
	p.in.Close()
	kill := time.AfterFunc(5*time.Second, func() { p.cmd.Process.Kill() })
	err := p.cmd.Wait()
	kill.Stop()
	p.out.Close()
	if s := strings.TrimSpace(p.stderr.String()); s != "" {
		return fmt.Errorf("%v: %s", err, s)
	}
	return nil
}

// A sample is what a process has done and used so far.
type sample struct {
	count, mallocs uint64
	cpu            time.Duration
	at             time.Time
}

func (p *process) sample() (s sample, err error) {
	if s.cpu, err = p.cpu(); err != nil {
		return s, err
	}
	s.at = time.Now()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		return s, err
	}
	line, err := p.line(5 * time.Second)
	if err == nil {
		_, err = fmt.Sscan(line, &s.count, &s.mallocs)
	}
	return s, err
}

// cpu returns the processor time, of the user and the system, of all threads
// of the process, in nanoseconds: clock_getcpuclockid(3), which glibc makes of
// the process id like this. It asks nothing of the process itself.
func (p *process) cpu() (time.Duration, error) {
	const perProcessSched = 2
	var ts unix.Timespec
	err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|perProcessSched), &ts)
	return time.Duration(ts.Nano()), err
}

// pin has the calling thread, which must be locked, run on one core, and
// returns the cores it ran on before.
func pin(core int) (*unix.CPUSet, error) {
	var before, one unix.CPUSet
	one.Set(core)
	return &before, errors.Join(unix.SchedGetaffinity(0, &before), unix.SchedSetaffinity(0, &one))
}

// cores returns the one for the servers and the one for the load.
func cores() (server, load int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, 0, err
	}
	var all []int
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			all = append(all, i)
		}
	}
	if len(all) == 0 {
		return 0, 0, errors.New("no core to run on")
	}
	return all[0], all[len(all)-1], nil
}
