// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// TestIngressClass says which class an Ingress gets: the newest default one, and
// of equally old ones the first by name; none beside its own.
func TestIngressClass(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	class := func(name string, age time.Duration, mark string) *networkingv1.IngressClass {
		return &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{
			Name: name, CreationTimestamp: metav1.NewTime(now.Add(-age)), Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: mark},
		}}
	}
	named := func(i *networkingv1.Ingress) { i.Spec.IngressClassName = ptr.To("own") }
	for about, c := range map[string]struct {
		classes []*networkingv1.IngressClass
		change  func(*networkingv1.Ingress)
		want    *string
	}{
		"no class is default":         {classes: []*networkingv1.IngressClass{class("a", 0, "false")}},
		"the newest":                  {classes: []*networkingv1.IngressClass{class("a", time.Hour, "true"), class("c", time.Minute, "true"), class("b", time.Minute, "true"), class("d", 0, "")}, want: ptr.To("b")},
		"it names one":                {classes: []*networkingv1.IngressClass{class("a", 0, "true")}, change: named, want: ptr.To("own")},
		"it names one in the old way": {classes: []*networkingv1.IngressClass{class("a", 0, "true")}, change: func(i *networkingv1.Ingress) { i.Annotations = map[string]string{"kubernetes.io/ingress.class": ""} }},
	} {
		known := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
		for _, one := range c.classes {
			if err := known.Add(one); err != nil {
				t.Fatal(err)
			}
		}
		i := &networkingv1.Ingress{}
		if c.change != nil {
			c.change(i)
		}
		a := admission.NewAttributesRecord(i, nil, networkingv1.SchemeGroupVersion.WithKind("Ingress"), "n", "i", networkingv1.SchemeGroupVersion.WithResource("ingresses"), "", admission.Create, nil, false, nil)
		if err := (ingressClass{on(admission.Create), Objects{IngressClasses: networkinglisters.NewIngressClassLister(known)}}).Admit(t.Context(), a, nil); err != nil {
			t.Fatal(err)
		}
		if got := i.Spec.IngressClassName; ptr.Deref(got, "-") != ptr.Deref(c.want, "-") {
			t.Errorf("%s: it has %q", about, ptr.Deref(got, "-"))
		}
	}
}
