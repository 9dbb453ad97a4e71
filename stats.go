package udp

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// Stats are the totals of a Conn since it was opened; reading them resets
// nothing.
type Stats struct {
	// Reads are the system calls that returned something, ReadDatagrams what
	// they returned: ReadDatagrams/Reads is the length of a batch. ReadBytes
	// are the payloads of these datagrams, cut to MaxDatagram. All of them
	// count, those that are then discarded too.
	Reads         uint64
	ReadDatagrams uint64
	ReadBytes     uint64

	// Truncated are those that were cut to MaxDatagram.
	Truncated uint64

	// Discarded are those that were read, but not handed to the handler: not
	// from the peer of a connected Conn, to a group that was not joined, from
	// a forged source, after Close, or because a handler ended the goroutine
	// (runtime.Goexit) before it came to them.
	Discarded uint64

	// Dropped is what Linux threw away before it could be read, since the
	// socket was opened: mostly because the receive buffer was full; but a
	// bad checksum counts too, and so does what a socket filter refuses.
	// Datagrams that Linux had joined (UDP_GRO, udp(7)) count as one. Zero
	// on other systems.
	Dropped uint64

	// Undelivered are reports of the network that a datagram did not arrive,
	// whether the handler hears of them (HandleUndelivered) or not.
	Undelivered uint64

	// ReadErrors are failures of reads for no known reason. The Conn has
	// tried again after each.
	ReadErrors uint64

	// Writes are the system calls that sent something, WriteDatagrams what
	// they sent, WriteBytes the payloads of these, and WriteErrors the
	// datagrams that could not be sent.
	Writes         uint64
	WriteDatagrams uint64
	WriteBytes     uint64
	WriteErrors    uint64

	// Queued is how many bytes wait in the receive buffer now, as the system
	// counts them (Linux, SO_MEMINFO of socket(7)): to compare with the size
	// of the buffer that it grants, twice ListenConfig.ReadBuffer. Zero after
	// Close, and on other systems.
	Queued uint64

	// Panics are those that ListenConfig.Recover got.
	Panics uint64
}

// String returns the totals for people to read. What went wrong is named only
// if something did; the form may change.
func (s Stats) String() string {
	text := fmt.Sprintf("read %d datagrams (%d bytes, %d calls), wrote %d (%d bytes, %d calls)",
		s.ReadDatagrams, s.ReadBytes, s.Reads, s.WriteDatagrams, s.WriteBytes, s.Writes)
	for _, fault := range []struct {
		count uint64
		name  string
	}{
		{s.Truncated, "truncated"}, {s.Discarded, "discarded"}, {s.Dropped, "dropped"}, {s.Undelivered, "undelivered"},
		{s.Queued, "bytes queued"}, {s.ReadErrors, "read errors"}, {s.WriteErrors, "write errors"}, {s.Panics, "panics"},
	} {
		if fault.count > 0 {
			text += fmt.Sprintf(", %d %s", fault.count, fault.name)
		}
	}
	return text
}

// statistics counts for Stats. A call for one datagram counts itself only, so
// that the datagrams are the calls and what further ones batches had.
type statistics struct {
	reads, readMore, readBytes    atomic.Uint64
	truncated, discarded          atomic.Uint64
	undelivered, readErrors       atomic.Uint64
	writes, writeMore, writeBytes atomic.Uint64
	writeErrors, panics           atomic.Uint64
}

// read returns how many there have been.
func (s *statistics) read(datagrams, bytes int) (reads uint64) {
	s.readBytes.Add(uint64(bytes))
	if datagrams > 1 {
		s.readMore.Add(uint64(datagrams - 1))
	}
	return s.reads.Add(1)
}

func (s *statistics) wrote(datagrams, bytes int) {
	s.writes.Add(1)
	s.writeBytes.Add(uint64(bytes))
	if datagrams > 1 {
		s.writeMore.Add(uint64(datagrams - 1))
	}
}

// Stats returns what the Conn has counted so far, also after Close.
func (c *Conn) Stats() Stats {
	s := &c.stats
	reads, writes := s.reads.Load(), s.writes.Load()
	return Stats{
		Reads:          reads,
		ReadDatagrams:  reads + s.readMore.Load(),
		ReadBytes:      s.readBytes.Load(),
		Truncated:      s.truncated.Load(),
		Discarded:      s.discarded.Load(),
		Dropped:        c.sock.dropped(),
		Queued:         c.sock.queued(),
		Undelivered:    s.undelivered.Load(),
		ReadErrors:     s.readErrors.Load(),
		Writes:         writes,
		WriteDatagrams: writes + s.writeMore.Load(),
		WriteBytes:     s.writeBytes.Load(),
		WriteErrors:    s.writeErrors.Load(),
		Panics:         s.panics.Load(),
	}
}

// dropInterval is the number of reads after which the goroutine asks what has
// been dropped, so that a count modulo 2^32 is not further on by more.
const dropInterval = 256

// A counter makes a total of a count that the system keeps modulo 2^32, and
// so must be asked for it more often than that wraps.
type counter struct {
	mu    sync.Mutex
	last  uint32
	total uint64
}

// advance adds what has come since the last time, and returns the total. It
// calls count under its lock, as counts must not overtake each other.
func (n *counter) advance(count func() (now uint32, ok bool)) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now, ok := count(); ok {
		n.total += uint64(now - n.last)
		n.last = now
	}
	return n.total
}
