package udp_test

import (
	"testing"

	"example.com/udp"
)

func TestStatsString(t *testing.T) {
	s := udp.Stats{Reads: 2, ReadDatagrams: 30, ReadBytes: 400, Writes: 5, WriteDatagrams: 60, WriteBytes: 700}
	want := "read 30 datagrams (400 bytes, 2 calls), wrote 60 (700 bytes, 5 calls)"
	if got := s.String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	s.Dropped, s.WriteErrors = 8, 9
	if got, want := s.String(), want+", 8 dropped, 9 write errors"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
