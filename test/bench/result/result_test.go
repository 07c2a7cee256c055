// SPDX-License-Identifier: Apache-2.0

package result

import (
	"math"
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	m := func(subject, unit string, round, at int, samples ...float64) Measurement {
		return Measurement{Goal: "P", Name: "m", Subject: subject, Unit: unit, Round: round, At: at, Samples: samples}
	}
	for name, c := range map[string]struct {
		criterion
		all       set
		figure    float64
		low, high float64
		reached   bool
	}{
		"less is better": {
			criterion{kind: ratio, Want: 10}, set{m(Peapod, "ms", 1, 0, 10, 20, 30), m(Stock, "ms", 1, 0, 100, 200, 300)}, 10, 10, 10, true},
		"more is better": {
			criterion{kind: ratio, Want: 10}, set{m(Peapod, "Pods/s", 1, 0, 90), m(Stock, "Pods/s", 1, 0, 10)}, 9, 9, 9, false},
		"rounds": {
			criterion{kind: ratio, Want: 3}, set{m(Peapod, "ms", 1, 0, 10), m(Peapod, "ms", 2, 0, 10), m(Stock, "ms", 1, 0, 20), m(Stock, "ms", 2, 0, 40)}, 4, 2, 4, true},
		"absolute": {
			criterion{kind: absolute, Want: 0}, set{m(Peapod, "", 1, 0, 0)}, 0, 0, 0, true},
		"growth": {
			criterion{kind: growth, Want: 2}, set{m(Peapod, "ms", 1, 10, 10), m(Peapod, "ms", 1, 100, 15), m(Peapod, "ms", 1, 500, 21)}, 2.1, 0, 0, false},
		"growth of one size is none": {
			criterion{kind: growth, Want: 2}, set{m(Peapod, "ms", 1, 10, 10)}, 1, 0, 0, false},
		"at the largest size of both": {
			criterion{kind: ratio, Want: 6}, set{m(Peapod, "MB", 1, 10, 9), m(Peapod, "MB", 1, 100, 1), m(Peapod, "MB", 1, 500, 9), m(Stock, "MB", 1, 10, 9), m(Stock, "MB", 1, 100, 8)}, 8, 8, 8, true},
		"only ours": {
			criterion{kind: ratio, Want: 2}, set{m(Peapod, "ms", 1, 0, 10)}, math.NaN(), 0, 0, false},
	} {
		c.criterion.Goal, c.Measure, c.Quantile = "P", "m", median
		v := c.judge(c.all)
		if !(v.figure == c.figure || math.IsNaN(v.figure) && math.IsNaN(c.figure)) || v.low != c.low || v.high != c.high || v.reached != c.reached {
			t.Errorf("%s: figure %v (%v to %v), reached %v; want %v (%v to %v), %v", name, v.figure, v.low, v.high, v.reached, c.figure, c.low, c.high, c.reached)
		}
	}
}

func TestPartsComeBackAndMakeADocument(t *testing.T) {
	folder := t.TempDir()
	p := Begin("exec", map[string]string{"peapod": "v1"})
	m := Measurement{Goal: "P11", Name: ExecTrue, Round: 1}
	for _, v := range []float64{1, 2, 3} {
		m.Subject = Peapod
		m.Unit = "ms"
		p.Add(m, v)
		m.Subject = Stock
		p.Add(m, 10*v)
	}
	if len(p.Measurements) != 2 {
		t.Fatalf("%d measurements, want one of each subject: %+v", len(p.Measurements), p.Measurements)
	}
	p.Add(Measurement{Goal: "P1", Name: StartOverCRI, Subject: Peapod, Unit: "ms", Round: 2}, 1)
	p.Drop(2)
	if err := p.Save(folder); err != nil {
		t.Fatal(err)
	}
	parts, err := Load(folder)
	if err != nil || len(parts) != 1 {
		t.Fatalf("loaded %d parts, %v", len(parts), err)
	}
	text := string(document(parts, map[string]note{"P11": {How: "By hand."}}, []string{"docs/benchmarks/start.svg"}))
	for _, want := range []string{
		"| exec | ", "peapod v1",
		"| P11 | ExecSync true | 5 times as good | 2.00 ms | 20.0 ms | 10.0 | yes |",
		"| P1 | " + StartOverCRI + " | 30 times as good | not measured | not measured |  | not measured |",
		"| P11 | ExecSync true | ms | stock | 3 | 20.0 | 30.0 | 30.0 |",
		"**P11.** By hand.",
		"![start](benchmarks/start.svg)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the document lacks %q:\n%s", want, text)
		}
	}
}

func TestNotesCanBeRead(t *testing.T) {
	if err := Write(t.TempDir(), t.TempDir()+"/document.md"); err != nil {
		t.Error(err)
	}
}
