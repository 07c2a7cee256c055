// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// scales finds out how many Pods controllers of any kind are to have: whatever
// has a scale subresource says it.
type scales struct {
	client client.Client
	kinds  meta.RESTMapper
	api    kubernetes.Interface
}

// sum adds up what the controllers of some Pods want. alone says that some
// Pods have none.
func (s scales) sum(ctx context.Context, pods []corev1.Pod) (n int32, alone bool, err error) {
	seen := map[types.UID]bool{}
	counted := map[types.UID]bool{}
	for i := range pods {
		ref := metav1.GetControllerOfNoCopy(&pods[i])
		if ref == nil {
			alone = true
			continue
		}
		if seen[ref.UID] {
			continue
		}
		uid, scale, err := s.of(ctx, pods[i].Namespace, *ref)
		if err != nil {
			return 0, alone, err
		}
		if uid == "" {
			return 0, alone, fmt.Errorf("found no controllers for pod %q", pods[i].Name)
		}
		seen[ref.UID] = true
		if !counted[uid] {
			counted[uid] = true
			n += scale
		}
	}
	return n, alone, nil
}

// of asks a controller, or for a ReplicaSet of a Deployment the Deployment: it
// may be moving from one to the next. No uid is no such controller.
func (s scales) of(ctx context.Context, namespace string, ref metav1.OwnerReference) (types.UID, int32, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return "", 0, err
	}
	if gv.Group == appsv1.GroupName && ref.Kind == "ReplicaSet" {
		rs := &appsv1.ReplicaSet{}
		if err := s.client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: ref.Name}, rs); err != nil {
			return "", 0, client.IgnoreNotFound(err)
		}
		if rs.UID != ref.UID {
			return "", 0, nil
		}
		parent := metav1.GetControllerOfNoCopy(rs)
		if parent == nil || parent.Kind != "Deployment" {
			return rs.UID, *rs.Spec.Replicas, nil
		}
		return s.of(ctx, namespace, *parent)
	}
	kind := gv.WithKind(ref.Kind)
	found, err := s.kinds.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return "", 0, err
	}
	whole, scale := &unstructured.Unstructured{}, &unstructured.Unstructured{}
	scale.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("Scale"))
	whole.SetGroupVersionKind(kind)
	whole.SetNamespace(namespace)
	whole.SetName(ref.Name)
	switch err := s.client.SubResource("scale").Get(ctx, whole, scale); {
	case apierrors.IsNotFound(err):
		return "", 0, s.scalable(found.Resource)
	case err != nil:
		return "", 0, err
	case scale.GetUID() != ref.UID:
		return "", 0, nil
	}
	n, _, err := unstructured.NestedInt64(scale.Object, "spec", "replicas") // none is zero
	return scale.GetUID(), int32(n), err
}

// scalable is an error for a resource without a scale: then it is not the
// object that is missing.
func (s scales) scalable(r schema.GroupVersionResource) error {
	served, err := s.api.Discovery().ServerResourcesForGroupVersion(r.GroupVersion().String())
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(served.APIResources, func(a metav1.APIResource) bool { return a.Name == r.Resource+"/scale" && a.Kind == "Scale" }) {
		return fmt.Errorf("%s does not implement the scale subresource", r.GroupResource())
	}
	return nil
}
