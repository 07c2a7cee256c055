// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// bootstrapLabel marks what the server made itself; autoupdate allows it to
// be put right at each start.
const (
	bootstrapLabel = "kubernetes.io/bootstrapping"
	autoupdate     = "rbac.authorization.kubernetes.io/autoupdate"
	aggregateTo    = "rbac.authorization.k8s.io/aggregate-to-"
)

var (
	readVerbs  = []string{"get", "list", "watch"}
	writeVerbs = []string{"create", "delete", "deletecollection", "patch", "update"}
	allVerbs   = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
)

// AutoUpdated says whether a role or binding may be put right at a start: its
// annotation is the user's switch.
func AutoUpdated(o metav1.Object) bool { return o.GetAnnotations()[autoupdate] == "true" }

// on is a rule for resources of groups, which are separated by commas; "" is
// the core group.
func on(groups string, verbs []string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: strings.Split(groups, ","), Verbs: verbs, Resources: resources}
}

func paths(urls ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: urls}
}

// bootstrapMeta is that of what the server made itself.
func bootstrapMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Labels: map[string]string{bootstrapLabel: "rbac-defaults"}, Annotations: map[string]string{autoupdate: "true"}}
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) rbacv1.ClusterRole {
	return rbacv1.ClusterRole{ObjectMeta: bootstrapMeta(name), Rules: rules}
}

func aggregated(name, into string, rules ...rbacv1.PolicyRule) rbacv1.ClusterRole {
	r := clusterRole(name, rules...)
	r.Labels[aggregateTo+into] = "true"
	return r
}

// userFacing are admin, edit and view: each the sum of its own part and the
// next smaller one, in the order in which they are gathered again when a role
// says that it is a part too.
func userFacing() []rbacv1.ClusterRole {
	view := []rbacv1.PolicyRule{
		on("", readVerbs, "configmaps", "endpoints", "persistentvolumeclaims", "persistentvolumeclaims/status", "pods",
			"replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services", "services/status"),
		on("", readVerbs, "bindings", "limitranges", "namespaces/status", "pods/log", "pods/status", "replicationcontrollers/status",
			"resourcequotas", "resourcequotas/status"),
		on("", readVerbs, "namespaces"),
		on(",events.k8s.io", readVerbs, "events"),
		on("discovery.k8s.io", readVerbs, "endpointslices"),
		on("apps", readVerbs, "controllerrevisions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale",
			"deployments/status", "replicasets", "replicasets/scale", "replicasets/status", "statefulsets", "statefulsets/scale",
			"statefulsets/status"),
		on("autoscaling", readVerbs, "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
		on("batch", readVerbs, "cronjobs", "cronjobs/status", "jobs", "jobs/status"),
		on("extensions", readVerbs, "daemonsets", "daemonsets/status", "deployments", "deployments/scale", "deployments/status",
			"ingresses", "ingresses/status", "networkpolicies", "replicasets", "replicasets/scale", "replicasets/status",
			"replicationcontrollers/scale"),
		on("policy", readVerbs, "poddisruptionbudgets", "poddisruptionbudgets/status"),
		on("networking.k8s.io", readVerbs, "ingresses", "ingresses/status", "networkpolicies"),
		on("resource.k8s.io", readVerbs, "resourceclaims", "resourceclaims/status", "resourceclaimtemplates"),
	}
	edit := []rbacv1.PolicyRule{
		on("", readVerbs, "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
		on("", []string{"impersonate"}, "serviceaccounts"),
		on("", writeVerbs, "pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"),
		on("", []string{"create"}, "pods/eviction"),
		on("", writeVerbs, "configmaps", "persistentvolumeclaims", "replicationcontrollers", "replicationcontrollers/scale", "secrets",
			"serviceaccounts", "services", "services/proxy"),
		on("", []string{"create"}, "serviceaccounts/token"),
		on(",events.k8s.io", writeVerbs, "events"),
		on("apps", writeVerbs, "daemonsets", "deployments", "deployments/rollback", "deployments/scale", "replicasets",
			"replicasets/scale", "statefulsets", "statefulsets/scale"),
		on("autoscaling", writeVerbs, "horizontalpodautoscalers"),
		on("batch", writeVerbs, "cronjobs", "jobs"),
		on("extensions", writeVerbs, "daemonsets", "deployments", "deployments/rollback", "deployments/scale", "ingresses",
			"networkpolicies", "replicasets", "replicasets/scale", "replicationcontrollers/scale"),
		on("policy", writeVerbs, "poddisruptionbudgets"),
		on("networking.k8s.io", writeVerbs, "ingresses", "networkpolicies"),
		on("coordination.k8s.io", allVerbs, "leases"),
		on("resource.k8s.io", writeVerbs, "resourceclaims", "resourceclaimtemplates"),
	}
	admin := []rbacv1.PolicyRule{
		on("authorization.k8s.io", []string{"create"}, "localsubjectaccessreviews"),
		on("rbac.authorization.k8s.io", allVerbs, "rolebindings", "roles"),
	}
	sum := func(name, from string, rules []rbacv1.PolicyRule) rbacv1.ClusterRole {
		r := clusterRole(name, rules...)
		r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{aggregateTo + from: "true"}}}}
		return r
	}
	editRole := sum("edit", "edit", concat(edit, view))
	editRole.Labels[aggregateTo+"admin"] = "true"
	viewRole := sum("view", "view", view)
	viewRole.Labels[aggregateTo+"edit"] = "true"
	return []rbacv1.ClusterRole{
		sum("admin", "admin", concat(edit, view, admin)), editRole, viewRole,
		aggregated("system:aggregate-to-admin", "admin", admin...),
		aggregated("system:aggregate-to-edit", "edit", edit...),
		aggregated("system:aggregate-to-view", "view", view...),
	}
}

