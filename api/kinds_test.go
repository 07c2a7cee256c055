// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/allocation"
	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// kind is one kind of the API with its functions untyped.
type kind struct {
	fresh    func() any
	parts    []string
	defaults func(any)
	columns  []metav1.TableColumnDefinition
	decode   func(*testing.T, map[string]any) any
	row      func(any) metav1.TableRow
	create   func(any) (errs, warnings []string)
	update   func(t *testing.T, sub string, obj, old any) (errs, warnings []string)
	begin    func(obj, old any) error // before all else; only of Services
	show     func(any)                // to readers; only of Services
}

// given is the refusal to give an object what it needs, or nothing.
func (k kind) given(sub string, obj, old any) string {
	if k.begin == nil || sub != "" {
		return ""
	}
	if err := k.begin(obj, old); err != nil {
		return err.Error()
	}
	return ""
}

// rules are the typed functions of a kind. All but the columns may be nil.
type rules[T any] struct {
	cluster    bool // not namespaced
	bornStatus bool // may bring its status
	defaults   func(*T)
	prepare    func(p, old *T) // beside the reset of the status
	check      func(*T) field.ErrorList
	change     func(p, old *T) field.ErrorList
	warn       func(p, old *T) []string
	parts      map[string]part[T]
	columns    table.Columns[T]
}

type part[T any] struct {
	prepare func(p, old *T)
	check   func(p, old *T) field.ErrorList
	warn    func(p, old *T) []string
}

func of[T any](r rules[T]) kind {
	return kind{
		fresh:    func() any { return new(T) },
		parts:    slices.Sorted(maps.Keys(r.parts)),
		defaults: func(o any) { r.applyDefaults(o.(*T)) },
		columns:  r.columns.Definitions,
		decode: func(t *testing.T, m map[string]any) any {
			t.Helper()
			obj := new(T)
			if err := json.Unmarshal(absolute(t, m), obj); err != nil {
				t.Fatal(err)
			}
			r.applyDefaults(obj)
			return obj
		},
		row: func(o any) metav1.TableRow {
			row := metav1.TableRow{Cells: r.columns.Cells(o.(*T), now)}
			if r.columns.Conditions != nil {
				row.Conditions = r.columns.Conditions(o.(*T))
			}
			return row
		},
		create: func(o any) ([]string, []string) {
			if f := reflect.ValueOf(o).Elem().FieldByName("Status"); f.IsValid() && !r.bornStatus {
				f.SetZero()
			}
			if r.prepare != nil {
				r.prepare(o.(*T), nil)
			}
			errs := r.check(o.(*T))
			if len(errs) == 0 {
				errs = r.common(o, nil)
			}
			if len(errs) > 0 {
				return texts(errs), nil
			}
			return nil, r.warnings(r.warn, o.(*T), nil)
		},
		update: func(t *testing.T, sub string, o, old any) ([]string, []string) {
			p, was := o.(*T), old.(*T)
			half := part[T]{r.prepare, r.change, r.warn}
			if sub != "" {
				var ok bool
				if half, ok = r.parts[sub]; !ok {
					t.Fatalf("no subresource %q", sub)
				}
			}
			o.(metav1.Object).SetGeneration(old.(metav1.Object).GetGeneration())
			keepOtherHalf(sub, o, old)
			if half.prepare != nil {
				half.prepare(p, was)
			}
			if errs := append(r.common(o, old), half.check(p, was)...); len(errs) > 0 {
				return texts(errs), nil
			}
			return nil, r.warnings(half.warn, p, was)
		},
	}
}

// keepOtherHalf does what the strategies do for every kind: an update changes
// the status or all else.
func keepOtherHalf(sub string, o, old any) {
	kept := map[string]string{"": "Status", "status": "Spec"}[sub]
	if f := reflect.ValueOf(o).Elem().FieldByName(kept); f.IsValid() {
		f.Set(reflect.ValueOf(old).Elem().FieldByName(kept))
	}
}

