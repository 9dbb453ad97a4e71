package udp

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// askForReports: setUp has asked.
func (s *udpSocket) askForReports() (on bool) { return s.keepsReports }

// takeReports hands at most limit entries of the queue to take, and tells
// whether it stopped for that. When the last has been taken, no error is
// pending any more.
func (s *udpSocket) takeReports(limit int, take func(Undelivered)) (more bool) {
	s.raw.Control(func(fd uintptr) {
		var payload [1]byte // the beginning of the datagram, of no use
		var oob [reportSpace]byte
		for taken := 0; taken < limit; {
			_, n, _, from, err := syscall.Recvmsg(int(fd), payload[:], oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return // EAGAIN: no more
			}
			taken++
			if u, ok := parseReport(oob[:n]); ok {
				u.Addr = addrPort(fd, from)
				if scope := interfaceNumber(u.Offender.Zone()); scope != 0 {
					u.Offender = u.Offender.WithZone(s.zones.name(fd, scope))
				}
				take(u)
			}
		}
		more = true
	})
	return more
}

const (
	// reportSpace is room for the control data of an entry: an extended
	// error with an address, and what the socket has asked for beside it.
	reportSpace = 256

	extendedError = 16 // bytes of struct sock_extended_err
)

// parseReport returns what the control messages of an entry say about a
// datagram. Entries that are not from the network are none: the kernel also
// queues errors that the write itself has returned.
func parseReport(b []byte) (u Undelivered, ok bool) {
	for {
		level, kind, data, rest, more := nextControl(b)
		if !more {
			return u, false
		}
		b = rest
		isError := level == unix.IPPROTO_IP && kind == unix.IP_RECVERR || level == unix.IPPROTO_IPV6 && kind == unix.IPV6_RECVERR
		if isError && len(data) >= extendedError {
			if origin := data[4]; origin == unix.SO_EE_ORIGIN_ICMP || origin == unix.SO_EE_ORIGIN_ICMP6 {
				return reportOf(data)
			}
		}
	}
}

// reportOf reads a struct sock_extended_err, and the address after it.
func reportOf(data []byte) (u Undelivered, ok bool) {
	errno := syscall.Errno(binary.NativeEndian.Uint32(data))
	if errno == 0 {
		return u, false
	}
	u = Undelivered{Offender: offender(data[extendedError:]), Err: errno}
	if errno == unix.EMSGSIZE {
		u.MTU = int(min(binary.NativeEndian.Uint32(data[8:]), math.MaxInt32)) // ee_info, as in the packet
	}
	return u, true
}

// offender reads the socket address of who sent the message
// (SO_EE_OFFENDER), with a number for its zone; zero: unknown.
func offender(b []byte) netip.Addr {
	if len(b) < 2 {
		return netip.Addr{}
	}
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET && len(b) >= unix.SizeofSockaddrInet4:
		return netip.AddrFrom4([4]byte(b[4:]))
	case family == unix.AF_INET6 && len(b) >= unix.SizeofSockaddrInet6:
		a := netip.AddrFrom16([16]byte(b[8:])).Unmap()
		if scope := binary.NativeEndian.Uint32(b[24:]); scope != 0 && a.Is6() {
			a = a.WithZone(strconv.Itoa(int(scope)))
		}
		return a
	}
	return netip.Addr{}
}
