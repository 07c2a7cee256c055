// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/peapod/peapod/test/machine"
)

// sample is what the program holds when nothing runs, after it has collected
// its garbage.
type sample struct {
	at         time.Time
	pid        int64
	heap, rss  float64 // MB
	goroutines float64
	files      float64
	keeperRSS  float64 // MB
}

// measures are what of a sample is looked at, and by how much it may have
// grown at the end of a life in which it grew at every sample.
var measures = []struct {
	name string
	of   func(sample) float64
	most float64
}{
	{"live heap, MB", func(s sample) float64 { return s.heap }, 0.25},
	{"RSS, MB", func(s sample) float64 { return s.rss }, 0.25},
	{"goroutines", func(s sample) float64 { return s.goroutines }, 0.05},
	{"open files", func(s sample) float64 { return s.files }, 0.05},
	{"RSS of the keeper, MB", func(s sample) float64 { return s.keeperRSS }, 0.25},
}

// measure takes a sample.
func (x *soak) measure(ctx context.Context) (s sample, err error) {
	s.at, s.pid = time.Now(), x.node.pid.Load()
	if s.heap, err = x.profile(ctx, "heap", "1", "# HeapAlloc = "); err != nil {
		return s, err
	}
	s.heap /= 1 << 20
	if s.goroutines, err = x.profile(ctx, "goroutine", "0", "goroutine profile: total "); err != nil {
		return s, err
	}
	if s.rss, err = rss(int(s.pid)); err != nil {
		return s, err
	}
	keeper, err := machine.Keeper(x.node.dir)
	if err != nil {
		return s, err
	}
	if s.keeperRSS, err = rss(keeper); err != nil {
		return s, err
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.pid))
	s.files = float64(len(open))
	return s, err
}

// profile reads one number of a profile in text form.
func (x *soak) profile(ctx context.Context, name, gc, before string) (float64, error) {
	b, err := x.truth.client.CoreV1().RESTClient().Get().AbsPath("/debug/pprof/"+name).Param("debug", "1").Param("gc", gc).Timeout(time.Minute).DoRaw(ctx)
	if err != nil {
		return 0, fmt.Errorf("cannot read profile %s: %w", name, err)
	}
	return number(string(b), before)
}

func rss(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	kb, err := number(string(b), "VmRSS:")
	return kb / 1024, err
}

// number is the one that follows the beginning of a line.
func number(text, before string) (float64, error) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, before); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				return strconv.ParseFloat(f[0], 64)
			}
		}
	}
	return 0, fmt.Errorf("no line begins with %q", before)
}

// sampleLives cuts a row of samples where the program was started anew.
func sampleLives(all []sample) (out [][]sample) {
	for i, s := range all {
		if i == 0 || s.pid != all[i-1].pid {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], s)
	}
	return out
}

// slope is by how much a measure grows in an hour, by least squares.
func slope(list []sample, of func(sample) float64) float64 {
	var t, v float64
	for _, s := range list {
		t += s.at.Sub(list[0].at).Hours()
		v += of(s)
	}
	n := float64(len(list))
	t, v = t/n, v/n
	var above, below float64
	for _, s := range list {
		d := s.at.Sub(list[0].at).Hours() - t
		above += d * (of(s) - v)
		below += d * d
	}
	if below == 0 {
		return 0
	}
	return above / below
}

// fewest samples of one life say something of its growth.
const fewest = 4

// leaks says that a measure has grown at every sample, and too much.
func leaks(list []sample, of func(sample) float64, most float64) bool {
	if len(list) < fewest {
		return false
	}
	for i := range list[1:] {
		if of(list[i+1]) <= of(list[i]) {
			return false
		}
	}
	first, last := of(list[0]), of(list[len(list)-1])
	return last > first*(1+most)
}
