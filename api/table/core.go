// SPDX-License-Identifier: Apache-2.0

package table

import (
	"fmt"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Node are the columns of nodes.
func Node() Columns[corev1.Node] {
	info, doc := corev1.NodeSystemInfo{}.SwaggerDoc(), corev1.NodeStatus{}.SwaggerDoc()
	return Columns[corev1.Node]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Status", "The status of the node"), text("Roles", "The roles of the node"), ageColumn(),
			text("Version", info["kubeletVersion"]),
			wide(text("Internal-IP", doc["addresses"])), wide(text("External-IP", doc["addresses"])),
			wide(text("OS-Image", info["osImage"])), wide(text("Kernel-Version", info["kernelVersion"])),
			wide(text("Container-Runtime", info["containerRuntimeVersion"])),
		},
		Cells: func(n *corev1.Node, now time.Time) []any {
			i := n.Status.NodeInfo
			return []any{
				n.Name, nodeStatus(n), joinOrNone(nodeRoles(n)), age(n.CreationTimestamp, now), i.KubeletVersion,
				orNone(nodeAddress(n, corev1.NodeInternalIP)), orNone(nodeAddress(n, corev1.NodeExternalIP)),
				orUnknown(i.OSImage), kernel(i), orUnknown(i.ContainerRuntimeVersion),
			}
		},
	}
}

func nodeStatus(n *corev1.Node) string {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		status = "Ready"
		if c.Status != corev1.ConditionTrue {
			status = "NotReady"
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRoles(n *corev1.Node) []string {
	seen := map[string]bool{}
	for k, v := range n.Labels {
		if role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok && role != "" {
			seen[role] = true
		} else if k == "kubernetes.io/role" && v != "" {
			seen[v] = true
		}
	}
	var out []string
	for role := range seen {
		out = append(out, role)
	}
	sort.Strings(out)
	return out
}

func nodeAddress(n *corev1.Node, t corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == t {
			return a.Address
		}
	}
	return ""
}

// kernel is the kernel's version with the machine it is for.
func kernel(i corev1.NodeSystemInfo) string {
	if i.Architecture == "" {
		return orUnknown(i.KernelVersion)
	}
	return orUnknown(i.KernelVersion) + " (" + i.Architecture + ")"
}

func orUnknown(s string) string {
	if s == "" {
		return unknown
	}
	return s
}

// Namespace are the columns of namespaces.
func Namespace() Columns[corev1.Namespace] {
	return Columns[corev1.Namespace]{
		Definitions: []metav1.TableColumnDefinition{name(), text("Status", "The status of the namespace"), ageColumn()},
		Cells: func(n *corev1.Namespace, now time.Time) []any {
			return []any{n.Name, string(n.Status.Phase), age(n.CreationTimestamp, now)}
		},
	}
}

// ConfigMap are the columns of configmaps.
func ConfigMap() Columns[corev1.ConfigMap] {
	return Columns[corev1.ConfigMap]{
		Definitions: []metav1.TableColumnDefinition{name(), text("Data", corev1.ConfigMap{}.SwaggerDoc()["data"]), ageColumn()},
		Cells: func(c *corev1.ConfigMap, now time.Time) []any {
			return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), age(c.CreationTimestamp, now)}
		},
	}
}

// Secret are the columns of secrets.
func Secret() Columns[corev1.Secret] {
	doc := corev1.Secret{}.SwaggerDoc()
	return Columns[corev1.Secret]{
		Definitions: []metav1.TableColumnDefinition{name(), text("Type", doc["type"]), text("Data", doc["data"]), ageColumn()},
		Cells: func(s *corev1.Secret, now time.Time) []any {
			return []any{s.Name, string(s.Type), int64(len(s.Data)), age(s.CreationTimestamp, now)}
		},
	}
}

// ServiceAccount are the columns of serviceaccounts.
func ServiceAccount() Columns[corev1.ServiceAccount] {
	return Columns[corev1.ServiceAccount]{
		Definitions: []metav1.TableColumnDefinition{name(), ageColumn()},
		Cells: func(s *corev1.ServiceAccount, now time.Time) []any {
			return []any{s.Name, age(s.CreationTimestamp, now)}
		},
	}
}

