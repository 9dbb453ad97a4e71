package main

import (
	"strings"
	"testing"
)

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.744: "0.744", 1.2345: "1.23", 45.67: "45.7", 999: "999", 1234: "1234", 45678: "45.7 k", 2345678: "2.35 M"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}

func sampleResults() results {
	r := results{}
	for i := range 3 {
		f := float64(1 + i)
		r.add("echo", udpBatch, 300e3*f)
		r.add("echo", netLoop, 100e3*f)
		r.add("idle", udpSimple, 4)
	}
	return r
}

func TestGoalTable(t *testing.T) {
	var b strings.Builder
	goalTable(sampleResults(), map[string]float64{udpBatch: 0.0001, udpSimple: 1.5}).markdown(&b)
	for _, want := range []string{
		"| echo, 64 flows, 8 in flight, 64 B | udp, batches | net | 3 | 3 to 3 | 1.8 | 2.5 | aim |",
		"| Go memory of an idle socket | udp, one by one | - (KiB) | 4 | 4 to 4 | ≤ 5 | ≤ 3 | floor |",
		"| 1.5 | 1.5 to 1.5 | ≤ 0 | ≤ 0 | below |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no line %q in\n%s", want, &b)
		}
	}
	if n := strings.Count(b.String(), "\n| "); n != 4 {
		t.Errorf("%d lines, want a header and what was measured:\n%s", n, &b)
	}
}

// TestShortTable has more be better in each row.
func TestShortTable(t *testing.T) {
	r := sampleResults()
	r.add("ping-pong-2", udpSimple, 50)
	r.add("ping-pong-2", netLoop, 100)
	var b strings.Builder
	shortTable(r).markdown(&b)
	for _, want := range []string{
		"| echo, 64 flows, 8 in flight, 64 B: batches | net | 3× |",
		"| ping-pong on two cores: one by one | net | 2× |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no line %q in\n%s", want, &b)
		}
	}
}

func TestFigureTable(t *testing.T) {
	var b strings.Builder
	figureTable(sampleResults()).text(&b)
	if want := "600 k   300 k to 900 k"; !strings.Contains(b.String(), want) {
		t.Errorf("no %q in\n%s", want, &b)
	}
}
