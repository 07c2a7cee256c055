// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/admission"
	resourcehelper "k8s.io/component-helpers/resource"
)

// limitRanger gives the containers of a new Pod what the LimitRanges of its
// namespace say, and holds Pods and claims to them.
type limitRanger struct {
	*admission.Handler
	Objects
}

// limitAnnotation tells what was filled in.
const limitAnnotation = "kubernetes.io/limit-ranger"

// about says whether an operation is bound by limits: Pods when they are made or
// resized, claims always.
func (limitRanger) about(a admission.Attributes) bool {
	switch {
	case a.GetResource().GroupResource() == corev1.Resource("pods"):
		return a.GetSubresource() == "" && a.GetOperation() == admission.Create || a.GetSubresource() == "resize" && a.GetOperation() == admission.Update
	case a.GetResource().GroupResource() == corev1.Resource("persistentvolumeclaims"):
		return a.GetSubresource() == ""
	}
	return false
}

// each does something for every LimitRange of the namespace. What is ending is
// left alone.
func (l limitRanger) each(ctx context.Context, a admission.Attributes, do func(*corev1.LimitRange) error) error {
	if !l.about(a) {
		return nil
	}
	if old, ok := a.GetOldObject().(metav1.Object); ok && old.GetDeletionTimestamp() != nil {
		return nil
	}
	ranges, err := l.LimitRanges(ctx, a.GetNamespace())
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("unable to %s %v at this time because there was an error enforcing limit ranges", a.GetOperation(), a.GetResource()))
	}
	for i := range ranges {
		if err := do(&ranges[i]); err != nil {
			return admission.NewForbidden(a, err)
		}
	}
	return nil
}

func (l limitRanger) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	p, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return nil
	}
	return l.each(ctx, a, func(r *corev1.LimitRange) error {
		giveDefaults(r, p)
		return nil
	})
}

func (l limitRanger) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	return l.each(ctx, a, func(r *corev1.LimitRange) error {
		switch o := a.GetObject().(type) {
		case *corev1.Pod:
			return podWithin(r, o)
		case *corev1.PersistentVolumeClaim:
			return claimWithin(r, o)
		}
		return nil
	})
}

// giveDefaults fills in what containers do not ask for, and tells so.
func giveDefaults(r *corev1.LimitRange, p *corev1.Pod) {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for _, item := range r.Spec.Limits {
		if item.Type == corev1.LimitTypeContainer {
			maps.Copy(requests, item.DefaultRequest)
			maps.Copy(limits, item.Default)
		}
	}
	var told []string
	give := func(list *corev1.ResourceList, defaults corev1.ResourceList, what string) {
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		var given []string
		for _, n := range slices.Sorted(maps.Keys(defaults)) {
			if _, asked := (*list)[n]; !asked {
				(*list)[n] = defaults[n].DeepCopy()
				given = append(given, string(n))
			}
		}
		if given != nil {
			told = append(told, strings.Join(given, ", ")+" "+what)
		}
	}
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		give(&c.Resources.Requests, requests, "request for container "+c.Name)
		give(&c.Resources.Limits, limits, "limit for container "+c.Name)
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		give(&c.Resources.Requests, requests, "request for init container "+c.Name)
		give(&c.Resources.Limits, limits, "limit for init container "+c.Name)
	}
	if told == nil {
		return
	}
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Annotations[limitAnnotation] = "LimitRanger plugin set: " + strings.Join(told, "; ")
}

func podWithin(r *corev1.LimitRange, p *corev1.Pod) error {
	var errs []error
	for i := range r.Spec.Limits {
		item := &r.Spec.Limits[i]
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, c := range slices.Concat(p.Spec.Containers, p.Spec.InitContainers) {
				errs = append(errs, within(item, c.Resources.Requests, c.Resources.Limits)...)
			}
		case corev1.LimitTypePod:
			o := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
			errs = append(errs, within(item, resourcehelper.PodRequests(p, o), resourcehelper.PodLimits(p, o))...)
		}
	}
	return utilerrors.NewAggregate(errs)
}

// claimWithin looks at requests alone: claims have no limits.
func claimWithin(r *corev1.LimitRange, c *corev1.PersistentVolumeClaim) error {
	var errs []error
	for i := range r.Spec.Limits {
		item := &r.Spec.Limits[i]
		if item.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		for _, n := range slices.Sorted(maps.Keys(item.Min)) {
			errs = append(errs, atLeast(item, n, c.Spec.Resources.Requests, nil))
		}
		for _, n := range slices.Sorted(maps.Keys(item.Max)) {
			most := item.Max[n]
			q, asked := c.Spec.Resources.Requests[n]
			if !asked {
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s.  No request is specified", n, item.Type, most.String()))
			} else if q.Cmp(most) > 0 {
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", n, item.Type, most.String(), q.String()))
			}
		}
	}
	return utilerrors.NewAggregate(errs)
}

func within(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList) (errs []error) {
	for _, n := range slices.Sorted(maps.Keys(item.Min)) {
		errs = append(errs, atLeast(item, n, requests, limits))
	}
	for _, n := range slices.Sorted(maps.Keys(item.Max)) {
		errs = append(errs, atMost(item, n, requests, limits))
	}
	for _, n := range slices.Sorted(maps.Keys(item.MaxLimitRequestRatio)) {
		errs = append(errs, ratio(item, n, requests, limits))
	}
	return errs
}

func atLeast(item *corev1.LimitRangeItem, n corev1.ResourceName, requests, limits corev1.ResourceList) error {
	least := item.Min[n]
	request, asked := requests[n]
	limit, limited := limits[n]
	text := fmt.Sprintf("minimum %s usage per %s is %s", n, item.Type, least.String())
	switch {
	case !asked:
		return fmt.Errorf("%s.  No request is specified", text)
	case request.Cmp(least) < 0:
		return fmt.Errorf("%s, but request is %s", text, request.String())
	case limited && limit.Cmp(least) < 0:
		return fmt.Errorf("%s, but limit is %s", text, limit.String())
	}
	return nil
}

func atMost(item *corev1.LimitRangeItem, n corev1.ResourceName, requests, limits corev1.ResourceList) error {
	most := item.Max[n]
	request, asked := requests[n]
	limit, limited := limits[n]
	text := fmt.Sprintf("maximum %s usage per %s is %s", n, item.Type, most.String())
	switch {
	case !limited:
		return fmt.Errorf("%s.  No limit is specified", text)
	case limit.Cmp(most) > 0:
		return fmt.Errorf("%s, but limit is %s", text, limit.String())
	case asked && request.Cmp(most) > 0:
		return fmt.Errorf("%s, but request is %s", text, request.String())
	}
	return nil
}

func ratio(item *corev1.LimitRangeItem, n corev1.ResourceName, requests, limits corev1.ResourceList) error {
	widest := item.MaxLimitRequestRatio[n]
	request, limit := requests[n], limits[n]
	text := fmt.Sprintf("%s max limit to request ratio per %s is %s", n, item.Type, widest.String())
	switch {
	case request.IsZero():
		return fmt.Errorf("%s, but no request is specified or request is 0", text)
	case limit.IsZero():
		return fmt.Errorf("%s, but no limit is specified or limit is 0", text)
	}
	if is := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); is > widest.AsApproximateFloat64() {
		return fmt.Errorf("%s, but provided ratio is %f", text, is)
	}
	return nil
}
