// SPDX-License-Identifier: Apache-2.0

package job

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/peapod/peapod/api/validation"
	"github.com/peapod/peapod/controller/owned"
)

// clockwork is a CronJob "tick" in front of an API in memory, with a clock of
// its own. It was made at 10:00:30.
type clockwork struct {
	*testing.T
	client client.Client
	events *record.FakeRecorder
	c      *cronJobs
	at     time.Time
}

func wind(t *testing.T, change func(*batchv1.CronJobSpec)) *clockwork {
	t.Helper()
	made := time.Date(2026, 3, 4, 10, 0, 30, 0, time.UTC)
	cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "tick", UID: "tick-uid", CreationTimestamp: metav1.NewTime(made)}}
	cj.Spec.Schedule, cj.Spec.ConcurrencyPolicy = "* * * * *", batchv1.AllowConcurrent
	cj.Spec.JobTemplate.Labels, cj.Spec.JobTemplate.Annotations = map[string]string{"a": "b"}, map[string]string{"c": "d"}
	change(&cj.Spec)
	w := &clockwork{T: t, events: record.NewFakeRecorder(100), at: made}
	w.client = fake.NewClientBuilder().WithScheme(clientscheme.Scheme).WithObjects(cj).WithStatusSubresource(cj, &batchv1.Job{}).
		WithIndex(&batchv1.Job{}, owned.ByController, owned.ControllerOf).Build()
	w.c = &cronJobs{client: w.client, live: w.client, events: w.events, now: func() time.Time { return w.at }}
	return w
}

// sync looks at the CronJob at a time of the day and returns what is told.
func (w *clockwork) sync(at string) (after time.Duration, told []string) {
	w.Helper()
	day, err := time.Parse("15:04:05", at)
	if err != nil {
		w.Fatal(err)
	}
	w.at = time.Date(2026, 3, 4, day.Hour(), day.Minute(), day.Second(), 0, time.UTC)
	r, err := w.c.Reconcile(w.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: "ns", Name: "tick"}})
	if err != nil {
		w.Fatal(err)
	}
	for len(w.events.Events) > 0 {
		told = append(told, <-w.events.Events)
	}
	return r.RequeueAfter, told
}

func (w *clockwork) jobs() (out []batchv1.Job) {
	w.Helper()
	var list batchv1.JobList
	if err := w.client.List(w.Context(), &list); err != nil {
		w.Fatal(err)
	}
	return list.Items
}

func (w *clockwork) status() batchv1.CronJobStatus {
	w.Helper()
	var cj batchv1.CronJob
	if err := w.client.Get(w.Context(), client.ObjectKey{Namespace: "ns", Name: "tick"}, &cj); err != nil {
		w.Fatal(err)
	}
	return cj.Status
}

// end ends a Job, which began at a minute.
func (w *clockwork) end(j *batchv1.Job, how batchv1.JobConditionType, minute int) {
	w.Helper()
	at := metav1.NewTime(time.Date(2026, 3, 4, 10, minute, 0, 0, time.UTC))
	j.Status.StartTime = &at
	if how == batchv1.JobComplete {
		j.Status.CompletionTime = &at
	}
	j.Status.Conditions = []batchv1.JobCondition{{Type: how, Status: corev1.ConditionTrue}}
	if err := w.client.Status().Update(w.Context(), j); err != nil {
		w.Fatal(err)
	}
}

func (w *clockwork) expect(told []string, want ...string) {
	w.Helper()
	if !slices.EqualFunc(told, want, strings.HasPrefix) {
		w.Errorf("told %q, want %q", told, want)
	}
}

func TestCronJobStarts(t *testing.T) {
	w := wind(t, func(s *batchv1.CronJobSpec) { s.TimeZone = ptr.To("Asia/Kolkata") })
	if after, told := w.sync("10:00:58"); after != 2*time.Second+lateness || told != nil || len(w.jobs()) != 0 {
		t.Fatalf("before the time: again after %v, %q, %d Jobs", after, told, len(w.jobs()))
	}
	after, told := w.sync("10:01:00")
	w.expect(told, "Normal SuccessfulCreate Created job tick-29543641")
	if after != time.Minute+lateness {
		t.Errorf("again after %v", after)
	}
	j := w.jobs()[0]
	if j.Annotations[batchv1.CronJobScheduledTimestampAnnotation] != "2026-03-04T15:31:00+05:30" || j.Annotations["c"] != "d" || j.Labels["a"] != "b" || owned.ControllerOf(&j)[0] != "tick-uid" {
		t.Errorf("the Job is %+v", j.ObjectMeta)
	}
	st := w.status()
	if len(st.Active) != 1 || st.Active[0].Name != j.Name || !st.LastScheduleTime.Equal(&metav1.Time{Time: w.at}) {
		t.Errorf("status %+v", st)
	}
	if _, told := w.sync("10:01:30"); told != nil || len(w.jobs()) != 1 {
		t.Errorf("a time is used twice: %q", told)
	}
	w.end(&j, batchv1.JobComplete, 1)
	_, told = w.sync("10:01:40")
	w.expect(told, "Normal SawCompletedJob Saw completed job: tick-29543641, condition: Complete")
	if st := w.status(); len(st.Active) != 0 || !st.LastSuccessfulTime.Equal(j.Status.CompletionTime) {
		t.Errorf("status %+v", st)
	}
}