// common is what the API library itself checks of every kind: after the kind's
// own rules for a new object, before them for a change.
func (r rules[T]) common(o, old any) field.ErrorList {
	at := field.NewPath("metadata")
	errs := apivalidation.ValidateObjectMetaAccessor(o.(metav1.Object), !r.cluster, func(name string, prefix bool) []string {
		if prefix {
			return content.IsPathSegmentPrefix(name)
		}
		return content.IsPathSegmentName(name)
	}, at)
	if old != nil {
		errs = append(errs, apivalidation.ValidateObjectMetaAccessorUpdate(o.(metav1.Object), old.(metav1.Object), at)...)
	}
	return errs
}

func (r rules[T]) applyDefaults(o *T) {
	if r.defaults != nil {
		r.defaults(o)
	}
}

func (r rules[T]) warnings(f func(p, old *T) []string, p, old *T) []string {
	if f == nil {
		return nil
	}
	return f(p, old)
}

// texts shows each error once, as the API library does.
func texts(errs field.ErrorList) (out []string) {
	for _, e := range errs.Filter(func(error) bool { return false }) {
		out = append(out, e.Error())
	}
	return out
}

func kinds() map[string]kind {
	out := map[string]kind{
		"Pod": of(rules[corev1.Pod]{
			defaults: defaults.Pod, prepare: func(p, old *corev1.Pod) { defaults.PreparePod(p, old) }, check: validation.Pod, change: validation.PodUpdate, warn: validation.PodWarnings, columns: table.Pod(),
			parts: map[string]part[corev1.Pod]{
				"status":              {prepare: defaults.PreparePodStatus, check: validation.PodStatusUpdate, warn: validation.PodStatusWarnings},
				"resize":              {prepare: defaults.PreparePodResize, check: validation.PodResize},
				"ephemeralcontainers": {prepare: defaults.PreparePodEphemeralContainers, check: validation.PodEphemeralContainersUpdate},
			},
		}),
		"Node": of(rules[corev1.Node]{cluster: true, bornStatus: true, defaults: defaults.Node, prepare: defaults.PrepareNode, check: validation.Node, change: validation.NodeUpdate, warn: validation.NodeWarnings, columns: table.Node(),
			parts: map[string]part[corev1.Node]{"status": {prepare: defaults.PrepareNodeStatus, check: validation.NodeStatusUpdate}}}),
		"Namespace": of(rules[corev1.Namespace]{cluster: true, defaults: defaults.Namespace, prepare: defaults.PrepareNamespace, check: validation.Namespace, change: validation.NamespaceUpdate, columns: table.Namespace(),
			parts: map[string]part[corev1.Namespace]{"status": {check: validation.NamespaceStatusUpdate}, "finalize": {check: validation.NamespaceFinalizeUpdate}}}),
		"ConfigMap":             of(rules[corev1.ConfigMap]{defaults: defaults.ConfigMap, check: validation.ConfigMap, change: validation.ConfigMapUpdate, columns: table.ConfigMap()}),
		"Secret":                of(rules[corev1.Secret]{defaults: defaults.Secret, check: validation.Secret, change: validation.SecretUpdate, warn: validation.SecretWarnings, columns: table.Secret()}),
		"ServiceAccount":        of(rules[corev1.ServiceAccount]{check: validation.ServiceAccount, change: validation.ServiceAccountUpdate, warn: validation.ServiceAccountWarnings, columns: table.ServiceAccount()}),
		"Event":                 of(rules[corev1.Event]{check: validation.Event, change: validation.EventUpdate, columns: table.Event()}),
		"Eventevents.k8s.io/v1": of(rules[corev1.Event]{check: validation.EventV1, change: validation.EventV1Update, columns: table.Event()}),
		"Service":               services(),
		"Endpoints":             of(rules[corev1.Endpoints]{defaults: defaults.Endpoints, check: validation.Endpoints, change: validation.EndpointsUpdate, warn: validation.EndpointsWarnings, columns: table.Endpoints()}),
	}
	for _, more := range []map[string]kind{otherKinds(), storageKinds(), boundKinds(), certificateKinds(), admissionKinds(), serverKinds(), deviceKinds()} {
		maps.Copy(out, more)
	}
	return out
}