func concat(lists ...[]rbacv1.PolicyRule) (out []rbacv1.PolicyRule) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// ClusterRoles are the roles every cluster has.
func ClusterRoles() []rbacv1.ClusterRole {
	roles := []rbacv1.ClusterRole{
		clusterRole("cluster-admin", on("*", []string{"*"}, "*"), rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}),
		clusterRole("system:discovery", paths("/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/")),
		clusterRole("system:public-info-viewer", paths("/healthz", "/livez", "/readyz", "/version", "/version/")),
		clusterRole("system:basic-user",
			on("authorization.k8s.io", []string{"create"}, "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
			on("authentication.k8s.io", []string{"create"}, "selfsubjectreviews")),
		clusterRole("system:service-account-issuer-discovery", paths("/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/")),
		clusterRole("system:monitoring",
			paths("/flagz", "/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*", "/statusz"),
			on("", []string{"get"}, "nodes/metrics")),
		clusterRole("system:auth-delegator",
			on("authentication.k8s.io", []string{"create"}, "tokenreviews"), on("authorization.k8s.io", []string{"create"}, "subjectaccessreviews")),
		clusterRole("system:kubelet-api-admin",
			on("", readVerbs, "nodes"), on("", []string{"proxy"}, "nodes"),
			on("", []string{"*"}, "nodes/log", "nodes/metrics", "nodes/proxy", "nodes/stats"),
			on("", []string{"*"}, "nodes/configz", "nodes/healthz", "nodes/pods")),
		clusterRole("system:node-proxier",
			on("", []string{"list", "watch"}, "endpoints", "services"),
			on("", readVerbs, "nodes"),
			on(",events.k8s.io", []string{"create", "patch", "update"}, "events"),
			on("networking.k8s.io", []string{"list", "watch"}, "servicecidrs"),
			on("discovery.k8s.io", []string{"list", "watch"}, "endpointslices")),
		clusterRole("system:node", nodeRules()...),
		clusterRole("system:node-bootstrapper", on("certificates.k8s.io", []string{"create", "get", "list", "watch"}, "certificatesigningrequests")),
		clusterRole("system:certificates.k8s.io:certificatesigningrequests:nodeclient", on("certificates.k8s.io", []string{"create"}, "certificatesigningrequests/nodeclient")),
		clusterRole("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", on("certificates.k8s.io", []string{"create"}, "certificatesigningrequests/selfnodeclient")),
		approver("legacy-unknown"), approver("kubelet-serving"), approver("kube-apiserver-client"), approver("kube-apiserver-client-kubelet"),
		clusterRole("system:cluster-trust-bundle-discovery", on("certificates.k8s.io", readVerbs, "clustertrustbundles")),
		clusterRole("system:kube-scheduler", schedulerRules()...),
		clusterRole("system:kube-controller-manager",
			on(",events.k8s.io", []string{"create", "patch", "update"}, "events"),
			on("coordination.k8s.io", []string{"create"}, "leases"),
			named(on("coordination.k8s.io", []string{"get", "update"}, "leases"), "kube-controller-manager"),
			on("", []string{"create"}, "secrets", "serviceaccounts"),
			on("", []string{"delete"}, "secrets"),
			on("", []string{"get"}, "configmaps", "namespaces", "secrets", "serviceaccounts"),
			on("", []string{"update"}, "secrets", "serviceaccounts"),
			on("authentication.k8s.io", []string{"create"}, "tokenreviews"),
			on("authorization.k8s.io", []string{"create"}, "subjectaccessreviews"),
			on("*", []string{"list", "watch"}, "*"),
			on("", []string{"create"}, "serviceaccounts/token")),
	}
	return append(roles, userFacing()...)
}

