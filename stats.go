package udp

import (
	"sync"
	"sync/atomic"
)

// Stats are the totals of a Conn since it was opened; reading them resets
// nothing.
type Stats struct {
	Reads         uint64 // system calls that returned something: ReadDatagrams/Reads is the batch
	ReadDatagrams uint64
	ReadBytes     uint64 // of payload, as delivered
	Truncated     uint64 // cut to MaxDatagram
	Discarded     uint64 // read, but not for the handler: not from the peer, to a group not joined, or after Close
	Dropped       uint64 // thrown away by the kernel, because the receive buffer was full (Linux); those it had joined count as one
	Undelivered   uint64 // reports of the network that a datagram did not arrive
	ReadErrors    uint64 // survived

	Writes         uint64 // system calls that sent something
	WriteDatagrams uint64
	WriteBytes     uint64 // of payload
	WriteErrors    uint64 // datagrams that could not be sent

	Panics uint64 // recovered
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
