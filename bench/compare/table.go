package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

type table struct {
	title  string
	header []string
	rows   [][]string
}

func (t table) text(w io.Writer) {
	fmt.Fprintln(w, t.title)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range append([][]string{t.header}, t.rows...) {
		fmt.Fprintln(tw, "  "+strings.Join(r, "\t"))
	}
	tw.Flush()
	fmt.Fprintln(w)
}

func (t table) markdown(w io.Writer) {
	fmt.Fprintf(w, "%s\n\n| %s |\n|%s\n", t.title, strings.Join(t.header, " | "), strings.Repeat("---|", len(t.header)))
	for _, r := range t.rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(r, " | "))
	}
	fmt.Fprintln(w)
}

func rowByID(id string) row {
	for _, r := range rows {
		if r.id == id {
			return r
		}
	}
	return row{title: id}
}

// figureTable has what each peer did.
func figureTable(res results) table {
	t := table{title: "Medians, and the least and the most of all rounds", header: []string{"work", "peer", "median", "min to max", "unit"}}
	for _, r := range rows {
		for _, p := range r.peers {
			if s, ok := res.figure(r.id, p); ok {
				t.rows = append(t.rows, []string{r.title, p, number(s.median), number(s.min) + " to " + number(s.max), r.unit})
			}
		}
	}
	return t
}

// goalTable has how package udp compares, with what it is to attain beside.
func goalTable(res results, allocs map[string]float64) table {
	t := table{title: "Package udp against the others: medians of the ratios of each round", header: []string{"work", "peer", "against", "figure", "min to max", "floor", "aim", "attained"}}
	for _, g := range goals {
		r := rowByID(g.row)
		var s spread
		var ok bool
		ours, against := g.ours, g.against
		switch {
		case g.row == "allocations":
			s, ok = worst(allocs)
			r = row{title: "allocations for each datagram, the most", less: true}
			ours = "udp, all"
			against = "-"
		case against == "":
			s, ok = res.figure(g.row, g.ours)
			against = "- (" + r.unit + ")"
		default:
			s, ok = res.ratio(g.row, g.ours, g.against)
		}
		if !ok {
			continue
		}
		at := ""
		if r.less {
			at = "≤ "
		}
		t.rows = append(t.rows, []string{r.title, ours, against, number(s.median), number(s.min) + " to " + number(s.max),
			at + number(g.floor), at + number(g.aim), g.verdict(s.median, r.less)})
	}
	return t
}

// shortTable has the goals that decide, in three columns, so that it fits on a
// phone. More is better in each row: a round trip counts by its inverse.
func shortTable(res results) table {
	t := table{title: "Package udp against the others", header: []string{"work", "against", "ratio"}}
	for _, g := range decisive {
		r := rowByID(g.row)
		s, ok := res.ratio(g.row, g.ours, g.against)
		if !ok {
			continue
		}
		if r.less {
			s.median = 1 / s.median
		}
		t.rows = append(t.rows, []string{r.title + ": " + strings.TrimPrefix(g.ours, "udp, "), g.against, number(s.median) + "×"})
	}
	return t
}

// worst is the most allocations that any peer made for a datagram, to two
// places: the runtime makes a few by itself, now and then.
func worst(allocs map[string]float64) (s spread, ok bool) {
	for _, v := range allocs {
		s.median, ok = max(s.median, float64(int(v*100+0.5))/100), true
	}
	s.min, s.max = s.median, s.median
	return s, ok
}

// number has three figures, and k or M where there are many.
func number(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.3g M", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.3g k", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}