// approver is who may answer requests to one of Kubernetes' own signers.
func approver(signer string) rbacv1.ClusterRole {
	return clusterRole("system:certificates.k8s.io:"+signer+"-approver", named(on("certificates.k8s.io", []string{"approve"}, "signers"), "kubernetes.io/"+signer))
}

// named narrows a rule to one object.
func named(r rbacv1.PolicyRule, name string) rbacv1.PolicyRule {
	r.ResourceNames = []string{name}
	return r
}

// schedulerRules are what a scheduler does that runs beside this one, for Pods
// that name it.
func schedulerRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		on(",events.k8s.io", []string{"create", "patch", "update"}, "events"),
		on("coordination.k8s.io", []string{"create"}, "leases"),
		named(on("coordination.k8s.io", []string{"get", "list", "update", "watch"}, "leases"), "kube-scheduler"),
		on("coordination.k8s.io", allVerbs, "leasecandidates"),
		on("", readVerbs, "nodes"),
		on("", []string{"delete", "get", "list", "watch"}, "pods"),
		on("", []string{"create"}, "bindings", "pods/binding"),
		on("", []string{"patch", "update"}, "pods/status"),
		on("", readVerbs, "replicationcontrollers", "services"),
		on("apps,extensions", readVerbs, "replicasets"),
		on("apps", readVerbs, "statefulsets"),
		on("policy", readVerbs, "poddisruptionbudgets"),
		on("", readVerbs, "persistentvolumeclaims", "persistentvolumes"),
		on("authentication.k8s.io", []string{"create"}, "tokenreviews"),
		on("authorization.k8s.io", []string{"create"}, "subjectaccessreviews"),
		on("storage.k8s.io", readVerbs, "csinodes"),
		on("storage.k8s.io", readVerbs, "volumeattachments"),
		on("", readVerbs, "namespaces"),
		on("storage.k8s.io", readVerbs, "csidrivers"),
		on("storage.k8s.io", readVerbs, "csistoragecapacities"),
		on("resource.k8s.io", readVerbs, "deviceclasses"),
		on("resource.k8s.io", []string{"get", "list", "patch", "update", "watch"}, "resourceclaims"),
		on("resource.k8s.io", []string{"get", "list", "patch", "update", "watch"}, "resourceclaims/status"),
		on("", []string{"update"}, "pods/finalizers"),
		on("resource.k8s.io", readVerbs, "resourceslices"),
		on("resource.k8s.io", []string{"create", "delete"}, "resourceclaims"),
		on("resource.k8s.io", readVerbs, "devicetaintrules"),
		on("resource.k8s.io", []string{"patch", "update"}, "resourceclaims/binding"),
	}
}

