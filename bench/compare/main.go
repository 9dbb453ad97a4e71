//go:build linux

// Compare measures package udp side by side with what else there is to speak
// UDP with: a loop on package net, golang.org/x/net with batches, C in three
// ways, and Python's asyncio, uvloop and Twisted, as far as the machine has
// them. It prints tables, and draws a chart.
//
//	go run ./compare            # from bench/; about ten minutes
//	go run ./compare -short     # a few seconds, to see that everything runs
//
// Each peer is a process of its own, on a core of its own, with GOMAXPROCS=1;
// the load runs on the other core, and checks each echo. The peers take turns
// in each round, so that whatever slows the machine down meets all of them. A
// figure counts what the server did for each second of processor time it used,
// as the kernel accounts it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		if err := serve(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	runtime.LockOSThread() // its cores are set, and it makes the load
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

type comparison struct {
	round                time.Duration
	verbose              bool
	serverCore, loadCore int
	argv                 map[string][]string
	figures              results
	steps                progress
	allocs               map[string]float64 // most for each datagram, by peer
	errs                 []error
}

func run() error {
	round := flag.Duration("round", time.Second, "how long each peer is measured in a round")
	rounds := flag.Int("rounds", 5, "how often")
	only := flag.String("rows", "", "measure only the rows that match this `regexp`: "+ids())
	markdown := flag.Bool("markdown", false, "print the tables as Markdown")
	svg := flag.String("svg", "", "draw a chart into this `file`")
	short := flag.Bool("short", false, "one round of 100 ms, to see that everything runs")
	verbose := flag.Bool("v", false, "print each figure as it is measured")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if *short {
		*round, *rounds = 100*time.Millisecond, 1
	}
	if *round <= 0 || *rounds <= 0 {
		return errors.New("-round and -rounds must be above 0")
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "udp-compare")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	argv, missing, err := prepare(dir)
	if err != nil {
		return err
	}
	c := &comparison{round: *round, verbose: *verbose, argv: argv, figures: results{}, allocs: map[string]float64{}}
	if c.serverCore, c.loadCore, err = cores(); err != nil {
		return err
	}

	c.steps.total = *rounds * stepsOf(wanted)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for i := range *rounds {
		for _, r := range rows {
			if wanted.MatchString(r.id) {
				c.row(ctx, r, i)
			}
		}
	}
	c.steps.end()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	print := table.text
	if *markdown {
		print = table.markdown
	}
	c.environment(os.Stdout, missing)
	print(figureTable(c.figures), os.Stdout)
	print(goalTable(c.figures, c.allocs), os.Stdout)
	print(shortTable(c.figures), os.Stdout)
	if *svg != "" {
		c.errs = append(c.errs, os.WriteFile(*svg, []byte(chart(c.figures)), 0o644))
	}
	return errors.Join(c.errs...)
}

func ids() string {
	var s []string
	for _, r := range rows {
		s = append(s, r.id)
	}
	return strings.Join(s, ", ")
}

// row measures each of the row's peers once.
func (c *comparison) row(ctx context.Context, r row, round int) {
	for _, name := range r.peers {
		argv := c.argv[name]
		if argv == nil || ctx.Err() != nil {
			continue
		}
		c.steps.next(round+1, r.id, name)
		v, note, err := c.measure(r, name, argv)
		if err != nil {
			c.errs = append(c.errs, fmt.Errorf("%s, %s: %w", r.id, name, err))
			v = math.NaN()
		}
		c.figures.add(r.id, name, v)
		if c.verbose {
			fmt.Fprintf(os.Stderr, "%d  %-13s %-22s %12.1f  %s\n", round+1, r.id, name, v, note)
		}
	}
}

// A progress says what is measured, and how long the rest will take: on one
// line of a terminal, or in a line for each row.
type progress struct {
	done, total int
	started     time.Time
	row         string
}

func stepsOf(wanted *regexp.Regexp) (n int) {
	for _, r := range rows {
		if wanted.MatchString(r.id) {
			n += len(r.peers)
		}
	}
	return n
}

func (p *progress) next(round int, row, peer string) {
	if p.done == 0 {
		p.started = time.Now()
	}
	left := "?"
	if p.done > 0 {
		each := time.Since(p.started) / time.Duration(p.done)
		left = (each * time.Duration(p.total-p.done)).Round(time.Second).String()
	}
	status := fmt.Sprintf("round %d, %d of %d, %s left: %s", round, p.done+1, p.total, left, row)
	switch {
	case onTerminal(os.Stderr):
		fmt.Fprintf(os.Stderr, "\r\x1b[K%s, %s", status, peer)
	case p.row != row:
		fmt.Fprintln(os.Stderr, status)
	}
	p.done, p.row = p.done+1, row
}

