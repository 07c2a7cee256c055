// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// nodeUser is the prefix of the names of node agents.
const nodeUser = "system:node:"

// NodeOf is the node whose agent a user is. An agent without a name is one of
// no node.
func NodeOf(u user.Info) (name string, is bool) {
	name, is = strings.CutPrefix(u.GetName(), nodeUser)
	return name, is && slices.Contains(u.GetGroups(), user.NodesGroup)
}

// NodeObjects are what is asked about the Pods of a node.
type NodeObjects interface {
	// PodsOn are the Pods that are bound to a node.
	PodsOn(ctx context.Context, node string) ([]*corev1.Pod, error)
	// Volume is a PersistentVolume, or a NotFound error.
	Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
	// AttachedTo is the node of a VolumeAttachment, or a NotFound error.
	AttachedTo(ctx context.Context, attachment string) (node string, err error)
	// SliceOf is the node of a ResourceSlice, or a NotFound error.
	SliceOf(ctx context.Context, slice string) (node string, err error)
}

// NodeAuthorizer lets the agents of nodes do what they have to: to their own
// Node and Lease, and to read what the Pods on them refer to (the authorizer
// Node of kube-apiserver). Kubernetes keeps a graph of these references; here
// the Pods of the node are looked through in the watch cache when one is asked
// for. Whatever a name does not tell is refused by
// admission (NodeRestriction). Secrets of volumes are not among them: they are
// for CSI drivers, which there are none of.
type NodeAuthorizer struct{ Objects NodeObjects }

// RulesFor: what a node may is not enumerated.
func (NodeAuthorizer) RulesFor(_ context.Context, u user.Info, _ string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	if _, is := NodeOf(u); is {
		return nil, nil, true, errors.New("node authorizer does not support user rule resolution")
	}
	return nil, nil, false, nil
}

// Authorize allows, or has no opinion and may say why.
func (n NodeAuthorizer) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	node, is := NodeOf(a.GetUser())
	switch {
	case !is:
		return authorizer.DecisionNoOpinion, "", nil
	case node == "":
		return authorizer.DecisionNoOpinion, fmt.Sprintf("unknown node for user %q", a.GetUser().GetName()), nil
	}
	if why := n.refusal(ctx, node, a); why != nil {
		return authorizer.DecisionNoOpinion, why.Error(), nil
	}
	return authorizer.DecisionAllow, "", nil
}

// errPlain is a refusal that says nothing.
var errPlain = errors.New("")

func (n NodeAuthorizer) refusal(ctx context.Context, node string, a authorizer.Attributes) error {
	if a.IsResourceRequest() {
		if judge, ok := nodeJudges[a.GetAPIGroup()+"/"+a.GetResource()]; ok {
			return judge(ctx, n, node, a)
		}
	}
	if slices.ContainsFunc(nodeRules(), func(r rbacv1.PolicyRule) bool { return allows(a, r) }) {
		return nil
	}
	return errPlain
}

type nodeJudge func(ctx context.Context, n NodeAuthorizer, node string, a authorizer.Attributes) error

// nodeJudges are for what is not the same for all nodes, by group and resource.
var nodeJudges = map[string]nodeJudge{
	"/secrets":                         namespaced(related(podSecrets)),
	"/configmaps":                      namespaced(related(podConfigMaps)),
	"/persistentvolumeclaims":          volumeClaims,
	"/persistentvolumes":               single(NodeAuthorizer.volume),
	"resource.k8s.io/resourceclaims":   single(related(podResourceClaims)),
	"storage.k8s.io/volumeattachments": single(owned(NodeObjects.AttachedTo)),
	"/serviceaccounts":                 accounts,
	"coordination.k8s.io/leases":       leases,
	"storage.k8s.io/csinodes":          csiNodes,
	"resource.k8s.io/resourceslices":   slicesOf,
	"/nodes":                           ownNode,
	"/pods":                            podsOf,
}

// relation says whether the named object has to do with the node.
type relation func(n NodeAuthorizer, ctx context.Context, node, namespace, name string) (bool, error)

// judged asks a relation.
func judged(ctx context.Context, n NodeAuthorizer, node string, a authorizer.Attributes, r relation) error {
	if a.GetName() == "" {
		return errors.New("No Object name found") //nolint:staticcheck // upstream's text
	}
	if ok, err := r(n, ctx, node, a.GetNamespace(), a.GetName()); err != nil || !ok {
		return fmt.Errorf("no relationship found between node '%s' and this object", node)
	}
	return nil
}

// namespaced lets one object be read and watched.
func namespaced(r relation) nodeJudge {
	return func(ctx context.Context, n NodeAuthorizer, node string, a authorizer.Attributes) error {
		switch {
		case !slices.Contains(readVerbs, a.GetVerb()):
			return errors.New("can only read resources of this type")
		case a.GetSubresource() != "":
			return errors.New("cannot read subresource")
		case a.GetNamespace() == "":
			return errors.New("can only read namespaced object of this type")
		}
		return judged(ctx, n, node, a, r)
	}
}

// single lets one object be read.
func single(r relation) nodeJudge {
	return func(ctx context.Context, n NodeAuthorizer, node string, a authorizer.Attributes) error {
		switch {
		case a.GetVerb() != "get":
			return errors.New("can only get individual resources of this type")
		case a.GetSubresource() != "":
			return errors.New("cannot get subresource")
		}
		return judged(ctx, n, node, a, r)
	}
}

// related: a Pod on the node refers to it.
func related(of func(*corev1.Pod) []string) relation {
	return func(n NodeAuthorizer, ctx context.Context, node, namespace, name string) (bool, error) {
		pods, err := n.Objects.PodsOn(ctx, node)
		return slices.ContainsFunc(pods, func(p *corev1.Pod) bool {
			_, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]
			return !mirror && p.Namespace == namespace && slices.Contains(of(p), name)
		}), err
	}
}

// owned: the object names its node.
func owned(of func(NodeObjects, context.Context, string) (string, error)) relation {
	return func(n NodeAuthorizer, ctx context.Context, node, _, name string) (bool, error) {
		owner, err := of(n.Objects, ctx, name)
		return owner == node, err
	}
}

// volume is one that a claim of a Pod is bound to.
func (n NodeAuthorizer) volume(ctx context.Context, node, _, name string) (bool, error) {
	v, err := n.Objects.Volume(ctx, name)
	if err != nil || v.Spec.ClaimRef == nil {
		return false, err
	}
	return related(podClaims)(n, ctx, node, v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name)
}