// nodeRules are what a node agent does; the node authorizer and admission
// narrow them to its own objects.
func nodeRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		on("authentication.k8s.io", []string{"create"}, "tokenreviews"),
		on("authorization.k8s.io", []string{"create"}, "localsubjectaccessreviews", "subjectaccessreviews"),
		on("", readVerbs, "services"),
		on("", []string{"create", "get", "list", "watch"}, "nodes"),
		on("", []string{"patch", "update"}, "nodes/status"),
		on("", []string{"patch", "update"}, "nodes"),
		on(",events.k8s.io", []string{"create", "patch", "update"}, "events"),
		on("", readVerbs, "pods"),
		on("", []string{"create", "delete"}, "pods"),
		on("", []string{"patch", "update"}, "pods/status"),
		on("", []string{"create"}, "pods/eviction"),
		on("", readVerbs, "configmaps", "secrets"),
		on("", []string{"get"}, "persistentvolumeclaims", "persistentvolumes"),
		on("", []string{"get"}, "endpoints"),
		on("certificates.k8s.io", []string{"create", "get", "list", "watch"}, "certificatesigningrequests"),
		on("coordination.k8s.io", []string{"create", "delete", "get", "patch", "update"}, "leases"),
		on("storage.k8s.io", []string{"get"}, "volumeattachments"),
		on("", []string{"create"}, "serviceaccounts/token"),
		on("", []string{"get", "patch", "update"}, "persistentvolumeclaims/status"),
		on("storage.k8s.io", readVerbs, "csidrivers"),
		on("storage.k8s.io", []string{"create", "delete", "get", "patch", "update"}, "csinodes"),
		on("node.k8s.io", readVerbs, "runtimeclasses"),
		on("resource.k8s.io", []string{"get"}, "resourceclaims"),
		on("resource.k8s.io", []string{"deletecollection"}, "resourceslices"),
		on("certificates.k8s.io", readVerbs, "clustertrustbundles"),
		on("", []string{"get"}, "serviceaccounts"),
		on("certificates.k8s.io", []string{"create", "get", "list", "watch"}, "podcertificaterequests"),
	}
}

// subject is a user or a group.
func subject(kind, name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

// bind gives groups a role.
func bind(name, role string, groups ...string) rbacv1.ClusterRoleBinding {
	b := rbacv1.ClusterRoleBinding{ObjectMeta: bootstrapMeta(name), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}}
	for _, g := range groups {
		b.Subjects = append(b.Subjects, subject(rbacv1.GroupKind, g))
	}
	return b
}

// configReader lets somebody get one ConfigMap of a namespace.
func configReader(namespace, name, config string, who rbacv1.Subject) (*rbacv1.Role, *rbacv1.RoleBinding) {
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	return &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{named(on("", []string{"get"}, "configmaps"), config)}},
		&rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}, Subjects: []rbacv1.Subject{who}}
}

// ClusterRoleBindings are the bindings every cluster has.
func ClusterRoleBindings() []rbacv1.ClusterRoleBinding {
	user := func(name string) rbacv1.ClusterRoleBinding {
		b := bind(name, name)
		b.Subjects = []rbacv1.Subject{subject(rbacv1.UserKind, name)}
		return b
	}
	return []rbacv1.ClusterRoleBinding{
		user("system:kube-scheduler"), user("system:kube-controller-manager"),
		bind("cluster-admin", "cluster-admin", "system:masters"),
		bind("system:basic-user", "system:basic-user", "system:authenticated"),
		bind("system:discovery", "system:discovery", "system:authenticated"),
		bind("system:monitoring", "system:monitoring", "system:monitoring"),
		bind("system:node", "system:node"), // nobody: nodes get their rights by name
		bind("system:public-info-viewer", "system:public-info-viewer", "system:authenticated", "system:unauthenticated"),
		bind("system:service-account-issuer-discovery", "system:service-account-issuer-discovery", "system:serviceaccounts"),
		bind("system:cluster-trust-bundle-discovery", "system:cluster-trust-bundle-discovery", "system:serviceaccounts"),
	}
}
