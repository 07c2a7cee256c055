// SPDX-License-Identifier: Apache-2.0

package job

import (
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/api/pod"
)

const (
	// firstPause is how long is waited after a failed Pod; each further one
	// doubles it, up to longestPause.
	firstPause   = 10 * time.Second
	longestPause = 10 * time.Minute
)

// streak is how many Pods have failed since the last that succeeded, and when
// the last of them did.
type streak struct {
	count int32
	last  time.Time
}

// pause is how long the next Pod has to wait.
func (s streak) pause(now time.Time) time.Duration {
	if s.count == 0 {
		return 0
	}
	d := firstPause
	for i := int32(1); i < s.count && d < longestPause; i++ {
		d *= 2
	}
	return max(0, min(d, longestPause)-now.Sub(s.last))
}

// with is the streak after more Pods have ended.
func (s streak) with(succeeded, failed []*corev1.Pod) streak {
	if len(succeeded) > 0 {
		s = streak{}
	}
	var good time.Time
	for _, p := range succeeded {
		if t := ended(p); t.After(good) {
			good = t
		}
	}
	var last time.Time
	for _, p := range failed {
		t := ended(p)
		if len(succeeded) > 0 && !t.After(good) {
			continue
		}
		s.count++
		if t.After(last) {
			last = t
		}
	}
	if !last.IsZero() {
		s.last = last
	}
	return s
}

// failures are the streaks of Jobs. They are lost with the process: then the
// first pause is short again.
type failures struct {
	mu   sync.Mutex // guards the map
	jobs map[types.NamespacedName]jobStreak
}

type jobStreak struct {
	job types.UID
	streak
}

func (f *failures) of(j *batchv1.Job) streak {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.jobs[client.ObjectKeyFromObject(j)]; r.job == j.UID {
		return r.streak
	}
	return streak{}
}

func (f *failures) keep(j *batchv1.Job, s streak) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.jobs == nil {
		f.jobs = map[types.NamespacedName]jobStreak{}
	}
	f.jobs[client.ObjectKeyFromObject(j)] = jobStreak{j.UID, s}
}

func (f *failures) forget(job types.NamespacedName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.jobs, job)
}

// ended is when a Pod ended, as well as it can be known: by its containers,
// its condition, or its deletion.
func ended(p *corev1.Pod) time.Time {
	if t := containersEnded(p); !t.IsZero() {
		return t
	}
	if c := pod.Condition(&p.Status, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if p.DeletionTimestamp != nil {
		return p.DeletionTimestamp.Add(-time.Duration(ptr.Deref(p.DeletionGracePeriodSeconds, 0)) * time.Second)
	}
	return p.CreationTimestamp.Time
}

// containersEnded is when the last container ended, or where a main one has
// not, the last sidecar; zero when a sidecar has not.
func containersEnded(p *corev1.Pod) time.Time {
	var sidecars []corev1.ContainerStatus
	for i := range p.Spec.InitContainers {
		for _, s := range p.Status.InitContainerStatuses {
			if c := &p.Spec.InitContainers[i]; s.Name == c.Name && pod.Sidecar(c) {
				sidecars = append(sidecars, s)
			}
		}
	}
	last, _ := lastEnd(p.Status.ContainerStatuses)
	end, all := lastEnd(sidecars)
	switch {
	case !all:
		return time.Time{}
	case end.After(last):
		return end
	}
	return last
}

// lastEnd is when the last of some containers ended; all says whether each
// has.
func lastEnd(list []corev1.ContainerStatus) (last time.Time, all bool) {
	for _, s := range list {
		if s.State.Terminated == nil || s.State.Terminated.FinishedAt.IsZero() {
			return time.Time{}, false
		}
		if t := s.State.Terminated.FinishedAt.Time; t.After(last) {
			last = t
		}
	}
	return last, true
}
