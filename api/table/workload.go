// SPDX-License-Identifier: Apache-2.0

package table

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	rbacv1beta1 "k8s.io/api/rbac/v1beta1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func templateColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		wide(text("Containers", "Names of each container in the template.")),
		wide(text("Images", "Images referenced by each container in the template.")),
	}
}

func templateCells(s corev1.PodSpec) (names, images string) {
	var n, i []string
	for _, c := range s.Containers {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

// ReplicaSet are the columns of replicasets.
func ReplicaSet() Columns[appsv1.ReplicaSet] {
	spec, status := appsv1.ReplicaSetSpec{}.SwaggerDoc(), appsv1.ReplicaSetStatus{}.SwaggerDoc()
	defs := []metav1.TableColumnDefinition{name(), number("Desired", spec["replicas"]), number("Current", status["replicas"]), number("Ready", status["readyReplicas"]), ageColumn()}
	return Columns[appsv1.ReplicaSet]{
		Definitions: append(append(defs, templateColumns()...), wide(text("Selector", spec["selector"]))),
		Cells: func(r *appsv1.ReplicaSet, now time.Time) []any {
			names, images := templateCells(r.Spec.Template.Spec)
			return []any{r.Name, int64(or(r.Spec.Replicas, 0)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas), age(r.CreationTimestamp, now), names, images, selector(r.Spec.Selector)}
		},
	}
}

// ReplicationController are the columns of replicationcontrollers.
func ReplicationController() Columns[corev1.ReplicationController] {
	spec, status := corev1.ReplicationControllerSpec{}.SwaggerDoc(), corev1.ReplicationControllerStatus{}.SwaggerDoc()
	defs := []metav1.TableColumnDefinition{name(), number("Desired", spec["replicas"]), number("Current", status["replicas"]), number("Ready", status["readyReplicas"]), ageColumn()}
	return Columns[corev1.ReplicationController]{
		Definitions: append(append(defs, templateColumns()...), wide(text("Selector", spec["selector"]))),
		Cells: func(r *corev1.ReplicationController, now time.Time) []any {
			names, images := "", ""
			if r.Spec.Template != nil {
				names, images = templateCells(r.Spec.Template.Spec)
			}
			return []any{r.Name, int64(or(r.Spec.Replicas, 0)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas), age(r.CreationTimestamp, now), names, images, equalitySelector(r.Spec.Selector)}
		},
	}
}

func or[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

// PodTemplate are the columns of podtemplates.
func PodTemplate() Columns[corev1.PodTemplate] {
	return Columns[corev1.PodTemplate]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Containers", "Names of each container in the template."),
			text("Images", "Images referenced by each container in the template."), text("Pod Labels", "The labels for the pod template."),
		},
		Cells: func(p *corev1.PodTemplate, _ time.Time) []any {
			names, images := templateCells(p.Template.Spec)
			return []any{p.Name, names, images, labelList(p.Template.Labels)}
		},
	}
}

func labelList(m map[string]string) string {
	var out []string
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	sort.Strings(out)
	return joinOrNone(out)
}

// EndpointSlice are the columns of endpointslices.
func EndpointSlice() Columns[discoveryv1.EndpointSlice] {
	doc := discoveryv1.EndpointSlice{}.SwaggerDoc()
	return Columns[discoveryv1.EndpointSlice]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("AddressType", doc["addressType"]), text("Ports", doc["ports"]), text("Endpoints", doc["endpoints"]), ageColumn(),
		},
		Cells: func(s *discoveryv1.EndpointSlice, now time.Time) []any {
			return []any{s.Name, string(s.AddressType), slicePorts(s.Ports), sliceEndpoints(s.Endpoints), age(s.CreationTimestamp, now)}
		},
	}
}

func slicePorts(ports []discoveryv1.EndpointPort) string {
	if len(ports) == 0 {
		return unset
	}
	var list []string
	for _, p := range ports {
		cell := "*"
		if p.Port != nil {
			cell = strconv.Itoa(int(*p.Port))
		} else if p.Name != nil && *p.Name != "" {
			cell = *p.Name
		}
		list = append(list, cell)
	}
	return firstThree(list)
}

func sliceEndpoints(endpoints []discoveryv1.Endpoint) string {
	if len(endpoints) == 0 {
		return unset
	}
	var list []string
	for _, e := range endpoints {
		list = append(list, e.Addresses...)
	}
	return firstThree(list)
}

