// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// report collects samples by goal and measure, in the order they first came.
type report struct {
	rows []*series
}

type series struct {
	goal, what string
	samples    []time.Duration
	text       string // for what is no duration
}

func (r *report) row(goal, what string) *series {
	for _, s := range r.rows {
		if s.goal == goal && s.what == what {
			return s
		}
	}
	s := &series{goal: goal, what: what}
	r.rows = append(r.rows, s)
	return s
}

func (r *report) add(goal, what string, d time.Duration) {
	s := r.row(goal, what)
	s.samples = append(s.samples, d)
}

func (r *report) say(goal, what, text string) { r.row(goal, what).text = text }

// print writes one line per measure; times are in milliseconds.
func (r *report) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight|tabwriter.Debug)
	fmt.Fprintln(t, "goal\tmeasure\tn\tp50 ms\tp90 ms\tp99 ms\t")
	for _, s := range r.rows {
		if s.text != "" {
			fmt.Fprintf(t, "%s\t%s\t\t%s\t\t\t\n", s.goal, s.what, s.text)
			continue
		}
		slices.Sort(s.samples)
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t\n", s.goal, s.what, len(s.samples), ms(quantile(s.samples, 0.5)), ms(quantile(s.samples, 0.9)), ms(quantile(s.samples, 0.99)))
	}
	t.Flush()
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }

// quantile of sorted samples, by the nearest rank.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
