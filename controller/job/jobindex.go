// SPDX-License-Identifier: Apache-2.0

package job

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/owned"
)

// noIndex is the index of a Pod that has none.
const noIndex = -1

// jobIndexIgnoredFailures counts the failures of an index that did not count.
const jobIndexIgnoredFailures = "batch.kubernetes.io/job-index-ignored-failure-count"

func isIndexed(j *batchv1.Job) bool {
	return ptr.Deref(j.Spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}

func perIndex(j *batchv1.Job) bool { return j.Spec.BackoffLimitPerIndex != nil }

// indexOf is the index of a Pod.
func indexOf(p *corev1.Pod) int {
	n, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || n < 0 {
		return noIndex
	}
	return n
}

func inRange(j *batchv1.Job, index int) bool {
	return index != noIndex && index < int(*j.Spec.Completions)
}

// annotatedCount reads a count of failures; what is no count is none.
func annotatedCount(p *corev1.Pod, key string) int32 {
	n, err := strconv.Atoi(p.Annotations[key])
	if err != nil || n < 0 || n > math.MaxInt32 {
		return 0
	}
	return int32(n)
}

// intervals is a set of indexes in the form that the status has: in order,
// apart from each other.
type intervals []interval

type interval struct{ first, last int }

// parseIntervals reads such a list as 1,3-5,7 up to a bound. What cannot be
// read is left away.
func parseIntervals(text string, bound int) (out intervals) {
	if text == "" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		if err != nil {
			continue
		}
		if first >= bound {
			break
		}
		last := first
		if ranged {
			to, _, _ = strings.Cut(to, "-")
			if last, err = strconv.Atoi(to); err != nil {
				continue
			}
			last = min(last, bound-1)
		}
		if n := len(out); n > 0 && out[n-1].last == first-1 {
			out[n-1].last = last
		} else {
			out = append(out, interval{first, last})
		}
	}
	return out
}

// with is the union of a set with some indexes in any order.
func (s intervals) with(indexes []int) intervals {
	more := make(intervals, len(indexes))
	for i, n := range indexes {
		more[i] = interval{n, n}
	}
	return s.union(more)
}

// union merges two sets.
func (s intervals) union(t intervals) (out intervals) {
	all := slices.Concat(s, t)
	slices.SortFunc(all, func(a, b interval) int { return a.first - b.first })
	for _, i := range all {
		if n := len(out); n > 0 && i.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, i.last)
		} else {
			out = append(out, i)
		}
	}
	return out
}

func (s intervals) total() (n int) {
	for _, i := range s {
		n += i.last - i.first + 1
	}
	return n
}

func (s intervals) has(index int) bool {
	_, found := slices.BinarySearchFunc(s, index, func(i interval, n int) int {
		switch {
		case i.last < n:
			return -1
		case i.first > n:
			return 1
		}
		return 0
	})
	return found
}

// common counts what is in both.
func (s intervals) common(t intervals) (n int) {
	for i, j := 0, 0; i < len(s) && j < len(t); {
		n += max(0, min(s[i].last, t[j].last)-max(s[i].first, t[j].first)+1)
		if s[i].last < t[j].last {
			i++
		} else {
			j++
		}
	}
	return n
}

// String writes two neighbours with a comma, more with a dash.
func (s intervals) String() string {
	var b strings.Builder
	for _, i := range s {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(i.first))
		switch {
		case i.last == i.first+1:
			b.WriteString("," + strconv.Itoa(i.last))
		case i.last > i.first:
			b.WriteString("-" + strconv.Itoa(i.last))
		}
	}
	return b.String()
}

// alreadyCompleted are the indexes that the status had when the round began.
func (r *round) alreadyCompleted() intervals {
	if !isIndexed(r.job) {
		return nil
	}
	return parseIntervals(r.job.Status.CompletedIndexes, int(*r.job.Spec.Completions))
}