func boundKinds() map[string]kind {
	return map[string]kind{
		"LimitRange": of(rules[corev1.LimitRange]{defaults: defaults.LimitRange, check: validation.LimitRange, change: validation.LimitRangeUpdate, columns: table.LimitRange()}),
		"ResourceQuota": of(rules[corev1.ResourceQuota]{defaults: defaults.ResourceQuota, check: validation.ResourceQuota, change: validation.ResourceQuotaUpdate, columns: table.ResourceQuota(),
			parts: map[string]part[corev1.ResourceQuota]{"status": {check: validation.ResourceQuotaStatusUpdate}}}),
	}
}

func admissionKinds() map[string]kind {
	return map[string]kind{
		"ValidatingWebhookConfiguration": of(rules[admissionv1.ValidatingWebhookConfiguration]{cluster: true, defaults: defaults.ValidatingWebhookConfiguration, check: validation.ValidatingWebhookConfiguration, change: validation.ValidatingWebhookConfigurationUpdate, warn: validation.ValidatingWebhookWarnings, columns: table.ValidatingWebhookConfiguration()}),
		"MutatingWebhookConfiguration":   of(rules[admissionv1.MutatingWebhookConfiguration]{cluster: true, defaults: defaults.MutatingWebhookConfiguration, check: validation.MutatingWebhookConfiguration, change: validation.MutatingWebhookConfigurationUpdate, warn: validation.MutatingWebhookWarnings, columns: table.MutatingWebhookConfiguration()}),
		"ValidatingAdmissionPolicy": of(rules[admissionv1.ValidatingAdmissionPolicy]{cluster: true, defaults: defaults.ValidatingAdmissionPolicy, check: validation.ValidatingAdmissionPolicy, change: validation.ValidatingAdmissionPolicyUpdate, columns: table.ValidatingAdmissionPolicy(),
			parts: map[string]part[admissionv1.ValidatingAdmissionPolicy]{"status": {check: validation.ValidatingAdmissionPolicyStatusUpdate}}}),
		"ValidatingAdmissionPolicyBinding": of(rules[admissionv1.ValidatingAdmissionPolicyBinding]{cluster: true, defaults: defaults.ValidatingAdmissionPolicyBinding, check: validation.ValidatingAdmissionPolicyBinding, change: validation.ValidatingAdmissionPolicyBindingUpdate, columns: table.ValidatingAdmissionPolicyBinding()}),
		"MutatingAdmissionPolicy":          of(rules[admissionv1.MutatingAdmissionPolicy]{cluster: true, defaults: defaults.MutatingAdmissionPolicy, check: validation.MutatingAdmissionPolicy, change: validation.MutatingAdmissionPolicyUpdate, columns: table.MutatingAdmissionPolicy()}),
		"MutatingAdmissionPolicyBinding":   of(rules[admissionv1.MutatingAdmissionPolicyBinding]{cluster: true, defaults: defaults.MutatingAdmissionPolicyBinding, check: validation.MutatingAdmissionPolicyBinding, change: validation.MutatingAdmissionPolicyBindingUpdate, columns: table.MutatingAdmissionPolicyBinding()}),
	}
}

// services are given what they need in a dry run, while another Service holds
// the node port 32000.
func services() kind {
	k := of(rules[corev1.Service]{defaults: defaults.Service, prepare: defaults.PrepareService, check: validation.Service, change: validation.ServiceUpdate, warn: validation.ServiceWarnings, columns: table.Service(),
		parts: map[string]part[corev1.Service]{"status": {check: validation.ServiceStatusUpdate, warn: validation.ServiceStatusWarnings}}})
	other := corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{NodePort: 32000}}}}
	k.begin = func(o, old any) error {
		b := allocation.NewBook([]netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, []corev1.Service{other}, true, nil)
		if old == nil {
			return allocation.Create(o.(*corev1.Service), b)
		}
		return allocation.Update(o.(*corev1.Service), old.(*corev1.Service), b)
	}
	k.show = func(o any) { allocation.Complete(o.(*corev1.Service), corev1.IPv4Protocol) }
	return k
}

