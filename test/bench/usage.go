// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/test/bench/cluster"
	"github.com/peapod/peapod/test/bench/result"
)

// measureIdle is P8: a cluster without Pods that nobody uses.
func measureIdle(ctx context.Context, o options, part *result.Part) error {
	return o.each(ctx, part, 1, func(v *visit) error { return v.rest(ctx) })
}

// settling is how long a cluster has after its start before it counts as idle.
const settling = 30 * time.Second

func (v *visit) rest(ctx context.Context) error {
	if err := pause(ctx, settling); err != nil {
		return err
	}
	leases, err := v.Client.CoordinationV1().Leases("").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var renewals []int // their revisions
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range leases.ResultChan() {
			if l, ok := e.Object.(*coordinationv1.Lease); ok {
				at, _ := strconv.Atoi(l.ResourceVersion)
				renewals = append(renewals, at)
			}
		}
	}()
	first, err := v.usage(ctx)
	if err == nil {
		err = pause(ctx, v.idle)
	}
	var last usage
	if err == nil {
		last, err = v.usage(ctx)
	}
	leases.Stop()
	<-done
	if err != nil {
		return err
	}
	renewed := 0
	for _, at := range renewals {
		if first.revision < at && at <= last.revision {
			renewed++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(last.programs)) {
		v.add("P8", "resident memory of "+name, "MB", last.programs[name].RSS/1e6)
	}
	v.add("P8", result.IdleMemory, "MB", last.total().RSS/1e6)
	v.add("P8", result.IdleCPU, "%", 100*(last.total().CPU-first.total().CPU).Seconds()/v.idle.Seconds())
	v.add("P8", "written to disk per minute, idle", "kB", (last.total().Written-first.total().Written)/1e3/v.idle.Minutes())
	v.add("P8", result.IdleWrites, "writes", float64(last.revision-first.revision-renewed))
	return nil
}

// usage is what a cluster has used up to a moment.
type usage struct {
	programs map[string]cluster.Usage
	revision int // of the API's storage: the number of writes
}

func (u usage) total() cluster.Usage {
	var sum cluster.Usage
	for _, p := range u.programs {
		sum.Add(p)
	}
	return sum
}

func (v *visit) usage(ctx context.Context) (u usage, err error) {
	processes, err := v.Processes()
	if err != nil {
		return u, err
	}
	if u.programs, err = processes.Usage(); err != nil {
		return u, err
	}
	list, err := v.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return u, err
	}
	u.revision, err = strconv.Atoi(list.ResourceVersion)
	return u, err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// measureGrowth is P9.
func measureGrowth(ctx context.Context, o options, part *result.Part) error {
	return o.each(ctx, part, 1, func(v *visit) error { return v.grow(ctx) })
}

func (v *visit) grow(ctx context.Context) error {
	w, err := v.watch(ctx)
	if err != nil {
		return err
	}
	defer w.stop()
	sizes := v.sizes
	if v.Subject == result.Stock {
		sizes = v.stockSizes
	}
	there := 0
	var fewer usage
	for _, size := range sizes {
		// The one that is measured is the last of them.
		more := size - 1 - there
		if err := v.fill(ctx, w, there, more); err != nil {
			return err
		}
		there += more
		at := func(name, unit string) result.Measurement {
			m := v.measurement("P9", name, unit)
			m.At = size
			return m
		}
		for i := range v.pods {
			name := fmt.Sprintf("among-%d-%d", size, i)
			begun, running, err := v.create(ctx, w, v.sleeper(name), running)
			if err != nil {
				return err
			}
			v.part.AddTime(at(result.StartAmong, ""), running.Sub(begun))
			if _, _, err := v.delete(ctx, w, name); err != nil {
				return err
			}
		}
		full, err := v.usage(ctx)
		if err != nil {
			return err
		}
		v.part.Add(at("resident memory of all programs", "MB"), full.total().RSS/1e6)
		if there > more {
			v.part.Add(at(result.OverheadPerPod, "MB"), v.overhead(fewer, full)/1e6/float64(more))
		}
		fewer = full
	}
	return nil
}

// overhead is what more Pods cost beside their own processes. For a stock cluster
// that is what their shims and pauses hold, and nothing of what kubelet and the
// others have grown by; for Peapod, which has neither, all that it has grown by.
func (v *visit) overhead(fewer, full usage) float64 {
	grown := func(of func(usage) cluster.Usage) float64 { return of(full).PSS - of(fewer).PSS }
	if v.Subject == result.Stock {
		return grown(func(u usage) cluster.Usage { return u.programs[cluster.Shim] }) + grown(func(u usage) cluster.Usage { return u.programs[cluster.Pause] })
	}
	return grown(usage.total)
}

// fill adds Pods, a few at a time: how fast is another measure.
func (v *visit) fill(ctx context.Context, w *watcher, from, n int) error {
	const lanes = 8
	return together(lanes, func(lane int) error {
		for i := lane; i < n; i += lanes {
			if _, _, err := v.create(ctx, w, v.sleeper("fill-"+strconv.Itoa(from+i)), running); err != nil {
				return err
			}
		}
		return nil
	})
}
