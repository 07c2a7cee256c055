// SPDX-License-Identifier: Apache-2.0

// Jobs asks the job controller of kube-controller-manager what it makes of
// Jobs and their Pods: which indexes are done, which policies match, whom it
// removes first.
//
//	jobs QUESTIONS-FILE ANSWERS-FILE
package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	_ "unsafe" // for what the package does not export

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	_ "k8s.io/kubernetes/pkg/controller/job"

	"github.com/peapod/peapod/test/stock/exam"
)

type interval struct{ First, Last int }

//go:linkname calculateSucceededIndexes k8s.io/kubernetes/pkg/controller/job.calculateSucceededIndexes
func calculateSucceededIndexes(klog.Logger, *batchv1.Job, []*corev1.Pod) (before, now []interval)

//go:linkname calculateFailedIndexes k8s.io/kubernetes/pkg/controller/job.calculateFailedIndexes
func calculateFailedIndexes(klog.Logger, *batchv1.Job, []*corev1.Pod) *[]interval

//go:linkname matchSuccessPolicy k8s.io/kubernetes/pkg/controller/job.matchSuccessPolicy
func matchSuccessPolicy(klog.Logger, *batchv1.SuccessPolicy, int32, []interval) (string, bool)

//go:linkname getFailJobMessage k8s.io/kubernetes/pkg/controller/job.getFailJobMessage
func getFailJobMessage(*batchv1.Job, []*corev1.Pod) *string

//go:linkname matchPodFailurePolicy k8s.io/kubernetes/pkg/controller/job.matchPodFailurePolicy
func matchPodFailurePolicy(*batchv1.PodFailurePolicy, *corev1.Pod) (*string, bool, *batchv1.PodFailurePolicyAction)

//go:linkname getFinishedTime k8s.io/kubernetes/pkg/controller/job.getFinishedTime
func getFinishedTime(*corev1.Pod) time.Time

//go:linkname activePodsForRemoval k8s.io/kubernetes/pkg/controller/job.activePodsForRemoval
func activePodsForRemoval(*batchv1.Job, []*corev1.Pod, int) []*corev1.Pod

//go:linkname pastBackoffLimitOnFailure k8s.io/kubernetes/pkg/controller/job.pastBackoffLimitOnFailure
func pastBackoffLimitOnFailure(*batchv1.Job, []*corev1.Pod) bool

// question is a Job and its Pods, and how many of them have to go.
type question struct {
	Seed   uint64
	Job    *batchv1.Job
	Pods   []*corev1.Pod
	Remove int
}

// answer is what the controller's functions say.
type answer struct {
	Seed              uint64
	Completed, Broken string
	Success, Failure  string
	Counts            []bool // of each Pod whether its failure counts
	Ended             []time.Time
	Removed           []string
	Restless          bool
}

func main() {
	exam.Main(func(list []question, out io.Writer) error { return exam.Each(list, out, ask) })
}

func ask(q question) (answer, error) {
	log := klog.Background().V(10)
	a := answer{Seed: q.Seed, Restless: pastBackoffLimitOnFailure(q.Job, q.Pods)}
	_, done := calculateSucceededIndexes(log, q.Job, q.Pods)
	a.Completed = text(done)
	a.Broken = text(*calculateFailedIndexes(log, q.Job, q.Pods))
	if message, met := matchSuccessPolicy(log, q.Job.Spec.SuccessPolicy, *q.Job.Spec.Completions, done); met {
		a.Success = message
	}
	if message := getFailJobMessage(q.Job, q.Pods); message != nil {
		a.Failure = *message
	}
	var active []*corev1.Pod
	for _, p := range q.Pods {
		_, counts, _ := matchPodFailurePolicy(q.Job.Spec.PodFailurePolicy, p)
		a.Counts, a.Ended = append(a.Counts, counts), append(a.Ended, getFinishedTime(p).UTC())
		if p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			active = append(active, p)
		}
	}
	for _, p := range activePodsForRemoval(q.Job, active, min(q.Remove, len(active))) {
		a.Removed = append(a.Removed, p.Name)
	}
	return a, nil
}

// text writes indexes one by one.
func text(list []interval) string {
	var out []string
	for _, i := range list {
		for n := i.First; n <= i.Last; n++ {
			out = append(out, fmt.Sprint(n))
		}
	}
	return strings.Join(out, ",")
}
