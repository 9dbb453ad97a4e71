package udp_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"example.com/udp"
)

// history is a handler of a consumer, with a mistake: it keeps payloads.
type history struct{ lines [][]byte }

func (h *history) HandleDatagram(_ *udp.Conn, d udp.Datagram) { h.lines = append(h.lines, d.Payload) }
func (h *history) all() [][]byte                              { return h.lines }

// historyOfBatches makes another: it keeps the slice.
type historyOfBatches struct {
	history
	batches [][]udp.Datagram
}

func (h *historyOfBatches) HandleBatch(_ *udp.Conn, ds []udp.Datagram) {
	h.batches = append(h.batches, ds)
}

func (h *historyOfBatches) all() (lines [][]byte) {
	for _, ds := range h.batches {
		for _, d := range ds {
			lines = append(lines, d.Payload)
		}
	}
	return lines
}

// clonedHistory makes none.
type clonedHistory struct{ history }

func (h *clonedHistory) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	h.history.HandleDatagram(c, d.Clone())
}

// checkHistory is the test that the consumer has of such a handler. It says
// nothing about lent payloads, and returns what is wrong.
func checkHistory(t *testing.T, h interface {
	udp.Handler
	all() [][]byte
}) (err error) {
	synctest.Test(t, func(t *testing.T) {
		lc := &udp.ListenConfig{PacketListener: new(udp.MemNet)}
		c, err2 := lc.Listen(t.Context(), "10.0.0.1:7", h)
		check(t, err2)
		defer c.Close()
		want := []string{"one", "two", "three"}
		for _, line := range want {
			check(t, second(c.WriteTo([]byte(line), c.LocalAddr())))
		}
		synctest.Wait()
		var got []string
		for _, line := range h.all() {
			got = append(got, string(line))
		}
		if !slices.Equal(got, want) {
			err = fmt.Errorf("the history is %q, want %q", got, want)
		}
	})
	return err
}

// TestKeptPayloadIsFound has the consumer's test find the mistakes.
func TestKeptPayloadIsFound(t *testing.T) {
	if err := checkHistory(t, new(clonedHistory)); err != nil {
		t.Errorf("a handler that clones: %v", err)
	}
	if !raceDetector() {
		t.Skip("payloads are overwritten only with the race detector: try -race")
	}
	if err := checkHistory(t, new(history)); err == nil {
		t.Error("a handler that keeps payloads is not found")
	}
	if err := checkHistory(t, new(historyOfBatches)); err == nil {
		t.Error("a handler that keeps a batch is not found")
	}
}
