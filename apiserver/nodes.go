// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/utils/ptr"
)

// nodeObjects shows the authorizer of nodes what Pods are on them, as the watch
// cache has it: a node hears of its Pods from that cache too, and so never
// before the authorizer.
type nodeObjects struct{ s *Server }

func (o nodeObjects) PodsOn(ctx context.Context, node string) ([]*corev1.Pod, error) {
	return o.s.pods(allNamespaces(ctx), &metainternalversion.ListOptions{
		ResourceVersion: "0", FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node),
	})
}

func (o nodeObjects) Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	return getAt[corev1.PersistentVolume](ctx, o.s, corev1.Resource("persistentvolumes"), "", name, "0")
}

func (o nodeObjects) AttachedTo(ctx context.Context, attachment string) (node string, err error) {
	a, err := getAt[storagev1.VolumeAttachment](ctx, o.s, storagev1.Resource("volumeattachments"), "", attachment, "0")
	if err != nil {
		return "", err
	}
	return a.Spec.NodeName, nil
}

func (o nodeObjects) SliceOf(ctx context.Context, slice string) (node string, err error) {
	s, err := getAt[resourcev1.ResourceSlice](ctx, o.s, resourcev1.Resource("resourceslices"), "", slice, "0")
	if err != nil {
		return "", err
	}
	return ptr.Deref(s.Spec.NodeName, ""), nil
}
