// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestDrain: a Pod that is deleted is asked to end when its address is out of
// the Services. That delays neither the hook nor the deadline.
func TestDrain(t *testing.T) {
	main := corev1.Container{Name: "a"}
	tests := map[string]struct {
		drain time.Duration
		pod   *corev1.Pod
		then  func(w *world)
		want  []string
	}{
		"TERM comes after it":        {drain: 30 * time.Millisecond, pod: podOf("p", 5, main), want: []string{"1030 TERM a", "6000 KILL a"}},
		"the hook runs meanwhile":    {drain: 300 * time.Millisecond, pod: podOf("p", 9, withPreStop(main, "bye")), want: []string{"1000 exec a bye", "1500 TERM a", "10000 KILL a"}},
		"it is not awaited for ever": {drain: time.Hour, pod: podOf("p", 9, main), want: []string{"3000 TERM a", "10000 KILL a"}},
		"nor beyond the deadline":    {drain: time.Hour, pod: podOf("p", 1, main), want: []string{"2000 TERM a", "4000 KILL a"}},
		"force ends the wait": {drain: time.Hour, pod: podOf("p", 30, main), then: func(w *world) {
			w.pass(500 * time.Millisecond)
			w.deletePod("uid-p", 0)
		}, want: []string{"1500 TERM a", "3500 KILL a"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.agent.cfg.Drained = func(ctx context.Context, uid types.UID) error {
					if uid != "uid-p" {
						t.Errorf("asked for %s", uid)
					}
					// Counted from the deletion, at 1 s.
					clock := time.NewTimer(time.Until(w.begun.Add(time.Second + tt.drain)))
					defer clock.Stop()
					select {
					case <-clock.C:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				w.cri.programs = map[string]program{"a": {onTerm: -1, exec: takes(500*time.Millisecond, 0)}}
				w.create(tt.pod)
				w.pass(time.Second)
				w.deletePod("uid-p", *tt.pod.Spec.TerminationGracePeriodSeconds)
				if tt.then != nil {
					tt.then(w)
				}
				w.pass(time.Minute)
				w.wantTimes(w.about("exec", "TERM", "KILL"), tt.want...)
				w.empty()
			})
		})
	}
}

// TestNoDrain: a container that is begun anew is not waited for: its Pod stays
// where it is.
func TestNoDrain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.agent.cfg.Drained = func(context.Context, types.UID) error {
			t.Error("waited for a Pod that stays")
			return nil
		}
		w.cri.programs = map[string]program{"a": {exec: takes(0, 1)}}
		w.create(podOf("p", 30, corev1.Container{Name: "a", LivenessProbe: execProbe(1, 1)}))
		w.pass(10 * time.Second)
		if len(w.about("TERM a")) == 0 {
			t.Errorf("the container was never ended: %v", w.diary)
		}
		w.kill()
		w.agent.cfg.Drained = nil
	})
}