func (p *progress) end() {
	if onTerminal(os.Stderr) {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}

func onTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// measure starts the peer, gives it the row's load, and returns its figure.
func (c *comparison) measure(r row, name string, argv []string) (v float64, note string, err error) {
	to := 0
	if r.role == "send" || r.role == "write" {
		s, err := newSink()
		if err != nil {
			return 0, "", err
		}
		defer s.close()
		defer func() {
			if err == nil {
				err = s.verify()
			}
		}()
		to = s.port
	}
	p, err := start(argv, r.role, to, c.serverCore)
	if err != nil {
		return 0, "", err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	core := c.loadCore
	if r.load.oneCore {
		core = c.serverCore
	}
	before, err := pin(core)
	if err != nil {
		return 0, "", err
	}
	defer unix.SchedSetaffinity(0, before)

	switch {
	case r.role == "idle":
		s, err := p.sample()
		return float64(s.count) / 1024, "", err
	case r.load.latency:
		return c.latency(p)
	}
	do, done, err := c.load(r, p.port)
	if err != nil {
		return 0, "", err
	}
	defer done()
	if _, err := do(c.round / 8); err != nil { // buffers, caches and batches take their shape
		return 0, "", err
	}
	a, err := p.sample()
	if err != nil {
		return 0, "", err
	}
	n, err := do(c.round)
	if err != nil {
		return 0, "", err
	}
	b, err := p.sample()
	if err != nil {
		return 0, "", err
	}
	if r.role != "echo" {
		n = b.count - a.count
	}
	if n == 0 {
		return 0, "", errors.New("not one datagram")
	}
	if strings.HasPrefix(name, "udp") && r.unit == perCPU && n >= 10_000 { // with fewer, what the runtime allocates for itself would show
		c.allocs[name] = max(c.allocs[name], float64(b.mallocs-a.mallocs)/float64(n))
	}
	cpu := (b.cpu - a.cpu).Seconds()
	return float64(n) / cpu, fmt.Sprintf("server busy %.0f %%", 100*cpu/b.at.Sub(a.at).Seconds()), nil
}

// load returns what makes the row's load for a while, and what ends it. For
// echoes it counts them.
func (c *comparison) load(r row, port int) (do func(time.Duration) (uint64, error), done func(), err error) {
	switch r.role {
	case "echo":
		l, err := newEchoLoad(port, r.load)
		if err != nil {
			return nil, nil, err
		}
		return l.run, l.close, nil
	case "recv":
		fd, err := dial(port, 0)
		if err != nil {
			return nil, nil, err
		}
		return func(d time.Duration) (uint64, error) { return 0, flood(fd, d, r.load.bursts) }, func() { unix.Close(fd) }, nil
	}
	return func(d time.Duration) (uint64, error) { time.Sleep(d); return 0, nil }, func() {}, nil
}

func (c *comparison) latency(p *process) (float64, string, error) {
	fd, err := dial(p.port, 0)
	if err != nil {
		return 0, "", err
	}
	defer unix.Close(fd)
	if _, err := pingPong(fd, c.round/8); err != nil {
		return 0, "", err
	}
	times, err := pingPong(fd, c.round)
	if err != nil {
		return 0, "", err
	}
	slices.Sort(times)
	n := len(times)
	return float64(times[n/2].Nanoseconds()) / 1000, fmt.Sprintf("p99 %v", times[n*99/100]), nil
}

// environment prints what was measured where, and how to do it again.
func (c *comparison) environment(w io.Writer, missing map[string]string) {
	var u unix.Utsname
	unix.Uname(&u)
	fmt.Fprintf(w, "%s %s, %s, %s, %d cores; servers on core %d, load on core %d\n",
		unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]), processor(),
		runtime.Version(), runtime.NumCPU(), c.serverCore, c.loadCore)
	fmt.Fprintln(w, strings.Join(append([]string{"go run ./compare"}, os.Args[1:]...), " "))
	for _, p := range peers {
		if why := missing[p.name]; why != "" {
			fmt.Fprintf(w, "without %s: %s\n", p.name, why)
		}
	}
	fmt.Fprintln(w)
}

func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}
