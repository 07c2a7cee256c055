// SPDX-License-Identifier: Apache-2.0

// Package admission owns what the API server adds to Pods, claims and Ingresses,
// or refuses, before they are stored, as the admission plugins of kube-apiserver
// 1.37 do: the service account and its token volume, pod security, priority,
// runtime class, default tolerations, topology labels and the room for a resize;
// the class of claims and of Ingresses, and what keeps claims while they are
// used. It reads other objects through small functions only.
package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	schedulinglisters "k8s.io/client-go/listers/scheduling/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
)

// Objects are what admission looks at. A get of a missing object returns a
// NotFound error.
type Objects struct {
	ServiceAccount func(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	PriorityClass  func(ctx context.Context, name string) (*schedulingv1.PriorityClass, error)
	RuntimeClass   func(ctx context.Context, name string) (*nodev1.RuntimeClass, error)
	Node           func(ctx context.Context, name string) (*corev1.Node, error)
	Pod            func(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	// LimitRanges are those of a namespace.
	LimitRanges func(ctx context.Context, namespace string) ([]corev1.LimitRange, error)
	// Allowed says whether a user may do something to a resource of a name.
	Allowed func(ctx context.Context, u user.Info, verb string, gr schema.GroupResource, namespace, name string) bool
	// PriorityClasses are all of them, to find the default.
	PriorityClasses schedulinglisters.PriorityClassLister
	IngressClasses  networkinglisters.IngressClassLister
	StorageClasses  storagelisters.StorageClassLister
}

// Plugins is the chain, in upstream's order. security judges Pods by the
// standards of their namespace: see NewPodSecurity.
func Plugins(o Objects, security admission.Interface) []admission.Interface {
	return []admission.Interface{
		limitRanger{on(admission.Create, admission.Update), o},
		serviceAccount{on(admission.Create, admission.Update), o},
		nodeRestriction{on(admission.Create, admission.Update, admission.Delete), o},
		taintNodes{on(admission.Create)},
		security,
		priority{on(admission.Create, admission.Update), o},
		defaultTolerations{on(admission.Create, admission.Update)},
		defaultClass{on(admission.Create), o},
		inUse{on(admission.Create)},
		claimResize{on(admission.Update), o},
		runtimeClass{on(admission.Create), o},
		approve{on(admission.Update), o},
		sign{on(admission.Update), o},
		attest{on(admission.Create, admission.Update), o},
		restrictSubject{on(admission.Create)},
		ingressClass{on(admission.Create), o},
		topologyLabels{on(admission.Create, admission.Update), o},
		resize{on(admission.Update), o},
	}
}

func on(ops ...admission.Operation) *admission.Handler { return admission.NewHandler(ops...) }

// podOf is the Pod of a request to the pods resource itself, or nil.
func podOf(a admission.Attributes) *corev1.Pod {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "" {
		return nil
	}
	p, _ := a.GetObject().(*corev1.Pod)
	return p
}

// taintNodes marks a new Node not ready until its agent says otherwise
// (TaintNodesByCondition).
type taintNodes struct{ *admission.Handler }

func (taintNodes) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("nodes") || a.GetSubresource() != "" {
		return nil
	}
	n, ok := a.GetObject().(*corev1.Node)
	if !ok {
		return nil
	}
	for _, t := range n.Spec.Taints {
		if t.Key == corev1.TaintNodeNotReady && t.Effect == corev1.TaintEffectNoSchedule {
			return nil
		}
	}
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
	return nil
}

// defaultTolerations keeps a Pod for five minutes on a node that is not ready
// or out of reach (DefaultTolerationSeconds).
type defaultTolerations struct{ *admission.Handler }

func (defaultTolerations) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	p := podOf(a)
	if p == nil {
		return nil
	}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if !tolerates(p.Spec.Tolerations, key) {
			seconds := int64(300)
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
			})
		}
	}
	return nil
}

func tolerates(list []corev1.Toleration, key string) bool {
	for _, t := range list {
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}
