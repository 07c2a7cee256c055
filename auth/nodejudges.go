// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

var ownVerbs = []string{"get", "create", "update", "patch", "delete"}

// volumeClaims may be read, and their status written.
func volumeClaims(ctx context.Context, n NodeAuthorizer, node string, a authorizer.Attributes) error {
	if a.GetSubresource() != "status" {
		return single(related(podClaims))(ctx, n, node, a)
	}
	if v := a.GetVerb(); v != "update" && v != "patch" {
		return errors.New("can only get/update/patch this type")
	}
	return judged(ctx, n, node, a, related(podClaims))
}

// accounts of Pods may be read, and give tokens.
func accounts(ctx context.Context, n NodeAuthorizer, node string, a authorizer.Attributes) error {
	of := related(func(p *corev1.Pod) []string { return []string{p.Spec.ServiceAccountName} })
	switch {
	case a.GetVerb() == "get" && a.GetSubresource() == "":
		return namespaced(of)(ctx, n, node, a)
	case a.GetVerb() != "create" || a.GetName() == "":
		return errors.New("can only create tokens for individual service accounts")
	case a.GetSubresource() != "token":
		return errors.New("can only create token subresource of serviceaccount")
	}
	return judged(ctx, n, node, a, of)
}

// leases: its own. The name of a new one is judged by admission.
func leases(_ context.Context, _ NodeAuthorizer, node string, a authorizer.Attributes) error {
	switch {
	case !slices.Contains(ownVerbs, a.GetVerb()):
		return errors.New("can only get, create, update, patch, or delete a node lease")
	case a.GetNamespace() != corev1.NamespaceNodeLease:
		return fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	case a.GetVerb() != "create" && a.GetName() != node:
		return errors.New("can only access node lease with the same name as the requesting node")
	}
	return nil
}

// csiNodes: its own.
func csiNodes(_ context.Context, _ NodeAuthorizer, node string, a authorizer.Attributes) error {
	switch {
	case a.GetSubresource() == "status":
		return errors.New("CSINode status access requires CSIVolumeHealth feature")
	case a.GetSubresource() != "":
		return errors.New("cannot authorize CSINode subresources")
	case !slices.Contains(ownVerbs, a.GetVerb()):
		return errors.New("can only get, create, update, patch, or delete a CSINode")
	case a.GetVerb() != "create" && a.GetName() != node:
		return errors.New("can only access CSINode with the same name as the requesting node")
	}
	return nil
}

// slicesOf devices: its own.
func slicesOf(ctx context.Context, n NodeAuthorizer, node string, a authorizer.Attributes) error {
	switch v := a.GetVerb(); {
	case a.GetSubresource() != "":
		return errors.New("cannot authorize ResourceSlice subresources")
	case v == "create":
		return nil // admission sees whose it is
	case slices.Contains(ownVerbs, v):
		return judged(ctx, n, node, a, owned(NodeObjects.SliceOf))
	case v == "watch" || v == "list" || v == "deletecollection":
		if selects(a, node) {
			return nil
		}
		return errors.New("can only list/watch/deletecollection resourceslices with nodeName field selector")
	}
	return errors.New("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection")
}

// ownNode: its own Node. Admission sees what it writes.
func ownNode(_ context.Context, _ NodeAuthorizer, node string, a authorizer.Attributes) error {
	v, writes := a.GetVerb(), a.GetVerb() == "update" || a.GetVerb() == "patch"
	switch {
	case a.GetSubresource() == "status" && writes, a.GetSubresource() == "" && (writes || v == "create"):
		return nil
	case a.GetSubresource() != "" || !slices.Contains(readVerbs, v):
		return errPlain
	case a.GetName() == node:
		return nil
	case a.GetName() == "":
		return fmt.Errorf("node '%s' cannot read all nodes, only its own Node object", node)
	}
	return fmt.Errorf("node '%s' cannot read '%s', only its own Node object", node, a.GetName())
}

// podsOf a node are read by it; what it writes of them is seen by admission.
func podsOf(ctx context.Context, n NodeAuthorizer, node string, a authorizer.Attributes) error {
	self := relation(func(n NodeAuthorizer, ctx context.Context, node, namespace, name string) (bool, error) {
		pods, err := n.Objects.PodsOn(ctx, node)
		return slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return p.Namespace == namespace && p.Name == name }), err
	})
	switch v := a.GetVerb(); a.GetSubresource() + " " + v {
	case " create", " delete", "status update", "status patch", "eviction create":
		return nil
	case " get":
		return judged(ctx, n, node, a, self)
	case " list", " watch":
		switch {
		case selects(a, node):
			return nil
		case a.GetName() != "":
			return judged(ctx, n, node, a, self)
		}
		return errors.New("can only list/watch pods with spec.nodeName field selector")
	}
	return errPlain
}

// selects says whether only what is of the node is asked for.
func selects(a authorizer.Attributes, node string) bool {
	all, _ := a.GetFieldSelector() // one that cannot be read selects nothing
	for _, r := range all {
		if r.Field == "spec.nodeName" && r.Operator == selection.Equals && r.Value == node {
			return true
		}
	}
	return false
}