func firstThree(list []string) string {
	if len(list) > 3 {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:3], ","), len(list)-3)
	}
	return strings.Join(list, ",")
}

// Lease are the columns of leases.
func Lease() Columns[coordinationv1.Lease] {
	return Columns[coordinationv1.Lease]{
		Definitions: []metav1.TableColumnDefinition{name(), text("Holder", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]), ageColumn()},
		Cells: func(l *coordinationv1.Lease, now time.Time) []any {
			return []any{l.Name, or(l.Spec.HolderIdentity, ""), age(l.CreationTimestamp, now)}
		},
	}
}

// PriorityClass are the columns of priorityclasses.
func PriorityClass() Columns[schedulingv1.PriorityClass] {
	doc := schedulingv1.PriorityClass{}.SwaggerDoc()
	return Columns[schedulingv1.PriorityClass]{
		Definitions: []metav1.TableColumnDefinition{
			name(), number("Value", doc["value"]), {Name: "Global-Default", Type: "boolean", Description: doc["globalDefault"]},
			ageColumn(), text("PreemptionPolicy", doc["preemptionPolicy"]),
		},
		Cells: func(p *schedulingv1.PriorityClass, now time.Time) []any {
			return []any{p.Name, int64(p.Value), p.GlobalDefault, age(p.CreationTimestamp, now), string(or(p.PreemptionPolicy, ""))}
		},
	}
}

// RuntimeClass are the columns of runtimeclasses.
func RuntimeClass() Columns[nodev1.RuntimeClass] {
	return Columns[nodev1.RuntimeClass]{
		Definitions: []metav1.TableColumnDefinition{name(), text("Handler", ""), ageColumn()},
		Cells: func(r *nodev1.RuntimeClass, now time.Time) []any {
			return []any{r.Name, r.Handler, age(r.CreationTimestamp, now)}
		},
	}
}

func createdAt() metav1.TableColumnDefinition {
	c := text("Created At", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"])
	c.Type = "date"
	return c
}

func created(t metav1.Time) string { return t.UTC().Format(time.RFC3339) }

// Role are the columns of roles.
func Role() Columns[rbacv1.Role] {
	return Columns[rbacv1.Role]{
		Definitions: []metav1.TableColumnDefinition{name(), createdAt()},
		Cells:       func(r *rbacv1.Role, _ time.Time) []any { return []any{r.Name, created(r.CreationTimestamp)} },
	}
}

// ClusterRole are the columns of clusterroles.
func ClusterRole() Columns[rbacv1.ClusterRole] {
	return Columns[rbacv1.ClusterRole]{
		Definitions: []metav1.TableColumnDefinition{name(), createdAt()},
		Cells:       func(r *rbacv1.ClusterRole, _ time.Time) []any { return []any{r.Name, created(r.CreationTimestamp)} },
	}
}

// bindingColumns: the words are those of the older version, as in Kubernetes.
func bindingColumns(kind string, doc map[string]string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		name(), text("Role", doc["roleRef"]), ageColumn(), wide(text("Users", "Users in the "+kind)),
		wide(text("Groups", "Groups in the "+kind)), wide(text("ServiceAccounts", "ServiceAccounts in the "+kind)),
	}
}

func bindingCells(m metav1.ObjectMeta, ref rbacv1.RoleRef, subjects []rbacv1.Subject, now time.Time) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []any{m.Name, ref.Kind + "/" + ref.Name, age(m.CreationTimestamp, now), strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", ")}
}

// RoleBinding are the columns of rolebindings.
func RoleBinding() Columns[rbacv1.RoleBinding] {
	return Columns[rbacv1.RoleBinding]{
		Definitions: bindingColumns("roleBinding", rbacv1beta1.RoleBinding{}.SwaggerDoc()),
		Cells: func(b *rbacv1.RoleBinding, now time.Time) []any {
			return bindingCells(b.ObjectMeta, b.RoleRef, b.Subjects, now)
		},
	}
}

// ClusterRoleBinding are the columns of clusterrolebindings.
func ClusterRoleBinding() Columns[rbacv1.ClusterRoleBinding] {
	return Columns[rbacv1.ClusterRoleBinding]{
		Definitions: bindingColumns("clusterRoleBinding", rbacv1beta1.ClusterRoleBinding{}.SwaggerDoc()),
		Cells: func(b *rbacv1.ClusterRoleBinding, now time.Time) []any {
			return bindingCells(b.ObjectMeta, b.RoleRef, b.Subjects, now)
		},
	}
}
