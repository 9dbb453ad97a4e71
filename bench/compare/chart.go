package main

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
)

// A chartGroup is a row of the comparison as the chart shows it: a title that
// a reader understands without the tables, and four peers at most.
type chartGroup struct {
	row, title string
	peers      []string
}

var chartGroups = []chartGroup{
	{"echo", "echo, 64 clients, 8 in flight each", []string{udpBatch, udpSimple, cMmsg, netLoop}},
	{"echo-offload", "the same, clients that segment", []string{udpBatch, cGSO, cMmsg, netLoop}},
	{"send", "send 1200 bytes, batches of 64", []string{udpBatch, cGSO, cMmsg, netLoop}},
	{"receive", "receive 1200 bytes, segmented", []string{udpBatch, cGSO, cMmsg, netLoop}},
}

// chartStyle gives each colour a contrast of 4.5:1 or more to the background
// in both schemes (WCAG 2.2, 1.4.3); chart_test.go computes it.
const chartStyle = `
svg{--back:#ffffff;--text:#1f2328;--ours:#0550ae;--others:#656d76}
@media(prefers-color-scheme:dark){svg{--back:#0d1117;--text:#e6edf3;--ours:#58a6ff;--others:#8b949e}}
.back{fill:var(--back)}text{fill:var(--text);font:14px system-ui,sans-serif}
.head,.group{font-weight:600}.head{font-size:15px}.ours{fill:var(--ours)}.others{fill:var(--others)}
`

// The picture is as wide as a phone, so that its text keeps its size there.
const (
	chartWidth  = 400
	chartMargin = 10
	chartNames  = 184 // the width of the names of the peers
	chartBar    = 136 // the length of the longest bar
	chartLine   = 23
)

// chart draws the rows of chartGroups as bars, in an SVG that needs nothing
// from outside and follows the reader's colour scheme.
func chart(res results) string {
	var b strings.Builder
	y := chartMargin
	text := func(x int, class, anchor, s string) {
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" class=\"%s\" text-anchor=\"%s\">", x, y+15, class, anchor)
		xml.EscapeText(&b, []byte(s))
		b.WriteString("</text>\n")
	}
	box := func(x int, length float64, class string) {
		fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"15\" class=\"%s\"/>\n", x, y+3, length, class)
	}
	text(chartMargin, "head", "start", "Datagrams per second of processor time")
	y += chartLine
	text(chartMargin, "", "start", "Longer is better.")
	box(chartMargin+136, 15, "ours")
	text(chartMargin+157, "", "start", "package udp")
	box(chartMargin+254, 15, "others")
	text(chartMargin+275, "", "start", "others")
	y += chartLine
	for _, g := range chartGroups {
		bars := g.bars(res)
		if len(bars) == 0 {
			continue
		}
		y += chartLine / 2
		text(chartMargin, "group", "start", g.title)
		y += chartLine
		for _, p := range bars {
			class := "others"
			if strings.HasPrefix(p.peer, "udp") {
				class = "ours"
			}
			text(chartMargin+chartNames-8, "", "end", p.peer)
			length := chartBar * p.median / bars[0].median
			box(chartMargin+chartNames, length, class)
			text(chartMargin+chartNames+int(length)+6, "", "start", number(p.median))
			y += chartLine
		}
	}
	y += chartMargin
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" role=\"img\">\n"+
		"<title>Datagrams per second of processor time, by peer</title>\n<style>%s</style>\n"+
		"<rect width=\"100%%\" height=\"100%%\" class=\"back\"/>\n%s</svg>\n",
		chartWidth, y, chartWidth, chartStyle, b.String())
}

// A chartBarOf is one bar: what a peer attains in the median of the rounds.
type chartBarOf struct {
	peer   string
	median float64
}

// bars returns the peers that were measured, the longest bar first.
func (g chartGroup) bars(res results) []chartBarOf {
	var bars []chartBarOf
	for _, p := range g.peers {
		if s, ok := res.figure(g.row, p); ok {
			bars = append(bars, chartBarOf{p, s.median})
		}
	}
	slices.SortStableFunc(bars, func(a, b chartBarOf) int { return cmp.Compare(b.median, a.median) })
	return bars
}