// completedIndexes are those of the status and of Pods whose success is not
// counted yet.
func completedIndexes(j *batchv1.Job, pods []*corev1.Pod) intervals {
	var fresh []int
	for _, p := range pods {
		if p.Status.Phase == corev1.PodSucceeded && owned.Tracked(p) && inRange(j, indexOf(p)) {
			fresh = append(fresh, indexOf(p))
		}
	}
	return parseIntervals(j.Status.CompletedIndexes, int(*j.Spec.Completions)).with(fresh)
}

// brokenIndexes are those that have failed too often (KEP-3850).
func brokenIndexes(j *batchv1.Job, pods []*corev1.Pod) intervals {
	var fresh []int
	for _, p := range pods {
		if owned.Tracked(p) && inRange(j, indexOf(p)) && indexBroken(j, p) {
			fresh = append(fresh, indexOf(p))
		}
	}
	return parseIntervals(ptr.Deref(j.Status.FailedIndexes, ""), int(*j.Spec.Completions)).with(fresh)
}

func indexBroken(j *batchv1.Job, p *corev1.Pod) bool {
	if !podFailed(p, j) {
		return false
	}
	m := failureAction(j.Spec.PodFailurePolicy, p)
	return m.action == batchv1.PodFailurePolicyActionFailIndex ||
		m.counts && annotatedCount(p, batchv1.JobIndexFailureCountAnnotation) >= *j.Spec.BackoffLimitPerIndex
}

// indexesOf are the indexes of some Pods.
func indexesOf(pods []*corev1.Pod) (out []int) {
	for _, p := range pods {
		if i := indexOf(p); i != noIndex {
			out = append(out, i)
		}
	}
	return out
}

// pending are the first n indexes that nobody works at.
func (r *round) pending(n int) (out []int) {
	taken := r.completed.with(indexesOf(r.active)).union(r.broken)
	if onlyFailed(r.job) {
		var departing []*corev1.Pod
		for _, p := range r.pods {
			if p.DeletionTimestamp != nil && !pod.Terminal(p) {
				departing = append(departing, p)
			}
		}
		taken = taken.with(indexesOf(departing))
	}
	next := 0
	for _, t := range append(taken, interval{int(*r.job.Spec.Completions), math.MaxInt - 1}) {
		for ; next < t.first && next < int(*r.job.Spec.Completions) && len(out) < n; next++ {
			out = append(out, next)
		}
		next = max(next, t.last+1)
	}
	return out
}

// ripe are those of some indexes whose pause after a failure is over. When
// none is, it says how long the first takes.
func (r *round) ripe(indexes []int) (out []int, left time.Duration) {
	if !perIndex(r.job) {
		return indexes, 0
	}
	for _, i := range indexes {
		p := r.held[i]
		pause := time.Duration(0)
		if p != nil {
			pause = streak{count: indexFailures(p) + 1, last: ended(p)}.pause(r.now)
		}
		if pause == 0 {
			out = append(out, i)
		} else if left == 0 || pause < left {
			left = pause
		}
	}
	if len(out) > 0 {
		left = 0
	}
	return out, left
}

// indexFailures counts all failures of an index before this Pod.
func indexFailures(p *corev1.Pod) int32 {
	return annotatedCount(p, batchv1.JobIndexFailureCountAnnotation) + annotatedCount(p, jobIndexIgnoredFailures)
}

// heldPods are the last failed Pods of the indexes that will be tried again.
func (r *round) heldPods() map[int]*corev1.Pod {
	closed := r.completed.union(r.broken).with(indexesOf(r.active))
	held := map[int]*corev1.Pod{}
	for _, p := range r.pods {
		i := indexOf(p)
		if !owned.Tracked(p) || !inRange(r.job, i) || !podFailed(p, r.job) || closed.has(i) {
			continue
		}
		if last := held[i]; last == nil || indexFailures(last) <= indexFailures(p) && !ended(p).Before(ended(last)) {
			held[i] = p
		}
	}
	return held
}
