// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
)

// ingressClass gives an Ingress that names no class the default one
// (DefaultIngressClass).
type ingressClass struct {
	*admission.Handler
	Objects
}

// Admit takes the newest of the classes that are marked as default.
func (c ingressClass) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	i, ok := a.GetObject().(*networkingv1.Ingress)
	if !ok || a.GetSubresource() != "" || i.Spec.IngressClassName != nil {
		return nil
	}
	if _, named := i.Annotations["kubernetes.io/ingress.class"]; named {
		return nil
	}
	all, err := c.IngressClasses.List(labels.Everything())
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("cannot find the default class: %w", err))
	}
	all = slices.DeleteFunc(all, func(c *networkingv1.IngressClass) bool {
		return c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true"
	})
	if len(all) > 0 {
		i.Spec.IngressClassName = &slices.MinFunc(all, func(a, b *networkingv1.IngressClass) int {
			return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		}).Name
	}
	return nil
}
