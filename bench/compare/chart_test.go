package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// chartResults has a figure for each bar of the chart.
func chartResults() results {
	res := results{}
	for i, g := range chartGroups {
		for j, p := range g.peers {
			res.add(g.row, p, float64(i+1)*1e5*float64(1+j*j))
		}
	}
	return res
}

// TestChart reads the picture as a reader's browser does: it is XML, each
// group has its peers in the order of their bars, the longest first.
func TestChart(t *testing.T) {
	svg := chart(chartResults())
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	at := 0
	for _, g := range chartGroups {
		if len(g.peers) > 4 {
			t.Errorf("%s has %d bars", g.row, len(g.peers))
		}
		for i := len(g.peers) - 1; i >= 0; i-- { // the sample's last peer is its best
			next := strings.Index(svg[at:], ">"+g.peers[i]+"<")
			if next < 0 {
				t.Fatalf("%s is missing or out of order in %s", g.peers[i], g.row)
			}
			at += next
		}
	}
	const background, legend = 1, 2
	if got, want := strings.Count(chart(results{}), "<rect "), background+legend; got != want {
		t.Errorf("a chart without results has %d boxes, want %d", got, want)
	}
}

// TestChartFits keeps each name, bar and figure inside of the picture, in a
// wide font.
func TestChartFits(t *testing.T) {
	for _, g := range chartGroups {
		for _, p := range g.peers {
			if width := 8.2 * float64(len(p)); width > chartNames-8 {
				t.Errorf("%q takes %.0f of %d", p, width, chartNames-8)
			}
		}
	}
	const widestFigure = 60 // of "15.7 M" in 14 px
	if chartMargin+chartNames+chartBar+6+widestFigure > chartWidth {
		t.Error("the longest bar leaves no room for its figure")
	}
}

// TestChartContrast computes the contrast of each colour of text and bars to
// the background, in both schemes.
func TestChartContrast(t *testing.T) {
	schemes := regexp.MustCompile(`svg\{([^}]*)\}`).FindAllStringSubmatch(chartStyle, -1)
	if len(schemes) != 2 {
		t.Fatalf("%d colour schemes", len(schemes))
	}
	for _, scheme := range schemes {
		colours := map[string]float64{}
		for _, c := range regexp.MustCompile(`--(\w+):#(\w{6})`).FindAllStringSubmatch(scheme[1], -1) {
			colours[c[1]] = luminance(t, c[2])
		}
		for _, name := range []string{"text", "ours", "others"} {
			a, b := colours[name], colours["back"]
			if ratio := (max(a, b) + 0.05) / (min(a, b) + 0.05); ratio < 4.5 {
				t.Errorf("%s has a contrast of %.2f in %s", name, ratio, scheme[1])
			}
		}
	}
}

// luminance is the relative luminance of WCAG 2.2.
func luminance(t *testing.T, colour string) (sum float64) {
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		v, err := strconv.ParseUint(colour[2*i:2*i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(v) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}

// TestChartIsStable draws the same picture of the same figures, so that a new
// run changes only what it measured.
func TestChartIsStable(t *testing.T) {
	if !bytes.Equal([]byte(chart(chartResults())), []byte(chart(chartResults()))) {
		t.Error("two pictures of the same figures differ")
	}
}