// Service are the columns of services.
func Service() Columns[corev1.Service] {
	doc := corev1.ServiceSpec{}.SwaggerDoc()
	return Columns[corev1.Service]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Type", doc["type"]), text("Cluster-IP", doc["clusterIP"]), text("External-IP", doc["externalIPs"]),
			text("Port(s)", doc["ports"]), ageColumn(), wide(text("Selector", doc["selector"])),
		},
		Cells: func(s *corev1.Service, now time.Time) []any {
			ip := none
			if len(s.Spec.ClusterIPs) > 0 {
				ip = s.Spec.ClusterIPs[0]
			}
			return []any{
				s.Name, string(s.Spec.Type), ip, externalIP(s), servicePorts(s.Spec.Ports), age(s.CreationTimestamp, now),
				equalitySelector(s.Spec.Selector),
			}
		},
	}
}

func externalIP(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeLoadBalancer:
		var ips []string
		for _, i := range s.Status.LoadBalancer.Ingress {
			if i.IP != "" {
				ips = append(ips, i.IP)
			} else if i.Hostname != "" {
				ips = append(ips, i.Hostname)
			}
		}
		ips = append(ips, s.Spec.ExternalIPs...)
		if len(ips) == 0 {
			return "<pending>"
		}
		return strings.Join(ips, ",")
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	}
	return joinOrNone(s.Spec.ExternalIPs)
}

func servicePorts(ports []corev1.ServicePort) string {
	var out []string
	for _, p := range ports {
		cell := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			cell = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
		out = append(out, cell)
	}
	return joinOrNone(out)
}

// Endpoints are the columns of endpoints.
func Endpoints() Columns[corev1.Endpoints] {
	return Columns[corev1.Endpoints]{
		Definitions: []metav1.TableColumnDefinition{name(), text("Endpoints", corev1.Endpoints{}.SwaggerDoc()["subsets"]), ageColumn()},
		Cells: func(e *corev1.Endpoints, now time.Time) []any {
			return []any{e.Name, endpointList(e), age(e.CreationTimestamp, now)}
		},
	}
}

// endpointList shows the first three addresses and how many more there are.
func endpointList(e *corev1.Endpoints) string {
	const most = 3
	var all []string
	if len(e.Subsets) == 0 {
		return none
	}
	for _, s := range e.Subsets {
		for _, a := range s.Addresses {
			if len(s.Ports) == 0 {
				all = append(all, a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				all = append(all, fmt.Sprintf("%s:%d", bracket(a.IP), p.Port))
			}
		}
	}
	if len(all) > most {
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:most], ","), len(all)-most)
	}
	return strings.Join(all, ",")
}

func bracket(ip string) string {
	if strings.Contains(ip, ":") {
		return "[" + ip + "]"
	}
	return ip
}

// Event are the columns of events.
func Event() Columns[corev1.Event] {
	doc := corev1.Event{}.SwaggerDoc()
	return Columns[corev1.Event]{
		Definitions: []metav1.TableColumnDefinition{
			text("Last Seen", doc["lastTimestamp"]), text("Type", doc["type"]), text("Reason", doc["reason"]), text("Object", doc["involvedObject"]),
			wide(text("Subobject", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"])), wide(text("Source", doc["source"])),
			text("Message", doc["message"]), wide(text("First Seen", doc["firstTimestamp"])), wide(text("Count", doc["count"])),
			wide(name()),
		},
		Cells: eventCells,
	}
}

func eventCells(e *corev1.Event, now time.Time) []any {
	first, last := age(e.FirstTimestamp, now), age(e.LastTimestamp, now)
	if e.FirstTimestamp.IsZero() {
		first = age(metav1.NewTime(e.EventTime.Time), now)
	}
	count := e.Count
	if e.Series != nil {
		last, count = age(metav1.NewTime(e.Series.LastObservedTime.Time), now), e.Series.Count
	} else if count == 0 {
		count = 1 // events.k8s.io: a singleton has no series
	}
	if e.Series == nil && e.LastTimestamp.IsZero() {
		last = first
	}
	target := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		target += "/" + e.InvolvedObject.Name
	}
	component, host := e.Source.Component, e.Source.Host
	if component == "" {
		component = e.ReportingController
	}
	if host == "" {
		host = e.ReportingInstance
	}
	source := component
	if host != "" {
		source = strings.TrimPrefix(component+", "+host, ", ")
	}
	return []any{last, e.Type, e.Reason, target, e.InvolvedObject.FieldPath, source, strings.TrimSpace(e.Message), first, int64(count), e.Name}
}
