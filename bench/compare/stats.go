package main

import (
	"math"
	"slices"
)

// summarize leaves out NaN; it reports false where nothing is left.
func summarize(vs []float64) (spread, bool) {
	vs = slices.DeleteFunc(slices.Clone(vs), math.IsNaN)
	if len(vs) == 0 {
		return spread{}, false
	}
	slices.Sort(vs)
	n := len(vs)
	return spread{(vs[(n-1)/2] + vs[n/2]) / 2, vs[0], vs[n-1]}, true
}
