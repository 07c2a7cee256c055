// SPDX-License-Identifier: Apache-2.0

package table

import (
	"fmt"
	"slices"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Ingress are the columns of Ingresses.
func Ingress() Columns[networkingv1.Ingress] {
	return Columns[networkingv1.Ingress]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Class", "The name of the IngressClass resource that should be used for additional configuration"),
			text("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
			text("Address", "Address is a list containing ingress points for the load-balancer"),
			text("Ports", "Ports of TLS configurations that open"), ageColumn(),
		},
		Cells: func(i *networkingv1.Ingress, now time.Time) []any {
			ports := "80"
			if len(i.Spec.TLS) > 0 {
				ports = "80, 443"
			}
			return []any{i.Name, or(i.Spec.IngressClassName, none), ingressHosts(i.Spec.Rules), ingressAddress(i), ports, age(i.CreationTimestamp, now)}
		},
	}
}

// ingressHosts shows three hosts at most.
func ingressHosts(rules []networkingv1.IngressRule) string {
	const most = 3
	var hosts []string
	more := false
	for _, r := range rules {
		more = more || len(hosts) == most
		if !more && r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	switch {
	case len(hosts) == 0:
		return "*"
	case more:
		return fmt.Sprintf("%s + %d more...", strings.Join(hosts, ","), len(rules)-most)
	}
	return strings.Join(hosts, ",")
}

// ingressAddress is where the Ingress is reached, each place once.
func ingressAddress(i *networkingv1.Ingress) string {
	var out []string
	for _, in := range i.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			out = append(out, in.IP)
		} else if in.Hostname != "" {
			out = append(out, in.Hostname)
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ",")
}

// IngressClass are the columns of classes of Ingresses.
func IngressClass() Columns[networkingv1.IngressClass] {
	return Columns[networkingv1.IngressClass]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Controller", "Controller that is responsible for handling this class"),
			text("Parameters", "A reference to a resource with additional parameters"), ageColumn(),
		},
		Cells: func(c *networkingv1.IngressClass, now time.Time) []any {
			shown, parameters := c.Name, none
			if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
				shown += " (default)"
			}
			if p := c.Spec.Parameters; p != nil {
				parameters = p.Kind
				if p.APIGroup != nil {
					parameters += "." + *p.APIGroup
				}
				parameters += "/" + p.Name
			}
			return []any{shown, c.Spec.Controller, parameters, age(c.CreationTimestamp, now)}
		},
	}
}

// NetworkPolicy are the columns of policies.
func NetworkPolicy() Columns[networkingv1.NetworkPolicy] {
	return Columns[networkingv1.NetworkPolicy]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Pod-Selector", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]), ageColumn(),
		},
		Cells: func(n *networkingv1.NetworkPolicy, now time.Time) []any {
			return []any{n.Name, selector(&n.Spec.PodSelector), age(n.CreationTimestamp, now)}
		},
	}
}
