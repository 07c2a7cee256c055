// SPDX-License-Identifier: Apache-2.0

package result

import (
	"fmt"
	"slices"
	"strings"
)

// criterion is one line of the table of goals.
type criterion struct {
	Goal, Measure string
	Quantile      float64
	// Against is the measure of stock's that ours is compared with, where it has
	// another name.
	Against string

	kind kind
	Want float64
}

// kind is what Want bounds.
type kind int

const (
	ratio    kind = iota // how many times as good as stock ours is, at least
	absolute             // our figure in the measure's unit, at most
	growth               // our figure at the largest size, as a multiple of the smallest's, at most
)

const median = 0.5

// criteria are the project's goals, in the order of the document.
var criteria = []criterion{
	{Goal: "P1", Measure: StartOverCRI, Quantile: median, kind: ratio, Want: 30},
	{Goal: "P1", Measure: StartOverCRIWithRunc, Against: StartOverCRI, Quantile: median, kind: ratio, Want: 6},
	{Goal: "P2", Measure: CreateToRunning, Quantile: median, kind: ratio, Want: 20},
	{Goal: "P2", Measure: CreateToRunning, Quantile: 0.99, kind: ratio, Want: 10},
	{Goal: "P3", Measure: ManyToReady, Quantile: median, kind: ratio, Want: 10},
	{Goal: "P4", Measure: DeleteToGone, Quantile: median, kind: ratio, Want: 20},
	{Goal: "P5", Measure: ExitToStatus, Quantile: median, kind: ratio, Want: 50},
	{Goal: "P6", Measure: DurableCreates, Quantile: median, kind: ratio, Want: 2},
	{Goal: "P6", Measure: DurableCreateCPU, Quantile: median, kind: ratio, Want: 2},
	{Goal: "P7", Measure: PodsScheduled, Quantile: median, kind: ratio, Want: 5},
	{Goal: "P7", Measure: PodsScheduledWorst, Quantile: median, kind: ratio, Want: 3},
	{Goal: "P8", Measure: IdleMemory, Quantile: median, kind: ratio, Want: 4},
	{Goal: "P8", Measure: IdleCPU, Quantile: median, kind: absolute, Want: 0.5},
	{Goal: "P8", Measure: IdleWrites, Quantile: median, kind: absolute, Want: 0},
	{Goal: "P9", Measure: StartAmong, Quantile: median, kind: growth, Want: 2},
	{Goal: "P9", Measure: OverheadPerPod, Quantile: median, kind: ratio, Want: 6},
	{Goal: "P10", Measure: FolderToRunning, Quantile: median, kind: absolute, Want: 1000},
	{Goal: "P10", Measure: FolderToRunning, Quantile: median, kind: ratio, Want: 5},
	{Goal: "P11", Measure: ExecTrue, Quantile: median, kind: ratio, Want: 5},
	{Goal: "P12", Measure: EndpointToRules, Quantile: median, kind: ratio, Want: 20},
}

// The measures that goals are about.
const (
	StartOverCRI         = "RunPodSandbox + CreateContainer + StartContainer"
	StartOverCRIWithRunc = "the same, Peapod with runc too"
	CreateToRunning      = "create to Running, one at a time"
	ManyToReady          = "100 Pods at once, until all are Ready"
	DeleteToGone         = "delete to gone, one at a time"
	ExitToStatus         = "end of a container to its status"
	DurableCreates       = "durable creates of Pods by 32 clients"
	DurableCreateCPU     = "CPU per create"
	PodsScheduled        = "10,000 Pods onto 5,000 nodes"
	PodsScheduledWorst   = "the least favourable kind of Pod"
	PodsScheduledByNodes = "scheduling by the number of nodes"
	IdleMemory           = "resident memory, idle"
	IdleCPU              = "CPU of one core, idle"
	IdleWrites           = "API writes but Leases, idle"
	StartAmong           = "create to Running among other Pods"
	OverheadPerPod       = "memory per Pod beside its own processes"
	FolderToRunning      = "empty folder to the first Pod Running"
	ExecTrue             = "ExecSync true"
	EndpointToRules      = "change of an endpoint to the kernel's rules"
)

// verdict is a criterion applied to what was measured.
type verdict struct {
	criterion
	unit         string
	at           int
	ours, theirs float64 // NaN where it was not measured
	figure       float64 // what is compared with what is wanted; NaN without
	low, high    float64 // the ratio's range over the rounds; equal with one
	reached      bool
}

func (c criterion) judge(s set) verdict {
	ours, theirs := s.named(c.Goal, c.Measure, Peapod), s.named(c.Goal, c.against(), Stock)
	v := verdict{criterion: c, unit: unit(ours, theirs)}
	smallest := ours
	if sizes := ours.sizes(); c.kind == growth && len(sizes) > 1 {
		v.at = sizes[len(sizes)-1]
		smallest, ours = ours.at(sizes[0]), ours.at(v.at)
		theirs = theirs.at(v.at)
	} else if both := sizesOfBoth(ours, theirs); len(both) > 0 {
		v.at = both[len(both)-1]
		ours, theirs = ours.at(v.at), theirs.at(v.at)
	}
	v.ours, v.theirs = Quantile(ours.samples(), c.Quantile), Quantile(theirs.samples(), c.Quantile)
	switch c.kind {
	case ratio:
		v.figure = times(v.unit, v.ours, v.theirs)
		v.reached = v.figure >= c.Want
	case absolute:
		v.figure = v.ours
		v.reached = v.figure <= c.Want
	case growth:
		v.figure = v.ours / Quantile(smallest.samples(), c.Quantile)
		v.reached = v.at != 0 && v.figure <= c.Want
	}
	v.low, v.high = c.spread(v.unit, ours, theirs)
	return v
}

// sizesOfBoth lists the sizes at which both were measured, the smallest first.
func sizesOfBoth(ours, theirs set) []int {
	return slices.DeleteFunc(ours.sizes(), func(n int) bool { return !slices.Contains(theirs.sizes(), n) })
}

func (c criterion) against() string {
	if c.Against != "" {
		return c.Against
	}
	return c.Measure
}

// spread is the least and the largest ratio of the rounds that both have.
func (c criterion) spread(unit string, ours, theirs set) (low, high float64) {
	other := theirs.rounds(c.Quantile)
	var all []float64
	for round, v := range ours.rounds(c.Quantile) {
		if o, has := other[round]; has {
			all = append(all, times(unit, v, o))
		}
	}
	if len(all) == 0 {
		return 0, 0
	}
	return slices.Min(all), slices.Max(all)
}

func unit(sets ...set) string {
	for _, s := range sets {
		if len(s) > 0 {
			return s[0].Unit
		}
	}
	return ""
}

// wanted tells the goal in words.
func (v verdict) wanted() string {
	switch v.kind {
	case absolute:
		return strings.TrimSpace(fmt.Sprintf("at most %g %s", v.Want, v.unit))
	case growth:
		return fmt.Sprintf("at most %g times that of the fewest", v.Want)
	}
	return fmt.Sprintf("%g times as good", v.Want)
}
