// SPDX-License-Identifier: Apache-2.0

package job

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/validation"
)

const (
	// manyMissed is from where on missed times are told of.
	manyMissed = 100
	// lateness is how long after a time it is looked at: clocks are corrected,
	// and a look before the time would be for nothing.
	lateness = 100 * time.Millisecond
)

// zonedSchedule says whether the schedule names a zone itself, an old way.
func zonedSchedule(cj *batchv1.CronJob) bool { return strings.Contains(cj.Spec.Schedule, "TZ") }

// scheduleOf reads the schedule, in its zone.
func scheduleOf(cj *batchv1.CronJob) (cron.Schedule, error) {
	text := cj.Spec.Schedule
	if z := cj.Spec.TimeZone; z != nil && !zonedSchedule(cj) {
		text = fmt.Sprintf("TZ=%s %s", *z, text)
	}
	return validation.ParseSchedule(text)
}

// lastTime finds the last time of the schedule before now, zero when there is
// none since the CronJob was made or a Job was made for it; deadline leaves
// times out that are too long ago to be made up for. missed is about how many
// times have passed.
func lastTime(cj *batchv1.CronJob, now time.Time, s cron.Schedule, deadline bool) (from, last time.Time, missed int64, err error) {
	from = cj.CreationTimestamp.Time
	if t := cj.Status.LastScheduleTime; t != nil {
		from = t.Time
	}
	if d := cj.Spec.StartingDeadlineSeconds; deadline && d != nil {
		if t := now.Add(-time.Duration(*d) * time.Second); t.After(from) {
			from = t
		}
	}
	first := s.Next(from)
	second := s.Next(first)
	switch {
	case now.Before(first):
		return from, time.Time{}, 0, nil
	case now.Before(second):
		return from, first, 0, nil
	}
	// A date such as February 31 never comes: then both are zero.
	gap := int64(second.Sub(first).Round(time.Second).Seconds())
	if gap < 1 {
		return from, time.Time{}, 0, errors.New("time difference between two schedules is less than 1 second")
	}
	// Of a schedule that is not even, the gap is a guess: the schedule itself is
	// asked from a little before the time that it leads to, and from earlier when
	// nothing comes after that.
	missed = int64(now.Sub(first).Seconds())/gap + 1
	for back := int64(2); last.IsZero(); back *= 2 {
		start := first.Add(time.Duration((missed-back)*gap) * time.Second)
		if start.Before(from) {
			start = from
		}
		for t := s.Next(start); !t.After(now); t = s.Next(t) {
			last = t
		}
	}
	return from, last, missed, nil
}

// dueTime is the time for which a Job is to be made, or zero. Of several missed
// ones it is the last.
func dueTime(cj *batchv1.CronJob, now time.Time, s cron.Schedule) (due time.Time, missed int64, err error) {
	_, last, missed, err := lastTime(cj, now, s, true)
	if last.IsZero() || last.After(now) {
		return time.Time{}, 0, err
	}
	return last, missed, err
}

// untilNext is how long it is to the next time.
func untilNext(cj *batchv1.CronJob, now time.Time, s cron.Schedule) time.Duration {
	from, last, _, err := lastTime(cj, now, s, false)
	switch {
	case err != nil:
		last = now
	case last.IsZero():
		last = from
	}
	return s.Next(last).Add(lateness).Sub(now)
}

// jobNameAt names the Job of a time by its minute.
func jobNameAt(cj *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
}

// jobAt is the Job of a time.
func jobAt(cj *batchv1.CronJob, at time.Time) *batchv1.Job {
	t := cj.Spec.JobTemplate.DeepCopy()
	notes := map[string]string{}
	maps.Copy(notes, t.Annotations)
	zone, err := time.LoadLocation(ptr.Deref(cj.Spec.TimeZone, ""))
	if err != nil {
		zone = time.UTC // sync has refused it
	}
	notes[batchv1.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Name: jobNameAt(cj, at), Namespace: cj.Namespace, Labels: t.Labels, Annotations: notes,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, batchv1.SchemeGroupVersion.WithKind("CronJob"))},
		},
		Spec: t.Spec,
	}
}
