// SPDX-License-Identifier: Apache-2.0

package job

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/owned"
	"github.com/peapod/peapod/controller/world"
)

// work makes a Job whose Pods are never scheduled: tests say how they end.
func work(t *testing.T, change func(*batchv1.JobSpec)) *batchv1.Job {
	t.Helper()
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "sum", Namespace: world.Space(t)}}
	j.Spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "main", Image: "app:1"}}}
	change(&j.Spec)
	world.Put(t, j)
	return j
}

// jobPods waits until the Job has n Pods that have not ended.
func jobPods(t *testing.T, j *batchv1.Job, n int) []corev1.Pod {
	t.Helper()
	var list corev1.PodList
	var live []corev1.Pod
	world.Until(t, fmt.Sprintf("%d Pods of the Job", n), &list, func() bool {
		live = slices.DeleteFunc(slices.Clone(list.Items), func(p corev1.Pod) bool {
			return p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		})
		return len(live) == n
	}, client.InNamespace(j.Namespace))
	slices.SortFunc(live, func(a, b corev1.Pod) int { return indexOf(&a) - indexOf(&b) })
	return live
}

// end lets a Pod end with an exit code.
func end(t *testing.T, p *corev1.Pod, code int32) {
	t.Helper()
	p.Status.Phase = corev1.PodSucceeded
	if code != 0 {
		p.Status.Phase = corev1.PodFailed
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", Image: "app:1", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.Now()},
	}}}
	if err := world.Client.Status().Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// jobSays waits until the conditions of the Job read so, each as type=reason.
func jobSays(t *testing.T, j *batchv1.Job, want ...string) batchv1.JobStatus {
	t.Helper()
	var list batchv1.JobList
	var have []string
	world.Until(t, fmt.Sprintf("conditions %v", want), &list, func() bool {
		have = nil
		for _, c := range list.Items[0].Status.Conditions {
			sign := map[bool]string{true: "=", false: "!="}[c.Status == corev1.ConditionTrue]
			have = append(have, string(c.Type)+sign+c.Reason)
		}
		return slices.Equal(have, want)
	}, client.InNamespace(j.Namespace))
	return list.Items[0].Status
}

// released waits until no Pod of the Job has the finalizer.
func released(t *testing.T, namespace string) {
	t.Helper()
	var list corev1.PodList
	world.Until(t, "no finalizers", &list, func() bool {
		return !slices.ContainsFunc(list.Items, func(p corev1.Pod) bool { return owned.Tracked(&p) })
	}, client.InNamespace(namespace))
}

// toldJob waits for events about the Job, as reason: message without names.
func toldJob(t *testing.T, j *batchv1.Job, want ...string) {
	t.Helper()
	var list corev1.EventList
	var have []string
	world.Until(t, fmt.Sprintf("events %q", want), &list, func() bool {
		have = nil
		for _, e := range list.Items {
			if e.InvolvedObject.UID == j.UID && e.Source.Component == "job-controller" {
				have = append(have, e.Type+" "+e.Reason+": "+e.Message)
			}
		}
		return !slices.ContainsFunc(want, func(w string) bool {
			return !slices.ContainsFunc(have, func(h string) bool { return strings.HasPrefix(h, w) })
		})
	}, client.InNamespace(j.Namespace))
}

func TestJobCompletes(t *testing.T) {
	t.Parallel()
	j := work(t, func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr.To[int32](3), ptr.To[int32](2) })
	pods := jobPods(t, j, 2)
	if p := pods[0]; !owned.Tracked(&p) || p.GenerateName != "sum-" || p.Labels[batchv1.JobNameLabel] != "sum" || p.Labels[batchv1.ControllerUidLabel] != string(j.UID) {
		t.Errorf("a Pod of the Job: %+v", p.ObjectMeta)
	}
	end(t, &pods[0], 0)
	end(t, &pods[1], 0)
	end(t, &jobPods(t, j, 1)[0], 0)
	st := jobSays(t, j, "SuccessCriteriaMet=CompletionsReached", "Complete=CompletionsReached")
	if st.Succeeded != 3 || st.Active != 0 || st.Failed != 0 || st.CompletionTime == nil || st.StartTime == nil || *st.Ready != 0 || *st.Terminating != 0 ||
		len(st.UncountedTerminatedPods.Succeeded) > 0 || st.Conditions[1].Message != "Reached expected number of succeeded pods" {
		t.Errorf("status %+v", st)
	}
	released(t, j.Namespace)
	toldJob(t, j, "Normal SuccessfulCreate: Created pod: sum-", "Normal Completed: Job completed")
}

