// SPDX-License-Identifier: Apache-2.0

// Command plot draws what the parts of the benchmark measured, as SVG: how long
// Pods take to start, how that and memory grow with their number, and how the
// scheduler does with more and more nodes. A picture of which nothing was
// measured is not drawn.
package main

import (
	"flag"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/peapod/peapod/test/bench/result"
)

// picture is one measure of both subjects.
type picture struct {
	file, title string
	goal, name  string
	x, y        string
	draw        func(picture, *plot.Plot, []result.Measurement) (drawn bool, err error)
}

var pictures = []picture{
	{"start-distribution.svg", "Create to Running, one Pod at a time", "P2", result.CreateToRunning, "ms", "share of Pods", distribution},
	{"start-growth.svg", "Create to Running among other Pods, median", "P9", result.StartAmong, "Pods on the node", "ms", growth},
	{"memory-growth.svg", "Memory per Pod beside its own processes", "P9", result.OverheadPerPod, "Pods on the node", "MB", growth},
	{"scheduler-nodes.svg", "Scheduling of Pods that ask for the same", "P7", result.PodsScheduledByNodes, "nodes", "Pods/s", growth},
}

var subjects = []struct {
	name, title string
	color       color.Color
}{
	{result.Peapod, "Peapod", color.RGBA{R: 0x1b, G: 0x7f, B: 0x3b, A: 0xff}},
	{result.Stock, "stock Kubernetes", color.RGBA{R: 0x32, G: 0x6c, B: 0xe5, A: 0xff}},
}

func main() {
	results := flag.String("results", "bin/bench", "folder with the results of the parts")
	out := flag.String("out", "docs/benchmarks", "folder for the pictures")
	document := flag.String("document", "docs/benchmarks.md", "document to write anew, with the pictures")
	flag.Parse()
	err := run(*results, *out)
	if err == nil {
		err = result.Write(*results, *document)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

func run(results, out string) error {
	parts, err := result.Load(results)
	if err != nil {
		return err
	}
	var all []result.Measurement
	for _, p := range parts {
		all = append(all, p.Measurements...)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, x := range pictures {
		p := plot.New()
		p.Title.Text, p.X.Label.Text, p.Y.Label.Text = x.title, x.x, x.y
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, decades{}
		p.Y.Min, p.Legend.Top = 0, true
		p.Add(plotter.NewGrid())
		drawn, err := x.draw(x, p, all)
		if err != nil {
			return fmt.Errorf("cannot draw %s: %w", x.file, err)
		}
		if !drawn {
			continue
		}
		p.Y.Max *= 1.2 // room for the legend
		path := filepath.Join(out, x.file)
		if err := p.Save(16*vg.Centimeter, 9*vg.Centimeter, path); err != nil {
			return fmt.Errorf("cannot draw %s: %w", x.file, err)
		}
		fmt.Println(path)
	}
	return nil
}

// of are the samples of a subject, by how many there were.
func (x picture) of(subject string, all []result.Measurement) map[int][]float64 {
	out := map[int][]float64{}
	for _, m := range all {
		if m.Goal == x.goal && m.Name == x.name && m.Subject == subject {
			out[m.At] = append(out[m.At], m.Samples...)
		}
	}
	return out
}

// distribution draws what share of the samples is at most how much.
func distribution(x picture, p *plot.Plot, all []result.Measurement) (drawn bool, err error) {
	for _, s := range subjects {
		samples := slices.Sorted(slices.Values(x.of(s.name, all)[0]))
		var points plotter.XYs
		for k, v := range samples {
			points = append(points, plotter.XY{X: v, Y: float64(k+1) / float64(len(samples))})
		}
		if len(points) == 0 {
			continue
		}
		l, err := plotter.NewLine(points)
		if err != nil {
			return false, err
		}
		l.StepStyle, l.Color, l.Width = plotter.PostStep, s.color, vg.Points(1.5)
		p.Add(l)
		p.Legend.Add(s.title, l)
		drawn = true
	}
	return drawn, nil
}

// growth draws medians over how many there were.
func growth(x picture, p *plot.Plot, all []result.Measurement) (drawn bool, err error) {
	for _, s := range subjects {
		var points plotter.XYs
		for at, samples := range x.of(s.name, all) {
			if at > 0 {
				points = append(points, plotter.XY{X: float64(at), Y: result.Quantile(samples, 0.5)})
			}
		}
		if len(points) == 0 {
			continue
		}
		slices.SortFunc(points, func(a, b plotter.XY) int { return int(a.X - b.X) })
		l, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return false, err
		}
		l.Color, l.Width, dots.Color = s.color, vg.Points(1.5), s.color
		p.Add(l, dots)
		p.Legend.Add(s.title, l, dots)
		drawn = true
	}
	return drawn, nil
}

// decades are marks at 1, 2 and 5 of each power of ten.
type decades struct{}

func (decades) Ticks(low, high float64) (out []plot.Tick) {
	for power := 1e-3; power <= high; power *= 10 {
		for _, k := range []float64{1, 2, 5} {
			if v := k * power; v >= low && v <= high {
				out = append(out, plot.Tick{Value: v, Label: fmt.Sprintf("%g", v)})
			}
		}
	}
	return out
}
