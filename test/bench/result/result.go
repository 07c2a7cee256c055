// SPDX-License-Identifier: Apache-2.0

// Package result is what the benchmarks have in common: the form of a
// measurement, the files they are kept in, and the document made of them.
//
// Each part of the benchmark writes one file, <folder>/<part>.json, when all its
// rounds are done, and replaces it when it runs again; the document is made of
// whatever files there are. So parts can be run apart and at different times.
package result

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The subjects of the comparison.
const (
	Peapod = "peapod"
	Stock  = "stock" // Kubernetes with containerd
)

// Measurement is what one subject showed in one round.
type Measurement struct {
	Goal    string `json:"goal"` // P1 to P12
	Name    string `json:"name"` // the same for both subjects
	Subject string `json:"subject"`
	// Unit of the samples: ms, s, MB, %, or per second as in "Pods/s", of which
	// more is better.
	Unit  string `json:"unit"`
	Round int    `json:"round"`
	// At is how many there were (Pods, nodes), where a goal is about growth.
	At      int       `json:"at,omitempty"`
	Samples []float64 `json:"samples"`
}

// Part is one file: what one part of the benchmark measured, where and when.
type Part struct {
	Name         string            `json:"name"`
	Taken        time.Time         `json:"taken"`
	Machine      string            `json:"machine"`
	Versions     map[string]string `json:"versions"` // by program
	Measurements []Measurement     `json:"measurements"`
}

// Begin is a part that is measured now, on this machine.
func Begin(name string, versions map[string]string) *Part {
	return &Part{Name: name, Taken: time.Now().UTC().Truncate(time.Second), Machine: Machine(), Versions: versions}
}

// Add adds samples to the measurement that m names in all but its samples.
func (p *Part) Add(m Measurement, samples ...float64) {
	same := func(have Measurement) bool {
		return have.Goal == m.Goal && have.Name == m.Name && have.Subject == m.Subject && have.Unit == m.Unit && have.Round == m.Round && have.At == m.At
	}
	i := slices.IndexFunc(p.Measurements, same)
	if i < 0 {
		i = len(p.Measurements)
		p.Measurements = append(p.Measurements, m)
		p.Measurements[i].Samples = nil
	}
	p.Measurements[i].Samples = append(p.Measurements[i].Samples, samples...)
}

// AddTime is Add in milliseconds.
func (p *Part) AddTime(m Measurement, d time.Duration) {
	m.Unit = "ms"
	p.Add(m, float64(d.Microseconds())/1000)
}

// Drop forgets a round that was not finished.
func (p *Part) Drop(round int) {
	p.Measurements = slices.DeleteFunc(p.Measurements, func(m Measurement) bool { return m.Round == round })
}

// Save replaces the part's file in folder.
func (p *Part) Save(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		return err
	}
	path := filepath.Join(folder, p.Name+".json")
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Finish prints a part that is whole, keeps it in folder and makes the document
// anew; without a folder it is only printed.
func (p *Part) Finish(folder, document string) error {
	p.Print(os.Stdout)
	if folder == "" {
		return nil
	}
	if err := p.Save(folder); err != nil {
		return err
	}
	return Write(folder, document)
}

// Load reads the parts that folder holds, by name.
func Load(folder string) ([]Part, error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, err
	}
	var parts []Part
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var p Part
		if err := json.Unmarshal(b, &p); err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", path, err)
		}
		parts = append(parts, p)
	}
	return parts, nil
}