func TestJobWithoutCompletions(t *testing.T) {
	t.Parallel()
	j := work(t, func(s *batchv1.JobSpec) { s.Parallelism = ptr.To[int32](2) })
	pods := jobPods(t, j, 2)
	end(t, &pods[0], 0)
	if left := jobPods(t, j, 1); left[0].Name != pods[1].Name {
		t.Errorf("%s runs, want %s", left[0].Name, pods[1].Name)
	}
	end(t, &pods[1], 1)
	if st := jobSays(t, j, "SuccessCriteriaMet=CompletionsReached", "Complete=CompletionsReached"); st.Succeeded != 1 || st.Failed != 1 {
		t.Errorf("status %+v", st)
	}
}

func TestJobFails(t *testing.T) {
	t.Parallel()
	j := work(t, func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism, s.BackoffLimit = ptr.To[int32](2), ptr.To[int32](2), ptr.To[int32](0)
	})
	end(t, &jobPods(t, j, 2)[0], 7)
	// The other Pod was never started: its deletion takes it away at once.
	st := jobSays(t, j, "FailureTarget=BackoffLimitExceeded", "Failed=BackoffLimitExceeded")
	if st.Failed != 2 || st.Active != 0 || st.CompletionTime != nil || st.Conditions[1].Message != "Job has reached the specified backoff limit" {
		t.Errorf("status %+v", st)
	}
	released(t, j.Namespace)
	toldJob(t, j, "Warning BackoffLimitExceeded: Job has reached the specified backoff limit", "Normal SuccessfulDelete: Deleted pod: sum-")
}

func TestJobDeadline(t *testing.T) {
	t.Parallel()
	j := work(t, func(s *batchv1.JobSpec) {
		s.ActiveDeadlineSeconds, s.TTLSecondsAfterFinished = ptr.To[int64](1), ptr.To[int32](0)
	})
	jobPods(t, j, 1)
	toldJob(t, j, "Warning DeadlineExceeded: Job was active longer than specified deadline")
	var list batchv1.JobList
	world.Until(t, "the Job is deleted after its end", &list, func() bool { return len(list.Items) == 0 }, client.InNamespace(j.Namespace))
	var pods corev1.PodList
	world.Until(t, "and its Pods", &pods, func() bool { return len(pods.Items) == 0 }, client.InNamespace(j.Namespace))
}

func TestIndexedJob(t *testing.T) {
	t.Parallel()
	j := work(t, func(s *batchv1.JobSpec) {
		s.CompletionMode, s.Completions, s.Parallelism = ptr.To(batchv1.IndexedCompletion), ptr.To[int32](5), ptr.To[int32](4)
		s.BackoffLimitPerIndex = ptr.To[int32](0)
	})
	pods := jobPods(t, j, 4)
	for i := range pods {
		p := &pods[i]
		var env corev1.EnvVar
		for _, e := range p.Spec.Containers[0].Env {
			env = e
		}
		number := fmt.Sprint(i)
		if p.Annotations[batchv1.JobCompletionIndexAnnotation] != number || p.Labels[batchv1.JobCompletionIndexAnnotation] != number || p.Spec.Hostname != "sum-"+number ||
			!strings.HasPrefix(p.Name, "sum-"+number+"-") || p.Annotations[batchv1.JobIndexFailureCountAnnotation] != "0" ||
			env.Name != "JOB_COMPLETION_INDEX" || env.ValueFrom.FieldRef.FieldPath != "metadata.labels['batch.kubernetes.io/job-completion-index']" {
			t.Errorf("Pod %d: %+v, hostname %s, env %v", i, p.ObjectMeta, p.Spec.Hostname, env)
		}
	}
	for i := range pods {
		end(t, &pods[i], int32(i%2)) // 1 and 3 fail
	}
	last := jobPods(t, j, 1)[0]
	if indexOf(&last) != 4 {
		t.Errorf("index %d comes last", indexOf(&last))
	}
	end(t, &last, 0)
	st := jobSays(t, j, "FailureTarget=FailedIndexes", "Failed=FailedIndexes")
	if st.CompletedIndexes != "0,2,4" || *st.FailedIndexes != "1,3" || st.Succeeded != 3 || st.Failed != 2 {
		t.Errorf("status %+v", st)
	}
}

