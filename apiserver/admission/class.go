// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"
)

// priority turns a class's name into its number (Priority admission).
type priority struct {
	*admission.Handler
	Objects
}

// Admit resolves the class of a new Pod; a change that leaves the number away
// keeps it.
func (p priority) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod := podOf(a)
	if pod == nil {
		return nil
	}
	if old, ok := a.GetOldObject().(*corev1.Pod); ok && a.GetOperation() == admission.Update {
		if pod.Spec.Priority == nil {
			pod.Spec.Priority = old.Spec.Priority
		}
		if pod.Spec.PreemptionPolicy == nil {
			pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
		}
		return nil
	}
	value, policy := int32(0), ptr.To(corev1.PreemptLowerPriority)
	class, err := p.class(ctx, pod.Spec.PriorityClassName)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return admission.NewForbidden(a, fmt.Errorf("no PriorityClass with name %v was found", pod.Spec.PriorityClassName))
		}
		return fmt.Errorf("cannot resolve priority class %s: %w", pod.Spec.PriorityClassName, err)
	}
	if class != nil {
		pod.Spec.PriorityClassName, value, policy = class.Name, class.Value, class.PreemptionPolicy
	}
	if pod.Spec.Priority != nil && *pod.Spec.Priority != value {
		return admission.NewForbidden(a, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, value))
	}
	pod.Spec.Priority = &value
	if policy == nil {
		return nil
	}
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy != *policy {
		return admission.NewForbidden(a, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *pod.Spec.PreemptionPolicy, *policy))
	}
	pod.Spec.PreemptionPolicy = ptr.To(*policy)
	return nil
}

// Validate lets one class at most be the default.
func (p priority) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	class, ok := a.GetObject().(*schedulingv1.PriorityClass)
	if !ok || a.GetSubresource() != "" || !class.GlobalDefault {
		return nil
	}
	first, err := p.defaultClass()
	if err != nil {
		return fmt.Errorf("cannot find the default priority class: %w", err)
	}
	if first != nil && (a.GetOperation() == admission.Create || first.Name != class.Name) {
		return admission.NewForbidden(a, fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", first.Name)) //nolint:staticcheck // upstream's text
	}
	return nil
}

func (p priority) class(ctx context.Context, name string) (*schedulingv1.PriorityClass, error) {
	if name != "" {
		return p.PriorityClass(ctx, name)
	}
	return p.defaultClass()
}

// defaultClass is the smallest of those marked as default, or nil.
func (p priority) defaultClass() (*schedulingv1.PriorityClass, error) {
	all, err := p.PriorityClasses.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var best *schedulingv1.PriorityClass
	for _, c := range all {
		if c.GlobalDefault && (best == nil || c.Value < best.Value) {
			best = c
		}
	}
	return best, nil
}

// runtimeClass adds the overhead and the scheduling rules of a Pod's runtime
// class (RuntimeClass admission).
type runtimeClass struct {
	*admission.Handler
	Objects
}

// Admit fills in what the class says, or refuses what contradicts it.
func (r runtimeClass) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod := podOf(a)
	if pod == nil {
		return nil
	}
	class := &nodev1.RuntimeClass{}
	if name := pod.Spec.RuntimeClassName; name != nil {
		found, err := r.RuntimeClass(ctx, *name)
		if apierrors.IsNotFound(err) {
			return admission.NewForbidden(a, fmt.Errorf("pod rejected: RuntimeClass %q not found", *name))
		}
		if err != nil {
			return fmt.Errorf("cannot look up runtime class %s: %w", *name, err)
		}
		class = found
	}
	switch {
	case class.Overhead == nil:
		if pod.Spec.Overhead != nil {
			return admission.NewForbidden(a, errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
		}
	case len(pod.Spec.Overhead) > 0 && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead):
		return admission.NewForbidden(a, errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
	default:
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	for k, want := range class.Scheduling.NodeSelector {
		if have, ok := pod.Spec.NodeSelector[k]; ok && have != want {
			return admission.NewForbidden(a, fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", k, want, k, have))
		}
	}
	addLabels(&pod.Spec.NodeSelector, class.Scheduling.NodeSelector)
	pod.Spec.Tolerations = mergeTolerations(pod.Spec.Tolerations, class.Scheduling.Tolerations)
	return nil
}

func addLabels(to *map[string]string, from map[string]string) {
	if *to == nil && len(from) > 0 {
		*to = map[string]string{}
	}
	maps.Copy(*to, from)
}

// mergeTolerations joins two lists and leaves away what another one covers; of
// two equal ones the first stays.
func mergeTolerations(a, b []corev1.Toleration) (out []corev1.Toleration) {
	all := slices.Concat(a, b)
	for i, t := range all {
		covered := slices.ContainsFunc(out, func(o corev1.Toleration) bool { return covers(o, t) }) ||
			slices.ContainsFunc(all[i+1:], func(o corev1.Toleration) bool { return !equality.Semantic.DeepEqual(o, t) && covers(o, t) })
		if !covered {
			out = append(out, t)
		}
	}
	return out
}

// covers says whether what t tolerates is tolerated by o too.
func covers(o, t corev1.Toleration) bool {
	everyKey := o.Key == "" && o.Operator == corev1.TolerationOpExists
	switch {
	case equality.Semantic.DeepEqual(o, t):
		return true
	case o.Key != t.Key && !everyKey, o.Effect != t.Effect && o.Effect != "":
		return false
	case o.Effect == corev1.TaintEffectNoExecute && o.TolerationSeconds != nil && (t.TolerationSeconds == nil || *t.TolerationSeconds > *o.TolerationSeconds):
		return false
	case o.Operator == corev1.TolerationOpExists:
		return true
	}
	return (o.Operator == corev1.TolerationOpEqual || o.Operator == "") && t.Operator == corev1.TolerationOpEqual && t.Value == o.Value
}
