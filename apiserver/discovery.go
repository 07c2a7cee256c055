// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Priorities in discovery: who asks for a name without its group means the
// group that comes first. Custom resources, which are the library's, come after
// all of Kubernetes' own.
const (
	otherGroups    = 15700 // a group that upstream has no number for
	preferredFirst = 15    // of a version
)

// groupPriority is kube-apiserver's number of a group.
func groupPriority(group string) int {
	switch group {
	case "apiregistration.k8s.io":
		return 20000
	case "":
		return 18000
	case "apps":
		return 17800
	case "events.k8s.io":
		return 17750
	case "authentication.k8s.io":
		return 17700
	case "authorization.k8s.io":
		return 17600
	case "autoscaling":
		return 17500
	case "batch":
		return 17400
	case "certificates.k8s.io":
		return 17300
	case "networking.k8s.io":
		return 17200
	case "policy":
		return 17100
	case "rbac.authorization.k8s.io":
		return 17000
	case "storage.k8s.io":
		return 16800
	case "admissionregistration.k8s.io", "apiextensions.k8s.io":
		return 16700
	case "scheduling.k8s.io":
		return 16600
	case "coordination.k8s.io":
		return 16500
	case "node.k8s.io":
		return 16300
	case "discovery.k8s.io", "resource.k8s.io":
		return 16200
	case "flowcontrol.apiserver.k8s.io":
		return 16100
	case "storagemigration.k8s.io":
		return 15800
	}
	return otherGroups
}

// orderGroups puts what is served into upstream's order.
func (s *Server) orderGroups(versions []schema.GroupVersion) {
	for _, gv := range versions {
		s.generic.AggregatedDiscoveryGroupManager.SetGroupVersionPriority(metav1.GroupVersion(gv), groupPriority(gv.Group), preferredFirst)
	}
}

// versionPriority is kube-apiserver's number of a version of a group.
func versionPriority(gv schema.GroupVersion) int {
	switch {
	case gv.Group == "":
		return 1
	case gv.String() == "autoscaling/v2":
		return 30
	case gv.String() == "flowcontrol.apiserver.k8s.io/v1", gv.String() == "resource.k8s.io/v1":
		return 21
	case strings.Contains(gv.Version, "beta"):
		return 9
	case strings.Contains(gv.Version, "alpha"):
		return 1
	}
	return preferredFirst
}