func TestElasticJob(t *testing.T) {
	t.Parallel()
	j := work(t, func(s *batchv1.JobSpec) {
		s.CompletionMode, s.Completions, s.Parallelism = ptr.To(batchv1.IndexedCompletion), ptr.To[int32](3), ptr.To[int32](3)
	})
	pods := jobPods(t, j, 3)
	end(t, &pods[2], 0)
	jobPods(t, j, 2)
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"completions":1,"parallelism":1}}`))
	if err := world.Client.Patch(t.Context(), j, patch); err != nil {
		t.Fatal(err)
	}
	if left := jobPods(t, j, 1); left[0].Name != pods[0].Name {
		t.Errorf("%s is left, want index 0", left[0].Name)
	}
	end(t, &pods[0], 0)
	if st := jobSays(t, j, "SuccessCriteriaMet=CompletionsReached", "Complete=CompletionsReached"); st.Succeeded != 1 || st.CompletedIndexes != "0" {
		t.Errorf("status %+v", st)
	}
}

func TestJobPolicies(t *testing.T) {
	t.Parallel()
	t.Run("failure", func(t *testing.T) {
		j := work(t, func(s *batchv1.JobSpec) {
			s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
				{Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}}},
			}}
		})
		p := jobPods(t, j, 1)[0]
		end(t, &p, 42)
		st := jobSays(t, j, "FailureTarget=PodFailurePolicy", "Failed=PodFailurePolicy")
		if want := fmt.Sprintf("Container main for pod %s/%s failed with exit code 42 matching FailJob rule at index 0", p.Namespace, p.Name); st.Conditions[1].Message != want {
			t.Errorf("message %q, want %q", st.Conditions[1].Message, want)
		}
	})
	t.Run("success", func(t *testing.T) {
		j := work(t, func(s *batchv1.JobSpec) {
			s.CompletionMode, s.Completions, s.Parallelism = ptr.To(batchv1.IndexedCompletion), ptr.To[int32](3), ptr.To[int32](3)
			s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("1")}}}
		})
		end(t, &jobPods(t, j, 3)[1], 0)
		st := jobSays(t, j, "SuccessCriteriaMet=SuccessPolicy", "Complete=SuccessPolicy")
		if st.CompletedIndexes != "1" || st.Succeeded != 1 || st.Failed != 0 || st.Conditions[0].Message != "Matched rules at index 0" {
			t.Errorf("status %+v", st)
		}
		released(t, j.Namespace)
	})
}

func TestJobSuspended(t *testing.T) {
	t.Parallel()
	j := work(t, func(s *batchv1.JobSpec) { s.Parallelism, s.Completions = ptr.To[int32](2), ptr.To[int32](2) })
	set := func(text string) {
		t.Helper()
		if err := world.Client.Patch(t.Context(), j, client.RawPatch("application/merge-patch+json", []byte(text))); err != nil {
			t.Fatal(err)
		}
	}
	jobPods(t, j, 2)
	set(`{"spec":{"suspend":true}}`)
	st := jobSays(t, j, "Suspended=JobSuspended")
	if st.Active != 0 || st.StartTime != nil || st.Failed != 0 {
		t.Errorf("status %+v", st)
	}
	jobPods(t, j, 0)
	set(`{"spec":{"template":{"spec":{"nodeSelector":{"a":"b"},"containers":[{"name":"main","image":"app:1","resources":{"requests":{"cpu":"1"}}}]}}}}`)
	set(`{"spec":{"suspend":false}}`)
	pods := jobPods(t, j, 2)
	if pods[0].Spec.NodeSelector["a"] != "b" || pods[0].Spec.Containers[0].Resources.Requests.Cpu().Value() != 1 {
		t.Errorf("what was changed meanwhile is not in the Pod: %+v", pods[0].Spec)
	}
	end(t, &pods[0], 0)
	end(t, &pods[1], 0)
	jobSays(t, j, "Suspended!=JobResumed", "SuccessCriteriaMet=CompletionsReached", "Complete=CompletionsReached")
	toldJob(t, j, "Normal Suspended: Job suspended", "Normal Resumed: Job resumed")
}

// TestJobCountsOnce: what the status names is counted when its finalizer is
// gone, by whomever, and no Pod is counted twice.
func TestJobCountsOnce(t *testing.T) {
	t.Parallel()
	j := work(t, func(s *batchv1.JobSpec) { s.Completions, s.ManagedBy = ptr.To[int32](1), ptr.To("example.com/nobody") })
	jobPods(t, j, 0)
	p := podOf(j, noIndex, nil)
	p.Finalizers = nil
	world.Put(t, p)
	end(t, p, 0)
	c := &jobs{Replicas: &owned.Replicas{Owning: owned.Owning{Client: world.Client, Live: world.Client, Events: record.NewFakeRecorder(100)}, Seen: func() string { return p.ResourceVersion }}}
	st := batchv1.JobStatus{UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{p.UID}}}
	j.Spec.ManagedBy, j.Status = nil, st
	for range 2 {
		if err := c.sync(t.Context(), &round{job: j, now: time.Now(), pods: []*corev1.Pod{p}}); err != nil {
			t.Fatal(err)
		}
	}
	if j.Status.Succeeded != 1 || len(j.Status.UncountedTerminatedPods.Succeeded) != 0 || !finished(j) {
		t.Errorf("status %+v", j.Status)
	}
}

func TestJobGone(t *testing.T) {
	t.Parallel()
	for _, how := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		t.Run(string(how), func(t *testing.T) {
			t.Parallel()
			j := work(t, func(s *batchv1.JobSpec) { s.Parallelism = ptr.To[int32](2) })
			jobPods(t, j, 2)
			if err := world.Client.Delete(t.Context(), j, client.PropagationPolicy(how)); err != nil {
				t.Fatal(err)
			}
			if how != metav1.DeletePropagationOrphan {
				var list corev1.PodList
				world.Until(t, "no Pods", &list, func() bool { return len(list.Items) == 0 }, client.InNamespace(j.Namespace))
				return
			}
			var list corev1.PodList
			world.Until(t, "two Pods that are nobody's", &list, func() bool {
				return len(list.Items) == 2 && !slices.ContainsFunc(list.Items, func(p corev1.Pod) bool { return p.OwnerReferences != nil || owned.Tracked(&p) })
			}, client.InNamespace(j.Namespace))
		})
	}
}

func TestPause(t *testing.T) {
	now := time.Now()
	pod := func(seconds int) *corev1.Pod {
		p := &corev1.Pod{}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(now.Add(time.Duration(seconds) * time.Second))}}}}
		return p
	}
	for _, c := range []struct {
		name    string
		ok, bad []*corev1.Pod
		old     streak
		want    time.Duration
	}{
		{name: "nothing"},
		{name: "one", bad: []*corev1.Pod{pod(0)}, want: 10 * time.Second},
		{name: "one a while ago", bad: []*corev1.Pod{pod(-7)}, want: 3 * time.Second},
		{name: "one long ago", bad: []*corev1.Pod{pod(-70)}},
		{name: "three", bad: []*corev1.Pod{pod(-9), pod(-2), pod(-5)}, want: 38 * time.Second},
		{name: "one more", bad: []*corev1.Pod{pod(0)}, old: streak{2, now}, want: 40 * time.Second},
		{name: "very many", old: streak{1000, now}, want: 10 * time.Minute},
		{name: "a success", ok: []*corev1.Pod{pod(-1)}, old: streak{5, now}},
		{name: "a success before", ok: []*corev1.Pod{pod(-3)}, bad: []*corev1.Pod{pod(-2), pod(-4)}, old: streak{5, now}, want: 8 * time.Second},
	} {
		if got := c.old.with(c.ok, c.bad).pause(now); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestIntervals compares with a plain set.
func TestIntervals(t *testing.T) {
	const bound = 7
	members := func(bits int) (list []int, text []string) {
		for i := range bound {
			if bits>>i&1 == 1 {
				list, text = append(list, i), append(text, fmt.Sprint(i))
			}
		}
		return list, text
	}
	for a := range 1 << bound {
		list, text := members(a)
		set := intervals(nil).with(list)
		for i := range bound {
			if set.has(i) != (a>>i&1 == 1) {
				t.Fatalf("%v has %d: %v", list, i, set.has(i))
			}
		}
		for _, written := range []string{set.String(), strings.Join(text, ",")} {
			if got := parseIntervals(written, bound); !cmp.Equal(got, set, cmp.AllowUnexported(interval{})) || got.total() != len(list) {
				t.Fatalf("%q is read as %v, want %v", written, got, set)
			}
		}
		for b := range 1 << bound {
			other, _ := members(b)
			both, _ := members(a & b)
			either, _ := members(a | b)
			t2 := intervals(nil).with(other)
			if set.common(t2) != len(both) || set.union(t2).String() != intervals(nil).with(either).String() {
				t.Fatalf("%v and %v: %d in common, together %v", set, t2, set.common(t2), set.union(t2))
			}
		}
	}
	if got := parseIntervals("1,x,3-y,4-5,9", bound).String(); got != "1,4,5" {
		t.Errorf("of a broken list %q is left", got)
	}
}
