// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"slices"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// eventTTL is how long events are kept, as kube-apiserver's --event-ttl.
const eventTTL = 60 * 60

// resources is the table: every kind that is served, in the order of their
// groups. To add one, add a row; rules of its own go to a file of its name.
func (s *Server) resources() []*row {
	core := corev1.SchemeGroupVersion
	rows := []*row{
		s.podRow(),
		resource[corev1.Node, corev1.NodeList](core, "Node", "nodes", "node", hooks[corev1.Node]{
			Defaults: defaults.Node, Validate: validation.Node, ValidateUpdate: validation.NodeUpdate, ValidateStatus: validation.NodeStatusUpdate, Warn: warn(validation.NodeWarnings), Columns: table.Node(),
			Selectable: func(n *corev1.Node) fields.Set {
				return fields.Set{"spec.unschedulable": boolField(n.Spec.Unschedulable)}
			},
			Prepare:       func(_ context.Context, n, old *corev1.Node) { defaults.PrepareNode(n, old) },
			PrepareStatus: defaults.PrepareNodeStatus,
			Extend:        s.nodeSubresources,
		}, shortNames("no"), clusterScoped, withoutGeneration, bornWithStatus),
		s.namespaceRow(),
		resource[corev1.ConfigMap, corev1.ConfigMapList](core, "ConfigMap", "configmaps", "configmap", hooks[corev1.ConfigMap]{
			Defaults: defaults.ConfigMap, Validate: validation.ConfigMap, ValidateUpdate: validation.ConfigMapUpdate, Columns: table.ConfigMap(),
		}, shortNames("cm")),
		resource[corev1.Secret, corev1.SecretList](core, "Secret", "secrets", "secret", hooks[corev1.Secret]{
			Defaults: defaults.Secret, Validate: validation.Secret, ValidateUpdate: validation.SecretUpdate, Warn: warn(validation.SecretWarnings), Columns: table.Secret(),
			Selectable: func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} },
		}),
		resource[corev1.ServiceAccount, corev1.ServiceAccountList](core, "ServiceAccount", "serviceaccounts", "serviceaccount", hooks[corev1.ServiceAccount]{
			Validate: validation.ServiceAccount, ValidateUpdate: validation.ServiceAccountUpdate, Warn: warn(validation.ServiceAccountWarnings), Columns: table.ServiceAccount(),
			Extend: func(_ *stores, main *registry.Store) map[string]rest.Storage {
				return map[string]rest.Storage{"token": tokenRequest{s, main}}
			},
		}, shortNames("sa"), echoDeleted),
		resource[corev1.Event, corev1.EventList](core, "Event", "events", "event", hooks[corev1.Event]{
			Validate: validation.Event, ValidateUpdate: validation.EventUpdate, Columns: table.Event(), Selectable: eventFields,
		}, shortNames("ev"), upsertable, collected(rest.Unsupported), func(r *row) { r.ttl = eventTTL }, strictEvents),
		s.serviceRow(),
		resource[corev1.Endpoints, corev1.EndpointsList](core, "Endpoints", "endpoints", "endpoints", hooks[corev1.Endpoints]{
			Defaults: defaults.Endpoints, Validate: validation.Endpoints, ValidateUpdate: validation.EndpointsUpdate, Warn: warn(validation.EndpointsWarnings), Columns: table.Endpoints(),
		}, shortNames("ep"), upsertable),
		resource[corev1.ReplicationController, corev1.ReplicationControllerList](core, "ReplicationController", "replicationcontrollers", "replicationcontroller", hooks[corev1.ReplicationController]{
			Defaults: defaults.ReplicationController, Validate: validation.ReplicationController, ValidateUpdate: validation.ReplicationControllerUpdate,
			ValidateStatus: validation.ReplicationControllerStatusUpdate, Warn: warn(validation.ReplicationControllerWarnings), Columns: table.ReplicationController(),
			Selectable: func(r *corev1.ReplicationController) fields.Set {
				return fields.Set{"status.replicas": itoa(r.Status.Replicas)}
			},
			Prepare: func(_ context.Context, r, _ *corev1.ReplicationController) {
				if r.Spec.Template != nil {
					defaults.PreparePodTemplate(r.Spec.Template)
				}
			},
			ScaleGet: func(r *corev1.ReplicationController) (*int32, int32, *metav1.LabelSelector) {
				return r.Spec.Replicas, r.Status.Replicas, &metav1.LabelSelector{MatchLabels: r.Spec.Selector}
			},
			ScaleSet: func(r *corev1.ReplicationController, n int32) { r.Spec.Replicas = &n },
		}, shortNames("rc"), inAll, collected(rest.OrphanDependents)),
		resource[corev1.PodTemplate, corev1.PodTemplateList](core, "PodTemplate", "podtemplates", "podtemplate", hooks[corev1.PodTemplate]{
			Defaults: defaults.PodTemplate, Validate: validation.PodTemplate, ValidateUpdate: validation.PodTemplateUpdate, Warn: warn(validation.PodTemplateWarnings), Columns: table.PodTemplate(),
			Prepare: func(_ context.Context, t, old *corev1.PodTemplate) {
				defaults.PreparePodTemplate(&t.Template)
				t.Generation = templateGeneration(t, old)
			},
		}, echoDeleted),
	}
	return slices.Concat(rows, s.appsRows(), batchRows(), []*row{budgetRow()}, storageRows(), s.certificateRows(), s.clusterRows(), s.admissionRows(), quotaRows(), flowRows(), s.deviceRows(), s.addressRows(), []*row{apiServiceRow()})
}

