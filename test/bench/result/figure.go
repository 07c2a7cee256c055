// SPDX-License-Identifier: Apache-2.0

package result

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Quantile of samples in any order, by the nearest rank; NaN of none.
func Quantile(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// moreIsBetter says which way a unit is good.
func moreIsBetter(unit string) bool { return strings.HasSuffix(unit, "/s") }

// times says how many times as good ours is as theirs.
func times(unit string, ours, theirs float64) float64 {
	if moreIsBetter(unit) {
		return ours / theirs
	}
	return theirs / ours
}

// Figure writes a value with three digits that count.
func Figure(v float64) string {
	switch {
	case math.IsNaN(v):
		return ""
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	case math.Abs(v) >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// set is all that was measured, of all parts.
type set []Measurement

func join(parts []Part) set {
	var s set
	for _, p := range parts {
		s = append(s, p.Measurements...)
	}
	return s
}

// of keeps what f wants.
func (s set) of(f func(Measurement) bool) set {
	var out set
	for _, m := range s {
		if f(m) {
			out = append(out, m)
		}
	}
	return out
}

func (s set) named(goal, name, subject string) set {
	return s.of(func(m Measurement) bool { return m.Goal == goal && m.Name == name && m.Subject == subject })
}

func (s set) at(n int) set { return s.of(func(m Measurement) bool { return m.At == n }) }

func (s set) samples() []float64 {
	var out []float64
	for _, m := range s {
		out = append(out, m.Samples...)
	}
	return out
}

// sizes lists the At of s, each once, the smallest first.
func (s set) sizes() []int {
	var out []int
	for _, m := range s {
		out = append(out, m.At)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// rounds lists a quantile of each round, by round.
func (s set) rounds(q float64) map[int]float64 {
	samples := map[int][]float64{}
	for _, m := range s {
		samples[m.Round] = append(samples[m.Round], m.Samples...)
	}
	out := map[int]float64{}
	for round, list := range samples {
		out[round] = Quantile(list, q)
	}
	return out
}
