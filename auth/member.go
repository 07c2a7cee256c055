// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// What a machine that joins may see of the cluster. Its node agent's own rights
// are system:node's; beside that agent it leads the addresses of Services to
// their Pods, knows the other machines, and serves DNS, which elsewhere are
// programs with identities of their own (system:node-proxier, system:coredns).

// memberName is the role's and binding's, and that of the ConfigMap which says
// what the cluster is like.
const memberName = "peapod:member"

// ClusterConfigName names the ConfigMap in kube-system.
const ClusterConfigName = "peapod-cluster"

// MemberRole is what machines of the cluster see beside what is a node's.
func MemberRole() rbacv1.ClusterRole {
	return clusterRole(memberName,
		on("", []string{"list", "watch"}, "namespaces", "nodes", "services"),
		on("discovery.k8s.io", []string{"list", "watch"}, "endpointslices"))
}

// MemberBinding gives it to all nodes.
func MemberBinding() rbacv1.ClusterRoleBinding {
	return bind(memberName, memberName, user.NodesGroup)
}

// Cluster is what every machine of a cluster has to know of it.
type Cluster struct{ Pods, Services netip.Prefix }

// Keys of the ConfigMap, called as kubeadm's ClusterConfiguration has them.
const (
	podSubnet     = "podSubnet"
	serviceSubnet = "serviceSubnet"
)

// ConfigMap is a Cluster as the API keeps it.
func (c Cluster) ConfigMap() *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: ClusterConfigName},
		Data:       map[string]string{podSubnet: c.Pods.String(), serviceSubnet: c.Services.String()},
	}
}

// ClusterOf reads it.
func ClusterOf(m *corev1.ConfigMap) (c Cluster, err error) {
	for key, to := range map[string]*netip.Prefix{podSubnet: &c.Pods, serviceSubnet: &c.Services} {
		if *to, err = netip.ParsePrefix(m.Data[key]); err != nil {
			return c, fmt.Errorf("cannot read %s of ConfigMap %s/%s: %w", key, m.Namespace, m.Name, err)
		}
	}
	return c, nil
}

// ClusterReaders let nodes read the ConfigMap, and no other.
func ClusterReaders() (*rbacv1.Role, *rbacv1.RoleBinding) {
	return configReader(metav1.NamespaceSystem, ClusterConfigName, ClusterConfigName, subject(rbacv1.GroupKind, user.NodesGroup))
}