func TestCronJobPolicies(t *testing.T) {
	for policy, want := range map[batchv1.ConcurrencyPolicy]struct {
		told []string
		jobs int
	}{
		batchv1.AllowConcurrent:   {[]string{"Normal SuccessfulCreate"}, 2},
		batchv1.ForbidConcurrent:  {[]string{"Normal JobAlreadyActive Not starting job because prior execution is running and concurrency policy is Forbid"}, 1},
		batchv1.ReplaceConcurrent: {[]string{"Normal SuccessfulDelete Deleted job tick-29543641", "Normal SuccessfulCreate Created job tick-29543642"}, 1},
	} {
		w := wind(t, func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = policy })
		w.sync("10:01:00")
		_, told := w.sync("10:02:00")
		w.expect(told, want.told...)
		if n := len(w.jobs()); n != want.jobs || len(w.status().Active) != n {
			t.Errorf("%s: %d Jobs, %d active", policy, n, len(w.status().Active))
		}
	}
}

func TestCronJobMisses(t *testing.T) {
	w := wind(t, func(s *batchv1.CronJobSpec) { s.Schedule, s.StartingDeadlineSeconds = "0 * * * *", ptr.To[int64](30) })
	if _, told := w.sync("11:00:40"); told != nil || len(w.jobs()) > 0 {
		t.Errorf("told %q of a time before the deadline", told)
	}
	w = wind(t, func(s *batchv1.CronJobSpec) {})
	_, told := w.sync("12:10:20") // 130 minutes later
	w.expect(told, "Warning TooManyMissedTimes too many missed start times", "Normal SuccessfulCreate Created job tick-29543770")
	w = wind(t, func(s *batchv1.CronJobSpec) { s.Suspend = ptr.To(true) })
	if after, told := w.sync("10:09:00"); after != 0 || told != nil || len(w.jobs()) > 0 {
		t.Errorf("suspended: again after %v, %q", after, told)
	}
	w = wind(t, func(s *batchv1.CronJobSpec) { s.Schedule = "59 23 31 2 *" })
	_, told = w.sync("10:09:00")
	w.expect(told, "Warning InvalidSchedule invalid schedule: 59 23 31 2 * : time difference between two schedules is less than 1 second")
	w = wind(t, func(s *batchv1.CronJobSpec) { s.TimeZone = ptr.To("Atlantis") })
	_, told = w.sync("10:09:00")
	w.expect(told, `Warning UnknownTimeZone invalid timeZone: "Atlantis": unknown time zone Atlantis`)
}

func TestCronJobHistory(t *testing.T) {
	w := wind(t, func(s *batchv1.CronJobSpec) {
		s.SuccessfulJobsHistoryLimit, s.FailedJobsHistoryLimit = ptr.To[int32](1), ptr.To[int32](0)
	})
	for i, how := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed, batchv1.JobComplete} {
		w.sync(fmt.Sprintf("10:0%d:00", i+1))
		for _, j := range w.jobs() {
			if !finished(&j) {
				w.end(&j, how, i+1)
			}
		}
	}
	w.sync("10:03:30")
	if left := w.jobs(); len(left) != 1 || left[0].Name != "tick-29543643" {
		t.Errorf("%d Jobs are left", len(left))
	}
}

// TestCronJobAfterCrash: the Job was made and the status not written.
func TestCronJobAfterCrash(t *testing.T) {
	w := wind(t, func(*batchv1.CronJobSpec) {})
	var cj batchv1.CronJob
	if err := w.client.Get(t.Context(), client.ObjectKey{Namespace: "ns", Name: "tick"}, &cj); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Create(t.Context(), jobAt(&cj, time.Date(2026, 3, 4, 10, 1, 0, 0, time.UTC))); err != nil {
		t.Fatal(err)
	}
	w.sync("10:01:10")
	if st := w.status(); len(w.jobs()) != 1 || len(st.Active) != 1 || st.LastScheduleTime == nil {
		t.Errorf("%d Jobs, status %+v", len(w.jobs()), st)
	}
	if err := w.client.Delete(t.Context(), &w.jobs()[0]); err != nil {
		t.Fatal(err)
	}
	_, told := w.sync("10:01:20")
	w.expect(told, "Normal MissingJob Active job went missing: tick-29543641")
	if n := len(w.status().Active); n != 0 {
		t.Errorf("%d active", n)
	}
}

// TestLastTime compares with a list of all times.
func TestLastTime(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	schedules := []string{"* * * * *", "*/7 * * * *", "0 */5 * * *", "30 6-16/4 * * 1-5", "15 10 * * 6", "@every 90s", "@daily", "0 0 1 * *"}
	for range 500 {
		text := schedules[r.IntN(len(schedules))]
		s, err := validation.ParseSchedule(text)
		if err != nil {
			t.Fatal(err)
		}
		cj := &batchv1.CronJob{}
		made := time.Date(2026, 3, 1+r.IntN(20), r.IntN(24), r.IntN(60), r.IntN(60), 0, time.UTC)
		cj.CreationTimestamp.Time = made
		now := made.Add(time.Duration(r.IntN(4*24*3600)) * time.Second)
		var last time.Time
		for at := s.Next(made); !at.After(now); at = s.Next(at) {
			last = at
		}
		_, got, _, err := lastTime(cj, now, s, true)
		if err != nil || !got.Equal(last) {
			t.Fatalf("seed %d: %s from %v to %v: %v (%v), want %v", seed, text, made, now, got, err, last)
		}
		if next := now.Add(untilNext(cj, now, s)); !strings.HasPrefix(text, "@every") && !next.Equal(s.Next(now).Add(lateness)) {
			t.Fatalf("seed %d: %s at %v: next %v", seed, text, now, next)
		}
	}
}
