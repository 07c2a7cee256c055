// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
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
	Listers
}

func (p priority) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod := podOf(a)
	if pod == nil {
		return nil
	}
	value, policy := int32(0), corev1.PreemptLowerPriority
	class, err := p.class(pod.Spec.PriorityClassName)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return admission.NewForbidden(a, fmt.Errorf("no PriorityClass with name %v was found", pod.Spec.PriorityClassName))
		}
		return fmt.Errorf("cannot resolve priority class %s: %w", pod.Spec.PriorityClassName, err)
	}
	if class != nil {
		pod.Spec.PriorityClassName, value = class.Name, class.Value
		policy = ptr.Deref(class.PreemptionPolicy, policy)
	}
	if pod.Spec.Priority != nil && *pod.Spec.Priority != value {
		return admission.NewForbidden(a, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, value))
	}
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy != policy {
		return admission.NewForbidden(a, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *pod.Spec.PreemptionPolicy, policy))
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = &value, &policy
	return nil
}

// class finds the named class, or for no name the smallest global default, or
// nil.
func (p priority) class(name string) (*schedulingv1.PriorityClass, error) {
	if name != "" {
		return p.PriorityClasses.Get(name)
	}
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
	Listers
}

func (r runtimeClass) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod := podOf(a)
	if pod == nil {
		return nil
	}
	if pod.Spec.RuntimeClassName == nil {
		if pod.Spec.Overhead != nil {
			return admission.NewForbidden(a, fmt.Errorf("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
		}
		return nil
	}
	class, err := r.RuntimeClasses.Get(*pod.Spec.RuntimeClassName)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return admission.NewForbidden(a, fmt.Errorf("pod rejected: RuntimeClass %q not found", *pod.Spec.RuntimeClassName))
		}
		return fmt.Errorf("cannot look up runtime class %s: %w", *pod.Spec.RuntimeClassName, err)
	}
	if class.Overhead != nil {
		if pod.Spec.Overhead != nil && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return admission.NewForbidden(a, fmt.Errorf("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	selector := maps.Clone(class.Scheduling.NodeSelector)
	for k, v := range pod.Spec.NodeSelector {
		if was, ok := selector[k]; ok && was != v {
			return admission.NewForbidden(a, fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", k, was, k, v))
		}
		if selector == nil {
			selector = map[string]string{}
		}
		selector[k] = v
	}
	pod.Spec.NodeSelector = selector
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, class.Scheduling.Tolerations...)
	return nil
}
