package udp_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/udp"
)

// TestReadOutlives has each error that a read of a UDP socket is known to
// return, and some that none should: all are counted, logged and survived,
// and what comes next is read.
func TestReadOutlives(t *testing.T) {
	for _, cause := range []error{
		syscall.ENOMEM, syscall.ENOBUFS, syscall.EIO, syscall.EFAULT, syscall.EINVAL, syscall.EBADF, syscall.ENOTSOCK,
		syscall.ENETDOWN, syscall.ENODEV, syscall.ENXIO, syscall.EINTR, syscall.EAGAIN, syscall.ENOTCONN, syscall.EPIPE,
		syscall.ECONNABORTED, syscall.EPERM, syscall.Errno(9999),
		io.EOF, io.ErrUnexpectedEOF, os.ErrDeadlineExceeded, errors.New("not pollable"),
		&net.OpError{Op: "read", Net: "udp", Err: os.NewSyscallError("recvmsg", syscall.ENOMEM)},
	} {
		synctest.Test(t, func(t *testing.T) {
			fails := 3
			start := time.Now()
			from := netip.MustParseAddrPort("192.0.2.1:9")
			pc := newFakeSocket()
			pc.read = func(b []byte) (int, net.Addr, error) {
				if fails--; fails >= 0 {
					return 0, nil, cause
				}
				if fails == -1 {
					return copy(b, "hello"), net.UDPAddrFromAddrPort(from), nil
				}
				<-pc.closed
				return 0, nil, net.ErrClosed
			}
			var log logBuffer
			r := record()
			lc := udp.ListenConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))}
			c, err := lc.NewConn(pc, r)
			check(t, err)
			r.expect(t, "hello", from)
			if took := time.Since(start); took != 35*time.Millisecond {
				t.Errorf("%v: the pauses are %v, want 5, 10 and 20 ms", cause, took)
			}
			if s := c.Stats(); s.ReadErrors != 3 || s.Undelivered != 0 {
				t.Errorf("%v: %+v", cause, s)
			}
			if got := strings.Count(log.String(), "read failed"); got != 3 {
				t.Errorf("%v: %d lines are logged", cause, got)
			}
			check(t, c.Close())
			check(t, wait(t, r.stopped))
		})
	}
}

// TestReadReports has a socket that cannot keep reports apart return them
// from its reads, on end: they are told and counted, and nothing pauses.
func TestReadReports(t *testing.T) {
	for _, errno := range reportErrnos() {
		synctest.Test(t, func(t *testing.T) {
			const total = 1000
			fails, start := 0, time.Now()
			pc := newFakeSocket()
			pc.read = func([]byte) (int, net.Addr, error) {
				if fails++; fails <= total {
					return 0, nil, &net.OpError{Op: "read", Net: "udp", Err: os.NewSyscallError("recvmsg", errno)}
				}
				<-pc.closed
				return 0, nil, net.ErrClosed
			}
			r := record()
			c, err := udp.NewConn(pc, r)
			check(t, err)
			for range total {
				if u := <-r.undelivered; u.Err != errno {
					t.Fatalf("%+v, want %v", u, errno)
				}
			}
			if s := c.Stats(); s.Undelivered != total || s.ReadErrors != 0 || time.Since(start) != 0 {
				t.Errorf("%v: after %v: %+v", errno, time.Since(start), s)
			}
			check(t, c.Close())
			check(t, wait(t, r.stopped))
		})
	}
}

// TestWriteReports has a socket that cannot keep reports apart return them
// from its writes: of a few the datagram is sent all the same, and they are
// told; what never ends is the datagram's own failure, and no report.
func TestWriteReports(t *testing.T) {
	to := netip.MustParseAddrPort("192.0.2.1:9")
	for _, errno := range reportErrnos() {
		synctest.Test(t, func(t *testing.T) {
			fails := 0
			pc := newFakeSocket()
			pc.write = func([]byte) error {
				if fails--; fails >= 0 {
					return os.NewSyscallError("sendmsg", errno)
				}
				return nil
			}
			r := record()
			c, err := udp.NewConn(pc, r)
			check(t, err)
			check(t, c.Connect(to))
			told := 0
			for n := range 5 {
				fails = n
				if size, err := c.Write([]byte("hello")); size != 5 || err != nil {
					t.Errorf("%v, %d times: %d, %v", errno, n, size, err)
				}
				told += n
			}
			synctest.Wait()
			if s := c.Stats(); s.Undelivered != uint64(told) || s.WriteErrors != 0 {
				t.Errorf("%v: %d reports, %+v", errno, told, s)
			}
			fails = 1 << 30
			_, err = c.Write([]byte("hello"))
			checkOpError(t, err)
			if !errors.Is(err, errno) {
				t.Errorf("%v, want %v", err, errno)
			}
			if tries := 1<<30 - fails; tries > 200 {
				t.Errorf("%v: %d tries", errno, tries)
			}
			if s := c.Stats(); errno != syscall.ECONNREFUSED && s.Undelivered != uint64(told) || s.WriteErrors != 1 {
				t.Errorf("%v: %+v", errno, s)
			}
			check(t, c.Close())
			check(t, wait(t, r.stopped))
		})
	}
}

// TestWriteErrors has each other error of a write: it is returned at once.
func TestWriteErrors(t *testing.T) {
	to := netip.MustParseAddrPort("192.0.2.1:9")
	for _, errno := range []syscall.Errno{
		syscall.EPERM, syscall.ENOMEM, syscall.ENETDOWN, syscall.EINVAL, syscall.EIO, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT,
		syscall.EDESTADDRREQ, syscall.ENODEV, syscall.ENXIO, syscall.EFAULT, syscall.EBADF, syscall.EPIPE, syscall.EISCONN,
	} {
		tries := 0
		pc := newFakeSocket()
		pc.write = func([]byte) error { tries++; return os.NewSyscallError("sendmsg", errno) }
		c, err := udp.NewConn(pc, nil)
		check(t, err)
		closeAtEnd(t, c)
		_, err = c.WriteTo([]byte("x"), to)
		checkOpError(t, err)
		if !errors.Is(err, errno) || tries != 1 {
			t.Errorf("%v: %d tries, %v", errno, tries, err)
		}
		if s := c.Stats(); s.WriteErrors != 1 || s.WriteDatagrams != 0 || s.Undelivered != 0 {
			t.Errorf("%v: %+v", errno, s)
		}
	}
}

// reportErrnos are the errors that reports come as.
func reportErrnos() []syscall.Errno {
	if runtime.GOOS == "windows" {
		return []syscall.Errno{syscall.ECONNREFUSED, syscall.EHOSTUNREACH}
	}
	return []syscall.Errno{
		syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EMSGSIZE,
		syscall.ENOPROTOOPT, syscall.EOPNOTSUPP, syscall.EACCES,
	}
}