func otherKinds() map[string]kind {
	return map[string]kind{
		"ReplicationController": of(rules[corev1.ReplicationController]{
			defaults: defaults.ReplicationController, check: validation.ReplicationController, change: validation.ReplicationControllerUpdate, warn: validation.ReplicationControllerWarnings, columns: table.ReplicationController(),
			parts: map[string]part[corev1.ReplicationController]{"status": {check: validation.ReplicationControllerStatusUpdate}},
		}),
		"PodTemplate": of(rules[corev1.PodTemplate]{defaults: defaults.PodTemplate, check: validation.PodTemplate, change: validation.PodTemplateUpdate, prepare: func(p, _ *corev1.PodTemplate) { defaults.PreparePodTemplate(&p.Template) }, warn: validation.PodTemplateWarnings, columns: table.PodTemplate()}),
		"Deployment": of(rules[appsv1.Deployment]{
			defaults: defaults.Deployment, check: validation.Deployment, change: validation.DeploymentUpdate, prepare: defaults.PrepareDeployment, warn: validation.DeploymentWarnings, columns: table.Deployment(),
			parts: map[string]part[appsv1.Deployment]{"status": {prepare: defaults.PrepareDeploymentStatus, check: validation.DeploymentStatusUpdate}},
		}),
		"StatefulSet": of(rules[appsv1.StatefulSet]{
			defaults: defaults.StatefulSet, check: validation.StatefulSet, change: validation.StatefulSetUpdate, prepare: func(s, _ *appsv1.StatefulSet) { defaults.PreparePodTemplate(&s.Spec.Template) }, warn: validation.StatefulSetWarnings, columns: table.StatefulSet(),
			parts: map[string]part[appsv1.StatefulSet]{"status": {check: validation.StatefulSetStatusUpdate}},
		}),
		"DaemonSet": of(rules[appsv1.DaemonSet]{
			defaults: defaults.DaemonSet, check: validation.DaemonSet, change: validation.DaemonSetUpdate, prepare: defaults.PrepareDaemonSet, warn: validation.DaemonSetWarnings, columns: table.DaemonSet(),
			parts: map[string]part[appsv1.DaemonSet]{"status": {prepare: defaults.PrepareDaemonSetStatus, check: validation.DaemonSetStatusUpdate}},
		}),
		"ControllerRevision": of(rules[appsv1.ControllerRevision]{check: validation.ControllerRevision, change: validation.ControllerRevisionUpdate, columns: table.ControllerRevision()}),
		"ReplicaSet": of(rules[appsv1.ReplicaSet]{
			defaults: defaults.ReplicaSet, check: validation.ReplicaSet, change: validation.ReplicaSetUpdate, prepare: func(r, _ *appsv1.ReplicaSet) { defaults.PreparePodTemplate(&r.Spec.Template) }, warn: validation.ReplicaSetWarnings, columns: table.ReplicaSet(),
			parts: map[string]part[appsv1.ReplicaSet]{"status": {check: validation.ReplicaSetStatusUpdate}},
		}),
		"Job": of(rules[batchv1.Job]{
			defaults: defaults.Job, prepare: defaults.PrepareJob, check: validation.Job, change: validation.JobUpdate, warn: validation.JobWarnings, columns: table.Job(),
			parts: map[string]part[batchv1.Job]{"status": {check: validation.JobStatusUpdate}},
		}),
		"PodDisruptionBudget": of(rules[policyv1.PodDisruptionBudget]{
			prepare: defaults.PreparePodDisruptionBudget, check: validation.PodDisruptionBudget, change: validation.PodDisruptionBudgetUpdate, columns: table.PodDisruptionBudget(),
			parts: map[string]part[policyv1.PodDisruptionBudget]{"status": {check: validation.PodDisruptionBudgetStatusUpdate}},
		}),
		"CronJob": of(rules[batchv1.CronJob]{
			defaults: defaults.CronJob, prepare: defaults.PrepareCronJob, check: validation.CronJob, change: validation.CronJobUpdate, warn: validation.CronJobWarnings, columns: table.CronJob(),
			parts: map[string]part[batchv1.CronJob]{"status": {check: validation.CronJobStatusUpdate}},
		}),
		"Lease":         of(rules[coordinationv1.Lease]{prepare: defaults.PrepareLease, check: validation.Lease, change: validation.LeaseUpdate, columns: table.Lease()}),
		"EndpointSlice": of(rules[discoveryv1.EndpointSlice]{defaults: defaults.EndpointSlice, prepare: defaults.PrepareEndpointSlice, check: validation.EndpointSlice, change: validation.EndpointSliceUpdate, warn: validation.EndpointSliceWarnings, columns: table.EndpointSlice()}),
		"Ingress": of(rules[networkingv1.Ingress]{check: validation.Ingress, change: validation.IngressUpdate, warn: validation.IngressWarnings, columns: table.Ingress(),
			parts: map[string]part[networkingv1.Ingress]{"status": {check: validation.IngressStatusUpdate, warn: validation.IngressStatusWarnings}}}),
		"IngressClass":  of(rules[networkingv1.IngressClass]{cluster: true, defaults: defaults.IngressClass, check: validation.IngressClass, change: validation.IngressClassUpdate, columns: table.IngressClass()}),
		"NetworkPolicy": of(rules[networkingv1.NetworkPolicy]{defaults: defaults.NetworkPolicy, check: validation.NetworkPolicy, change: validation.NetworkPolicyUpdate, warn: validation.NetworkPolicyWarnings, columns: table.NetworkPolicy()}),
		"ServiceCIDR": of(rules[networkingv1.ServiceCIDR]{cluster: true, check: validation.ServiceCIDR, change: validation.ServiceCIDRUpdate, columns: table.ServiceCIDR(),
			parts: map[string]part[networkingv1.ServiceCIDR]{"status": {prepare: keepMeta[networkingv1.ServiceCIDR], check: validation.ServiceCIDRStatusUpdate}}}),
		"IPAddress":          of(rules[networkingv1.IPAddress]{cluster: true, check: validation.IPAddress, change: validation.IPAddressUpdate, columns: table.IPAddress()}),
		"PriorityClass":      of(rules[schedulingv1.PriorityClass]{cluster: true, defaults: defaults.PriorityClass, check: validation.PriorityClass, change: validation.PriorityClassUpdate, columns: table.PriorityClass()}),
		"RuntimeClass":       of(rules[nodev1.RuntimeClass]{cluster: true, defaults: defaults.RuntimeClass, check: validation.RuntimeClass, change: validation.RuntimeClassUpdate, warn: validation.RuntimeClassWarnings, columns: table.RuntimeClass()}),
		"Role":               of(rules[rbacv1.Role]{check: validation.Role, change: validation.RoleUpdate, columns: table.Role()}),
		"ClusterRole":        of(rules[rbacv1.ClusterRole]{cluster: true, check: validation.ClusterRole, change: validation.ClusterRoleUpdate, columns: table.ClusterRole()}),
		"RoleBinding":        of(rules[rbacv1.RoleBinding]{defaults: defaults.RoleBinding, check: validation.RoleBinding, change: validation.RoleBindingUpdate, columns: table.RoleBinding()}),
		"ClusterRoleBinding": of(rules[rbacv1.ClusterRoleBinding]{cluster: true, defaults: defaults.ClusterRoleBinding, check: validation.ClusterRoleBinding, change: validation.ClusterRoleBindingUpdate, columns: table.ClusterRoleBinding()}),
	}
}
