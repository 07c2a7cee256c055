// SPDX-License-Identifier: Apache-2.0

package job

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/world"
)

// jobQuestion and jobAnswer are as test/stock/jobs has them.
type (
	jobQuestion struct {
		Seed   uint64
		Job    *batchv1.Job
		Pods   []*corev1.Pod
		Remove int
	}
	jobAnswer struct {
		Seed              uint64
		Completed, Broken string
		Success, Failure  string
		Counts            []bool
		Ended             []time.Time
		Removed           []string
		Restless          bool
	}
)

// askJob makes an indexed Job in the middle of something. Its Pods differ in
// age, so that no order is left to chance.
func askJob(seed uint64) jobQuestion {
	r := rand.New(rand.NewPCG(seed, 41))
	list := func() string {
		var in []int
		for i := range 8 {
			if r.IntN(4) == 0 {
				in = append(in, i)
			}
		}
		return intervals(nil).with(in).String()
	}
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sum"}}
	j.Spec = batchv1.JobSpec{
		CompletionMode: ptr.To(batchv1.IndexedCompletion), Completions: ptr.To(2 + r.Int32N(6)), BackoffLimit: ptr.To(r.Int32N(8)), BackoffLimitPerIndex: ptr.To(r.Int32N(3)),
	}
	j.Spec.Template.Spec.RestartPolicy = []corev1.RestartPolicy{corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure}[r.IntN(2)]
	j.Status.CompletedIndexes, j.Status.FailedIndexes = list(), ptr.To(list())
	if r.IntN(2) == 0 {
		j.Spec.PodReplacementPolicy = ptr.To(batchv1.Failed)
	}
	for range r.IntN(3) {
		if j.Spec.SuccessPolicy == nil {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{}
		}
		rule := batchv1.SuccessPolicyRule{SucceededCount: ptr.To(1 + r.Int32N(5))}
		if r.IntN(2) == 0 {
			rule.SucceededIndexes = ptr.To(list())
		}
		if rule.SucceededIndexes != nil && r.IntN(2) == 0 {
			rule.SucceededCount = nil
		}
		j.Spec.SuccessPolicy.Rules = append(j.Spec.SuccessPolicy.Rules, rule)
	}
	for range r.IntN(4) {
		if j.Spec.PodFailurePolicy == nil {
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{}
		}
		rule := batchv1.PodFailurePolicyRule{Action: []batchv1.PodFailurePolicyAction{"FailJob", "FailIndex", "Ignore", "Count"}[r.IntN(4)]}
		if r.IntN(2) == 0 {
			rule.OnPodConditions = []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: []corev1.ConditionStatus{"True", "False"}[r.IntN(2)]}}
		} else {
			rule.OnExitCodes = &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: []batchv1.PodFailurePolicyOnExitCodesOperator{"In", "NotIn"}[r.IntN(2)], Values: []int32{1, 2 + r.Int32N(3)}}
			if r.IntN(2) == 0 {
				rule.OnExitCodes.ContainerName = ptr.To([]string{"main", "first"}[r.IntN(2)])
			}
		}
		j.Spec.PodFailurePolicy.Rules = append(j.Spec.PodFailurePolicy.Rules, rule)
	}
	q := jobQuestion{Seed: seed, Job: j, Remove: r.IntN(4)}
	for i := range r.IntN(9) {
		q.Pods = append(q.Pods, askPod(r, i))
	}
	return q
}

func askPod(r *rand.Rand, i int) *corev1.Pod {
	at := func() metav1.Time {
		return metav1.NewTime(time.Date(2026, 3, 4, 5, r.IntN(60), r.IntN(60), 0, time.UTC))
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("p", i), UID: types.UID(fmt.Sprint("p", i)), Annotations: map[string]string{}}}
	p.CreationTimestamp = metav1.NewTime(time.Date(2026, 3, 4, 4, i, r.IntN(60), 0, time.UTC))
	if r.IntN(8) > 0 {
		p.Annotations[batchv1.JobCompletionIndexAnnotation] = fmt.Sprint(r.IntN(9))
	}
	p.Annotations[batchv1.JobIndexFailureCountAnnotation] = []string{"0", "1", "2", "-1", "many"}[r.IntN(5)]
	if r.IntN(4) > 0 {
		p.Finalizers = []string{batchv1.JobTrackingFinalizer}
	}
	if r.IntN(2) == 0 {
		p.Spec.NodeName = "n1"
	}
	if r.IntN(4) == 0 {
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(at()), ptr.To(r.Int64N(40))
	}
	p.Spec.InitContainers = []corev1.Container{{Name: "first"}, {Name: "beside", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}}
	p.Status.Phase = []corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, corev1.PodFailed}[r.IntN(6)]
	state := func(name string) corev1.ContainerStatus {
		s := corev1.ContainerStatus{Name: name, RestartCount: r.Int32N(4)}
		if r.IntN(4) > 0 {
			s.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: r.Int32N(5), FinishedAt: at()}
		}
		return s
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{state("main")}
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{state("first"), state("beside")}
	for _, t := range []corev1.PodConditionType{corev1.PodReady, corev1.DisruptionTarget} {
		if r.IntN(2) == 0 {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: t, Status: []corev1.ConditionStatus{"True", "False"}[r.IntN(2)], LastTransitionTime: at()})
		}
	}
	return p
}

// answerHere is what this package says to the same question.
func answerHere(q jobQuestion) jobAnswer {
	oneByOne := func(s intervals) string {
		var out []string
		for _, i := range s {
			for n := i.first; n <= i.last; n++ {
				out = append(out, fmt.Sprint(n))
			}
		}
		return strings.Join(out, ",")
	}
	a := jobAnswer{Seed: q.Seed, Restless: tooManyRestarts(q.Job, q.Pods), Failure: failingPod(q.Job, q.Pods)}
	done := completedIndexes(q.Job, q.Pods)
	a.Completed, a.Broken = oneByOne(done), oneByOne(brokenIndexes(q.Job, q.Pods))
	if i := succeeds(q.Job, done); i >= 0 {
		a.Success = fmt.Sprintf("Matched rules at index %d", i)
	}
	r := &round{job: q.Job}
	for _, p := range q.Pods {
		a.Counts, a.Ended = append(a.Counts, failureAction(q.Job.Spec.PodFailurePolicy, p).counts), append(a.Ended, ended(p).UTC())
		if pod.Active(p) {
			r.active = append(r.active, p)
		}
	}
	for _, p := range r.surplus(min(q.Remove, len(r.active))) {
		a.Removed = append(a.Removed, p.Name)
	}
	return a
}

// TestJobsUpstream compares with what the job controller of Kubernetes says of
// random Jobs.
func TestJobsUpstream(t *testing.T) {
	var all []jobQuestion
	for seed := range uint64(400) {
		all = append(all, askJob(seed))
	}
	// That some go is told, not who first.
	world.Upstream(t, "jobs.jsonl", all, answerHere, cmpopts.SortSlices(strings.Compare))
}
