//go:build linux

// refuse runs a command for which the kernel refuses some system calls, as in
// a sandbox: refuse ERRNO NUMBER,NUMBER COMMAND ARGS...
// (seccomp(2); the numbers are those of the command's architecture).
package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 4 {
		log.Fatal("usage: refuse ERRNO NUMBER,NUMBER COMMAND ARGS...")
	}
	errno := number(os.Args[1])
	// Load the call's number (offset 0 of struct seccomp_data), compare it with
	// each, and let pass what none of them is.
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}}
	for _, call := range strings.Split(os.Args[2], ",") {
		filter = append(filter,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: number(call)},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | errno})
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	path, err := exec.LookPath(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	runtime.LockOSThread() // the filter is this thread's, which execve(2) keeps
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		log.Fatal(err)
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		log.Fatal("seccomp: ", err)
	}
	log.Fatal(syscall.Exec(path, os.Args[3:], os.Environ()))
}

func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		log.Fatal(fmt.Errorf("refuse: %w", err))
	}
	return uint32(n)
}
