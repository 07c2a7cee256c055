// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/component-helpers/resource"
)

// topologyLabels gives a Pod the zone and region of its node, which the
// downward API can hand on (PodTopologyLabels admission, KEP-4742).
type topologyLabels struct {
	*admission.Handler
	Objects
}

// Admit labels a binding, whose labels go to the Pod, or a Pod that names its
// node itself.
func (t topologyLabels) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("pods") {
		return nil
	}
	node, labels := "", (*map[string]string)(nil)
	switch o := a.GetObject().(type) {
	case *corev1.Binding:
		if a.GetSubresource() != "binding" || o.Target.Kind != "Node" {
			return nil
		}
		node, labels = o.Target.Name, &o.Labels
	case *corev1.Pod:
		if a.GetSubresource() != "" {
			return nil
		}
		node, labels = o.Spec.NodeName, &o.Labels
	}
	if node == "" {
		return nil
	}
	n, err := t.Node(ctx, node)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot look up node %s: %w", node, err)
	}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		if v, ok := n.Labels[key]; ok {
			addLabels(labels, map[string]string{key: v})
		}
	}
	return nil
}

// resize refuses a change of resources that the Pod's node can never have room
// for (PodResizeValidator admission, KEP-1287).
type resize struct {
	*admission.Handler
	Objects
}

// Validate compares the Pod's requests with what its node has to give.
func (r resize) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "resize" {
		return nil
	}
	p, ok := a.GetObject().(*corev1.Pod)
	old, also := a.GetOldObject().(*corev1.Pod)
	if !ok || !also || p.Spec.NodeName == "" || p.Generation == old.Generation {
		return nil
	}
	node, err := r.Node(ctx, p.Spec.NodeName)
	switch {
	case apierrors.IsNotFound(err):
		return admission.NewForbidden(a, fmt.Errorf("node %q not found", p.Spec.NodeName))
	case err != nil:
		return admission.NewForbidden(a, fmt.Errorf("failed to get node %q: %w", p.Spec.NodeName, err))
	}
	if os, ok := node.Labels[corev1.LabelOSStable]; ok && os != "linux" {
		err := fmt.Errorf("pod resize is only supported on linux nodes, node %q is %q", node.Name, os)
		return because(admission.NewForbidden(a, err), "UnsupportedPlatform")
	}
	requests := resource.PodRequests(p, resource.PodResourcesOptions{})
	cpu, memory, free := requests.Cpu(), requests.Memory(), node.Status.Allocatable
	var missing []string
	if cpu.Cmp(*free.Cpu()) > 0 {
		missing = append(missing, fmt.Sprintf("cpu, requested: %d, allocatable: %d", cpu.MilliValue(), free.Cpu().MilliValue()))
	}
	if memory.Cmp(*free.Memory()) > 0 {
		missing = append(missing, fmt.Sprintf("memory, requested: %d, allocatable: %d", memory.Value(), free.Memory().Value()))
	}
	if len(missing) == 0 {
		return nil
	}
	err = fmt.Errorf("node didn't have enough allocatable resources: %s", strings.Join(missing, "; "))
	return because(admission.NewForbidden(a, err), "NodeCapacity")
}

// because adds a cause that programs can read.
func because(err error, cause metav1.CauseType) error {
	var status *apierrors.StatusError
	if errors.As(err, &status) {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
	}
	return err
}
