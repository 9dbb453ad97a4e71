package udp_test

import (
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"example.com/udp"
	"golang.org/x/sys/unix"
)

// A refusal is a system call that a sandbox does not allow: where one of its
// arguments, counted from zero, has this value, unless that is zero.
type refusal struct {
	name     string
	call     uintptr
	argument int
	value    uint32
}

var refusals = []refusal{
	{"recvmmsg", unix.SYS_RECVMMSG, 0, 0},
	{"recvfrom", unix.SYS_RECVFROM, 0, 0},
	{"MSG_ERRQUEUE", unix.SYS_RECVMSG, 2, unix.MSG_ERRQUEUE | unix.MSG_DONTWAIT},
	{"IP_RECVERR", unix.SYS_SETSOCKOPT, 2, unix.IP_RECVERR},
	{"UDP_GRO", unix.SYS_SETSOCKOPT, 2, unix.UDP_GRO},
	{"SO_MEMINFO", unix.SYS_GETSOCKOPT, 2, unix.SO_MEMINFO},
}

// TestSandbox runs this test binary again where a filter (seccomp(2)) refuses
// a system call: nothing that arrives is lost, and refusals are heard.
func TestSandbox(t *testing.T) {
	const variable = "UDP_TEST_SANDBOX"
	if what := os.Getenv(variable); what != "" {
		name, number, _ := strings.Cut(what, " ")
		errno := syscall.ENOSYS
		if number == "EPERM" {
			errno = syscall.EPERM
		}
		refuse(t, refusals[slices.IndexFunc(refusals, func(r refusal) bool { return r.name == name })], errno)
		testSandbox(t)
		return
	}
	for _, r := range refusals {
		for _, number := range []string{"ENOSYS", "EPERM"} {
			t.Run(r.name+" "+number, func(t *testing.T) {
				t.Parallel()
				self := again(t, "TestSandbox", "-test.v")
				cmd := exec.Command(self[0], self[1:]...)
				cmd.Env = append(os.Environ(), variable+"="+r.name+" "+number)
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

func testSandbox(t *testing.T) {
	const total = 300
	n := setup{bind: "127.0.0.1:0", host: loopback4}
	first, open, all := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var count atomic.Int64
	n.config.ReadBuffer = 4 << 20
	c := n.listen(t, udp.HandlerFunc(func(*udp.Conn, udp.Datagram) {
		switch count.Add(1) {
		case 1:
			close(first)
			<-open
		case total:
			close(all)
		}
	}))
	flood(t, n, n.reach(c), 1)
	wait(t, first)
	flood(t, n, n.reach(c), total-1)
	close(open)
	wait(t, all)
	if s := c.Stats(); s.ReadErrors != 0 || s.Discarded != 0 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
	r := record()
	dialed := n.dial(t, n.dead(t), r)
	check(t, second(dialed.Write([]byte("x"))))
	if u := wait(t, r.undelivered); u.Err != syscall.ECONNREFUSED || u.Addr != dialed.RemoteAddr() {
		t.Errorf("the report is %+v", u)
	}
	shutdown(t, dialed)
	if s := dialed.Stats(); s.Undelivered != 1 || s.ReadErrors != 0 {
		t.Errorf("%+v", s)
	}
}

// refuse makes a system call fail for this process from now on.
func refuse(t *testing.T, r refusal, errno syscall.Errno) {
	t.Helper()
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
	)
	filter := []unix.SockFilter{
		{Code: load, K: 0}, // the number of the call
		{Code: equal, K: uint32(r.call), Jf: 3},
		{Code: load, K: uint32(16 + 8*r.argument)}, // its lower half, on a little-endian system
		{Code: equal, K: r.value, Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	if r.value == 0 {
		filter = slices.Delete(filter, 2, 4)
		filter[1].Jf = 1
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	check(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program))); errno != 0 {
		t.Skip("seccomp: ", errno)
	}
}
