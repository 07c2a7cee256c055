// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/peapod/peapod/api/validation"
)

var eventsV1 = eventsv1.SchemeGroupVersion

// addEventsGroup serves events.k8s.io/v1 as a second face of core/v1 events:
// one store, one type in memory, a conversion on the wire.
func addEventsGroup(s *runtime.Scheme) error {
	s.AddKnownTypes(internal(eventsV1.Group), &corev1.Event{}, &corev1.EventList{})
	if err := s.SetVersionPriority(eventsV1); err != nil {
		return err
	}
	convert := func(from, into any, f conversion.ConversionFunc) error { return s.AddConversionFunc(from, into, f) }
	err := convert((*eventsv1.Event)(nil), (*corev1.Event)(nil), func(a, b any, _ conversion.Scope) error {
		toCore(a.(*eventsv1.Event), b.(*corev1.Event))
		return nil
	})
	if err != nil {
		return err
	}
	err = convert((*corev1.Event)(nil), (*eventsv1.Event)(nil), func(a, b any, _ conversion.Scope) error {
		fromCore(a.(*corev1.Event), b.(*eventsv1.Event))
		return nil
	})
	if err != nil {
		return err
	}
	err = convert((*eventsv1.EventList)(nil), (*corev1.EventList)(nil), func(a, b any, _ conversion.Scope) error {
		in, out := a.(*eventsv1.EventList), b.(*corev1.EventList)
		out.ListMeta, out.Items = in.ListMeta, make([]corev1.Event, len(in.Items))
		for i := range in.Items {
			toCore(&in.Items[i], &out.Items[i])
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.AddFieldLabelConversionFunc(eventsV1.WithKind("Event"), eventField); err != nil {
		return err
	}
	return convert((*corev1.EventList)(nil), (*eventsv1.EventList)(nil), func(a, b any, _ conversion.Scope) error {
		in, out := a.(*corev1.EventList), b.(*eventsv1.EventList)
		out.ListMeta, out.Items = in.ListMeta, make([]eventsv1.Event, len(in.Items))
		for i := range in.Items {
			fromCore(&in.Items[i], &out.Items[i])
		}
		return nil
	})
}

func toCore(a *eventsv1.Event, b *corev1.Event) {
	b.ObjectMeta, b.InvolvedObject, b.Related = a.ObjectMeta, a.Regarding, a.Related
	b.Reason, b.Message, b.Type, b.Action = a.Reason, a.Note, a.Type, a.Action
	b.EventTime, b.ReportingController, b.ReportingInstance = a.EventTime, a.ReportingController, a.ReportingInstance
	b.Source, b.Count = a.DeprecatedSource, a.DeprecatedCount
	b.FirstTimestamp, b.LastTimestamp = a.DeprecatedFirstTimestamp, a.DeprecatedLastTimestamp
	if a.Series != nil {
		b.Series = &corev1.EventSeries{Count: a.Series.Count, LastObservedTime: a.Series.LastObservedTime}
	}
}

func fromCore(a *corev1.Event, b *eventsv1.Event) {
	b.ObjectMeta, b.Regarding, b.Related = a.ObjectMeta, a.InvolvedObject, a.Related
	b.Reason, b.Note, b.Type, b.Action = a.Reason, a.Message, a.Type, a.Action
	b.EventTime, b.ReportingController, b.ReportingInstance = a.EventTime, a.ReportingController, a.ReportingInstance
	b.DeprecatedSource, b.DeprecatedCount = a.Source, a.Count
	b.DeprecatedFirstTimestamp, b.DeprecatedLastTimestamp = a.FirstTimestamp, a.LastTimestamp
	if a.Series != nil {
		b.Series = &eventsv1.EventSeries{Count: a.Series.Count, LastObservedTime: a.Series.LastObservedTime}
	}
}

// eventFields1 are the selectable fields of events.k8s.io/v1, by the names that
// core/v1 has for them.
var eventFields1 = map[string]string{
	"metadata.name": "metadata.name", "metadata.namespace": "metadata.namespace", "reason": "reason", "type": "type", "reportingController": "reportingComponent",
	"regarding.kind": "involvedObject.kind", "regarding.namespace": "involvedObject.namespace", "regarding.name": "involvedObject.name", "regarding.uid": "involvedObject.uid",
	"regarding.apiVersion": "involvedObject.apiVersion", "regarding.resourceVersion": "involvedObject.resourceVersion", "regarding.fieldPath": "involvedObject.fieldPath",
}

// eventField turns a field of events.k8s.io/v1 into that of core/v1.
func eventField(label, value string) (string, string, error) {
	name, ok := eventFields1[label]
	if !ok {
		return "", "", fmt.Errorf("field label not supported: %s", label)
	}
	return name, value, nil
}

// strictEvents holds those who come by events.k8s.io/v1 to its stricter rules.
func strictEvents(r *row) {
	validate, update := r.validate, r.validateUpdate
	strict := func(ctx context.Context) bool {
		q, ok := genericapirequest.RequestInfoFrom(ctx)
		return ok && q.APIGroup == eventsV1.Group
	}
	r.validate = func(ctx context.Context, o runtime.Object) field.ErrorList {
		if strict(ctx) {
			return validation.EventV1(o.(*corev1.Event))
		}
		return validate(ctx, o)
	}
	r.validateUpdate = func(ctx context.Context, o, old runtime.Object) field.ErrorList {
		if strict(ctx) {
			return validation.EventV1Update(o.(*corev1.Event), old.(*corev1.Event))
		}
		return update(ctx, o, old)
	}
}
