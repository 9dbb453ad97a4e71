package main

import (
	"math"
	"slices"
	"testing"
)

func TestSummarize(t *testing.T) {
	for _, tt := range []struct {
		in   []float64
		want spread
		ok   bool
	}{
		{nil, spread{}, false},
		{[]float64{math.NaN()}, spread{}, false},
		{[]float64{3}, spread{3, 3, 3}, true},
		{[]float64{9, 1, 2}, spread{2, 1, 9}, true},
		{[]float64{4, 1, math.NaN(), 3, 2}, spread{2.5, 1, 4}, true},
	} {
		if got, ok := summarize(tt.in); got != tt.want || ok != tt.ok {
			t.Errorf("summarize(%v) = %v, %v, want %v, %v", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}

func TestRatioPairsRounds(t *testing.T) {
	r := results{}
	for i, v := range []float64{10, 20, math.NaN(), 80} {
		r.add("echo", "a", v)
		r.add("echo", "b", float64(int(5)<<i)) // 5, 10, 20, 40
	}
	if got, ok := r.ratio("echo", "a", "b"); !ok || got != (spread{2, 2, 2}) {
		t.Errorf("ratio = %v, %v, want 2 in each round", got, ok)
	}
	if _, ok := r.ratio("echo", "a", "missing"); ok {
		t.Error("a ratio to a peer that was not measured")
	}
}

func TestVerdict(t *testing.T) {
	more, less := goal{floor: 1, aim: 2}, goal{floor: 0.9, aim: 0.7}
	for _, tt := range []struct {
		g    goal
		v    float64
		less bool
		want string
	}{
		{more, 2, false, "aim"}, {more, 1.99, false, "floor"}, {more, 0.99, false, "below"},
		{less, 0.7, true, "aim"}, {less, 0.9, true, "floor"}, {less, 0.91, true, "below"},
		{goal{}, 0, true, "aim"}, {goal{}, 0.01, true, "below"},
	} {
		if got := tt.g.verdict(tt.v, tt.less); got != tt.want {
			t.Errorf("verdict of %v with floor %v, aim %v = %q, want %q", tt.v, tt.g.floor, tt.g.aim, got, tt.want)
		}
	}
}

// TestGoalsHaveRows checks that each goal's figures are measured.
func TestGoalsHaveRows(t *testing.T) {
	for _, g := range slices.Concat(goals, decisive) {
		if g.row == "allocations" {
			continue
		}
		r := rowByID(g.row)
		for _, p := range []string{g.ours, g.against} {
			if p != "" && !slices.Contains(r.peers, p) {
				t.Errorf("row %q does not measure %q", g.row, p)
			}
		}
	}
	for _, r := range rows {
		for _, p := range r.peers {
			if !slices.ContainsFunc(peers, func(q peer) bool { return q.name == p }) {
				t.Errorf("row %q names %q, which is no peer", r.id, p)
			}
		}
	}
}
