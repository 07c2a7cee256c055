// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// shelf has all objects of a kind, by namespace and name.
type shelf[T any] map[types.NamespacedName]*T

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// usual is how a Pod is spread that does not say: with those that the same
// Services lead to, and the same controller made.
func (k *known) usual(p *corev1.Pod) (out []constraint) {
	s := k.kin(p)
	if s.Empty() {
		return nil
	}
	for _, c := range usualSpread {
		c.pods = s
		out = append(out, c)
	}
	return out
}

// kin selects the Pods that belong together with one, as kube-scheduler's
// DefaultSelector; of no Service and no controller it is empty.
func (k *known) kin(p *corev1.Pod) labels.Selector {
	all := labels.Set{}
	for name, s := range k.services {
		// A Service without a selector leads nowhere.
		if name.Namespace == p.Namespace && s.Spec.Selector != nil && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(p.Labels)) {
			maps.Copy(all, s.Spec.Selector)
		}
	}
	owner := metav1.GetControllerOfNoCopy(p)
	if owner == nil {
		return labels.SelectorFromSet(all)
	}
	name := types.NamespacedName{Namespace: p.Namespace, Name: owner.Name}
	var more *metav1.LabelSelector
	switch owner.APIVersion + " " + owner.Kind {
	case corev1.SchemeGroupVersion.String() + " ReplicationController":
		if c := k.replicationControllers[name]; c != nil {
			maps.Copy(all, c.Spec.Selector)
		}
	case appsv1.SchemeGroupVersion.String() + " ReplicaSet":
		if c := k.replicaSets[name]; c != nil {
			more = c.Spec.Selector
		}
	case appsv1.SchemeGroupVersion.String() + " StatefulSet":
		if c := k.statefulSets[name]; c != nil {
			more = c.Spec.Selector
		}
	}
	s := labels.SelectorFromSet(all)
	if more != nil {
		add, _ := selectorOf(more).Requirements()
		s = s.Add(add...)
	}
	return s
}