// clusterRows are the kinds that describe the cluster rather than workloads.
func (s *Server) clusterRows() []*row {
	rbac := rbacv1.SchemeGroupVersion
	rows := []*row{
		resource[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList](discoveryv1.SchemeGroupVersion, "EndpointSlice", "endpointslices", "endpointslice", hooks[discoveryv1.EndpointSlice]{
			Defaults: defaults.EndpointSlice, Validate: validation.EndpointSlice, ValidateUpdate: validation.EndpointSliceUpdate, Warn: warn(validation.EndpointSliceWarnings), Columns: table.EndpointSlice(),
			Prepare: func(_ context.Context, e, old *discoveryv1.EndpointSlice) {
				e.Generation = sliceGeneration(e, old)
				defaults.PrepareEndpointSlice(e, old)
			},
		}),
		resource[networkingv1.Ingress, networkingv1.IngressList](networkingv1.SchemeGroupVersion, "Ingress", "ingresses", "ingress", hooks[networkingv1.Ingress]{
			Validate: validation.Ingress, ValidateUpdate: validation.IngressUpdate, ValidateStatus: validation.IngressStatusUpdate,
			Warn: warn(validation.IngressWarnings), WarnStatus: validation.IngressStatusWarnings, Columns: table.Ingress(),
		}, shortNames("ing")),
		resource[networkingv1.IngressClass, networkingv1.IngressClassList](networkingv1.SchemeGroupVersion, "IngressClass", "ingressclasses", "ingressclass", hooks[networkingv1.IngressClass]{
			Defaults: defaults.IngressClass, Validate: validation.IngressClass, ValidateUpdate: validation.IngressClassUpdate, Columns: table.IngressClass(),
		}, clusterScoped),
		resource[networkingv1.NetworkPolicy, networkingv1.NetworkPolicyList](networkingv1.SchemeGroupVersion, "NetworkPolicy", "networkpolicies", "networkpolicy", hooks[networkingv1.NetworkPolicy]{
			Defaults: defaults.NetworkPolicy, Validate: validation.NetworkPolicy, ValidateUpdate: validation.NetworkPolicyUpdate,
			Warn: warn(validation.NetworkPolicyWarnings), Columns: table.NetworkPolicy(),
		}, shortNames("netpol")),
		resource[coordinationv1.Lease, coordinationv1.LeaseList](coordinationv1.SchemeGroupVersion, "Lease", "leases", "lease", hooks[coordinationv1.Lease]{
			Validate: validation.Lease, ValidateUpdate: validation.LeaseUpdate, Columns: table.Lease(),
			Prepare: func(_ context.Context, l, old *coordinationv1.Lease) { defaults.PrepareLease(l, old) },
		}, upsertable, strictUpdate, withoutGeneration),
		resource[nodev1.RuntimeClass, nodev1.RuntimeClassList](nodev1.SchemeGroupVersion, "RuntimeClass", "runtimeclasses", "runtimeclass", hooks[nodev1.RuntimeClass]{
			Defaults: defaults.RuntimeClass, Validate: validation.RuntimeClass, ValidateUpdate: validation.RuntimeClassUpdate, Warn: warn(validation.RuntimeClassWarnings), Columns: table.RuntimeClass(),
		}, clusterScoped, upsertable, strictUpdate),
		resource[schedulingv1.PriorityClass, schedulingv1.PriorityClassList](schedulingv1.SchemeGroupVersion, "PriorityClass", "priorityclasses", "priorityclass", hooks[schedulingv1.PriorityClass]{
			Defaults: defaults.PriorityClass, Validate: validation.PriorityClass, ValidateUpdate: validation.PriorityClassUpdate, Columns: table.PriorityClass(),
			Prepare: func(_ context.Context, p, old *schedulingv1.PriorityClass) {
				if old == nil {
					p.Generation = 1 // and so it stays
				}
			},
		}, shortNames("pc"), clusterScoped),
		resource[rbacv1.Role, rbacv1.RoleList](rbac, "Role", "roles", "role", hooks[rbacv1.Role]{
			Validate: validation.Role, ValidateUpdate: validation.RoleUpdate, Columns: table.Role(), Wrap: s.guardRoles,
		}, upsertable),
		resource[rbacv1.ClusterRole, rbacv1.ClusterRoleList](rbac, "ClusterRole", "clusterroles", "clusterrole", hooks[rbacv1.ClusterRole]{
			Validate: validation.ClusterRole, ValidateUpdate: validation.ClusterRoleUpdate, Columns: table.ClusterRole(), Wrap: s.guardRoles,
		}, clusterScoped, upsertable),
		resource[rbacv1.RoleBinding, rbacv1.RoleBindingList](rbac, "RoleBinding", "rolebindings", "rolebinding", hooks[rbacv1.RoleBinding]{
			Defaults: defaults.RoleBinding, Validate: validation.RoleBinding, ValidateUpdate: validation.RoleBindingUpdate, Columns: table.RoleBinding(), Wrap: s.guardRoles,
		}, upsertable),
		resource[rbacv1.ClusterRoleBinding, rbacv1.ClusterRoleBindingList](rbac, "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding", hooks[rbacv1.ClusterRoleBinding]{
			Defaults: defaults.ClusterRoleBinding, Validate: validation.ClusterRoleBinding, ValidateUpdate: validation.ClusterRoleBindingUpdate, Columns: table.ClusterRoleBinding(), Wrap: s.guardRoles,
		}, clusterScoped, upsertable),
	}
	return rows
}

// virtualKinds are types that are served but never stored, by group.
func virtualKinds() map[string][]runtime.Object {
	kinds := reviewKinds()
	kinds[autoscalingv1.GroupName] = []runtime.Object{&autoscalingv1.Scale{}}
	kinds[policyv1.GroupName] = []runtime.Object{&policyv1.Eviction{}}
	kinds[corev1.GroupName] = []runtime.Object{&corev1.Binding{}}
	return kinds
}

// warn are warnings that need nothing of the request.
func warn[T any](f func(obj, old *T) []string) func(_ context.Context, obj, old *T) []string {
	return func(_ context.Context, o, old *T) []string { return f(o, old) }
}

func eventFields(e *corev1.Event) fields.Set {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	o := e.InvolvedObject
	return fields.Set{
		"involvedObject.kind": o.Kind, "involvedObject.namespace": o.Namespace, "involvedObject.name": o.Name,
		"involvedObject.uid": string(o.UID), "involvedObject.apiVersion": o.APIVersion, "involvedObject.resourceVersion": o.ResourceVersion,
		"involvedObject.fieldPath": o.FieldPath, "reason": e.Reason, "reportingComponent": e.ReportingController,
		"source": source, "type": e.Type,
	}
}
