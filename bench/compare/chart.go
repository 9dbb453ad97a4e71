package main

import (
	"fmt"
	"html"
	"strings"
)

// chart draws the bulk rows as bars, as an SVG of its own: no style sheet, no
// font but the reader's, greys and a blue that are legible on white and on
// black.
func chart(res results) string {
	const (
		width, label, room = 720, 190, 430 // of the picture, the names, the longest bar
		line, bar          = 20, 12
		grey, blue         = "#7d8590", "#2f81f7"
	)
	var b strings.Builder
	y := 0
	text := func(x int, style, s string) {
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" %s>%s</text>\n", x, y+bar-2, style, html.EscapeString(s))
	}
	for _, id := range []string{"echo", "echo-offload", "send", "receive"} {
		r, most := rowByID(id), 0.0
		for _, p := range r.peers {
			s, _ := res.figure(id, p)
			most = max(most, s.max)
		}
		if most == 0 {
			continue
		}
		y += line / 2
		text(0, `font-weight="bold"`, r.title+": "+r.unit)
		y += line
		for _, p := range r.peers {
			s, ok := res.figure(id, p)
			if !ok {
				continue
			}
			colour := grey
			if strings.HasPrefix(p, "udp") {
				colour = blue
			}
			x := func(v float64) float64 { return label + room*v/most }
			text(label-8, `text-anchor="end"`, p)
			fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", label, y, room*s.median/most, bar, colour)
			fmt.Fprintf(&b, "<path d=\"M%.1f %dH%.1f\" stroke=\"%s\" stroke-width=\"2\"/>\n", x(s.min), y+bar/2, x(s.max), "#d29922")
			text(int(x(s.max))+8, "", number(s.median))
			y += line
		}
	}
	y += line / 2
	text(0, "", "Bars are medians of all rounds, lines go from the least to the most.")
	y += line
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"%s\">\n%s</svg>\n",
		width, y+line/2, width, y+line/2, grey, b.String())
}
