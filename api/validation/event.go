// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// How long the parts of an event may be.
const (
	eventPartLength    = 128
	eventMessageLength = 1024
)

// Event checks that an event lies in the namespace of what it is about, and
// of those with a time of their own, who reports what.
func Event(e *corev1.Event) field.ErrorList { return event(e, "reportingComponent") }

func event(e *corev1.Event, reporterName string) (errs field.ErrorList) {
	about := e.InvolvedObject.Namespace
	elsewhere := field.Invalid(field.NewPath("involvedObject", "namespace"), about, "does not match event.namespace")
	if e.EventTime.IsZero() {
		if about == "" && e.Namespace != "" && e.Namespace != metav1.NamespaceDefault || about != "" && about != e.Namespace {
			errs = append(errs, elsewhere)
		}
		return errs
	}
	if about == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
		errs = append(errs, elsewhere)
	}
	reporter := field.NewPath(reporterName)
	errs = append(errs, required(e.ReportingController, reporter)...)
	errs = append(errs, invalidAll(reporter, e.ReportingController, validation.IsQualifiedName(e.ReportingController))...)
	for _, p := range []struct {
		name, value string
		most        int
	}{
		{"reportingInstance", e.ReportingInstance, eventPartLength}, {"action", e.Action, eventPartLength}, {"reason", e.Reason, eventPartLength},
	} {
		errs = append(errs, required(p.value, field.NewPath(p.name))...)
		if len(p.value) > p.most {
			errs = append(errs, field.Invalid(field.NewPath(p.name), "", fmt.Sprintf("can have at most %v characters", p.most)))
		}
	}
	if len(e.Message) > eventMessageLength {
		errs = append(errs, field.Invalid(field.NewPath("message"), "", fmt.Sprintf("can have at most %v characters", eventMessageLength)))
	}
	return errs
}

// EventUpdate checks a change, as a new event.
func EventUpdate(e, _ *corev1.Event) field.ErrorList { return Event(e) }

// EventV1 checks an event that comes by events.k8s.io/v1, which is strict: it
// has a time of its own, and nothing of what the older form had instead.
func EventV1(e *corev1.Event) field.ErrorList {
	errs := append(event(e, "reportingController"), meta(&e.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)...)
	errs = append(errs, eventSeries(e)...)
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type)))
	}
	for _, old := range []struct {
		name string
		set  bool
	}{
		{"firstTimestamp", !e.FirstTimestamp.IsZero()}, {"lastTimestamp", !e.LastTimestamp.IsZero()}, {"count", e.Count != 0}, {"source", e.Source != corev1.EventSource{}},
	} {
		if old.set {
			errs = append(errs, field.Invalid(field.NewPath(old.name), "", "needs to be unset"))
		}
	}
	return errs
}

func eventSeries(e *corev1.Event) (errs field.ErrorList) {
	if e.Series == nil {
		return nil
	}
	if e.Series.Count < 2 {
		errs = append(errs, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	}
	if e.Series.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("series.lastObservedTime"), ""))
	}
	return errs
}

// EventV1Update checks a change by events.k8s.io/v1: only a series goes on.
func EventV1Update(e, old *corev1.Event) field.ErrorList {
	errs := append(event(e, "reportingController"), metaUpdate(&e.ObjectMeta, &old.ObjectMeta)...)
	if !equality.Semantic.DeepEqual(e.Series, old.Series) {
		errs = append(errs, eventSeries(e)...)
	}
	keep := func(name string, now, was, shown any) {
		if !equality.Semantic.DeepEqual(now, was) {
			errs = append(errs, field.Invalid(field.NewPath(name), shown, immutable))
		}
	}
	keep("involvedObject", e.InvolvedObject, old.InvolvedObject, goFields{e.InvolvedObject})
	keep("reason", e.Reason, old.Reason, e.Reason)
	keep("message", e.Message, old.Message, e.Message)
	keep("source", e.Source, old.Source, goFields{e.Source})
	keep("firstTimestamp", e.FirstTimestamp, old.FirstTimestamp, e.FirstTimestamp)
	keep("lastTimestamp", e.LastTimestamp, old.LastTimestamp, e.LastTimestamp)
	keep("count", e.Count, old.Count, e.Count)
	keep("type", e.Type, old.Type, e.Type)
	// Clients write times of a microsecond, and some of less.
	if !e.EventTime.Truncate(time.Microsecond).Equal(old.EventTime.Truncate(time.Microsecond)) {
		keep("eventTime", e.EventTime, old.EventTime, e.EventTime)
	}
	keep("action", e.Action, old.Action, e.Action)
	keep("related", e.Related, old.Related, related(e.Related))
	keep("reportingController", e.ReportingController, old.ReportingController, e.ReportingController)
	keep("reportingInstance", e.ReportingInstance, old.ReportingInstance, e.ReportingInstance)
	return errs
}

// related shows a reference by its Go names; none as null.
func related(r *corev1.ObjectReference) any {
	if r == nil {
		return (*corev1.ObjectReference)(nil)
	}
	return goFields{*r}
}
