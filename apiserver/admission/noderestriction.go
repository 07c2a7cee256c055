// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/certificate"
	"github.com/peapod/peapod/auth"
)

// nodeRestriction lets the agent of a node write only what is that node's
// (NodeRestriction): the authorizer sees names, and here is what is written.
// The agent of this process is not bound by it, as nothing is refused to
// system:masters.
type nodeRestriction struct {
	*admission.Handler
	Objects
}

// Admit refuses, and changes nothing.
func (r nodeRestriction) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	node, is := auth.NodeOf(a.GetUserInfo())
	if !is || slices.Contains(a.GetUserInfo().GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	if node == "" {
		return admission.NewForbidden(a, fmt.Errorf("could not determine node from user %q", a.GetUserInfo().GetName()))
	}
	judge, ok := map[schema.GroupResource]func(context.Context, string, admission.Attributes) error{
		corev1.Resource("pods"):                               r.pod,
		corev1.Resource("nodes"):                              r.node,
		corev1.Resource("persistentvolumeclaims"):             r.claim,
		corev1.Resource("serviceaccounts"):                    r.token,
		coordinationv1.Resource("leases"):                     r.lease,
		storagev1.Resource("csinodes"):                        r.csiNode,
		resourcev1.Resource("resourceslices"):                 r.slice,
		certificatesv1.Resource("certificatesigningrequests"): r.signingRequest,
	}[a.GetResource().GroupResource()]
	if !ok {
		return nil
	}
	if err := judge(ctx, node, a); err != nil {
		return admission.NewForbidden(a, err)
	}
	return nil
}

// pod: status of its own, mirrors of its own, and an end to its own.
func (r nodeRestriction) pod(ctx context.Context, node string, a admission.Attributes) error {
	switch a.GetSubresource() + " " + string(a.GetOperation()) {
	case " CREATE":
		return r.mirror(ctx, node, a)
	case " DELETE", "eviction CREATE":
		p, err := r.Pod(ctx, a.GetNamespace(), a.GetName())
		switch {
		case err != nil:
			return err
		case p.Spec.NodeName == node:
			return nil
		case a.GetSubresource() == "eviction":
			return fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", node)
		}
		return fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", node)
	case "status UPDATE":
		return podStatus(node, a)
	}
	switch a.GetSubresource() {
	case "":
		return fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", a.GetOperation(), node)
	case "status", "eviction":
		return fmt.Errorf("unexpected operation %q", a.GetOperation())
	}
	return fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.GetSubresource())
}

func podStatus(node string, a admission.Attributes) error {
	p, ok := a.GetObject().(*corev1.Pod)
	old, was := a.GetOldObject().(*corev1.Pod)
	switch {
	case !ok || !was:
		return fmt.Errorf("unexpected type %T", a.GetObject())
	case old.Spec.NodeName != node:
		return fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node)
	case !labels.Equals(old.Labels, p.Labels):
		return fmt.Errorf("node %q cannot update labels through pod status", node)
	case !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, p.Status.ResourceClaimStatuses):
		return fmt.Errorf("node %q cannot update resource claim statues", node)
	case !equality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, p.Status.ExtendedResourceClaimStatus):
		return fmt.Errorf("node %q cannot update extended resource claim status", node)
	}
	return nil
}

// mirror is a Pod that shows what the node runs by itself: it refers to nothing
// of the API, as the node may read what its Pods refer to.
func (r nodeRestriction) mirror(ctx context.Context, node string, a admission.Attributes) error {
	p, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	if _, is := p.Annotations[corev1.MirrorPodAnnotationKey]; !is {
		return fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	}
	switch {
	case p.Spec.NodeName != node:
		return fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", node)
	case len(p.OwnerReferences) > 1:
		return fmt.Errorf("node %q can only create pods with a single owner reference set to itself", node)
	case len(p.OwnerReferences) == 0 || p.OwnerReferences[0].APIVersion != "v1" || p.OwnerReferences[0].Kind != "Node" || p.OwnerReferences[0].Name != node:
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", node)
	case !ptr.Deref(p.OwnerReferences[0].Controller, false):
		return fmt.Errorf("node %q can only create pods with a controller owner reference set to itself", node)
	case ptr.Deref(p.OwnerReferences[0].BlockOwnerDeletion, false):
		return fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", node)
	}
	n, err := r.Node(ctx, node)
	if err != nil {
		return fmt.Errorf("error looking up node %s to verify uid: %w", node, err)
	}
	if uid := p.OwnerReferences[0].UID; uid != n.UID {
		return fmt.Errorf("node %s UID mismatch: expected %s got %s", node, uid, n.UID)
	}
	if what := auth.Refers(p); what != "" {
		return fmt.Errorf("node %q can not create pods that reference %s", node, what)
	}
	return nil
}

// node: its own, without what would draw Pods to it that are not for it.
func (r nodeRestriction) node(_ context.Context, node string, a admission.Attributes) error {
	if a.GetName() != node {
		return fmt.Errorf("node %q is not allowed to modify node %q", node, a.GetName())
	}
	if a.GetOperation() == admission.Delete {
		return nil
	}
	n, ok := a.GetObject().(*corev1.Node)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	if a.GetOperation() == admission.Create {
		if n.Spec.ConfigSource != nil {
			return fmt.Errorf("node %q is not allowed to create pods with a non-nil configSource", node)
		}
		if bad := foreignLabels(n.Labels, nil); len(bad) > 0 {
			return fmt.Errorf("node %q is not allowed to set the following labels: %s", node, strings.Join(bad, ", "))
		}
		return nil
	}
	old, ok := a.GetOldObject().(*corev1.Node)
	switch {
	case !ok:
		return fmt.Errorf("unexpected type %T", a.GetOldObject())
	case n.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(n.Spec.ConfigSource, old.Spec.ConfigSource):
		return fmt.Errorf("node %q is not allowed to update configSource to a new non-nil configSource", node)
	case !equality.Semantic.DeepEqual(n.Spec.Taints, old.Spec.Taints):
		return fmt.Errorf("node %q is not allowed to modify taints", node)
	case !equality.Semantic.DeepEqual(n.OwnerReferences, old.OwnerReferences):
		return fmt.Errorf("node %q is not allowed to modify ownerReferences", node)
	}
	if bad := foreignLabels(n.Labels, old.Labels); len(bad) > 0 {
		return fmt.Errorf("is not allowed to modify labels: %s", strings.Join(bad, ", "))
	}
	return nil
}

// foreignLabels are those that differ and are not a node's to set.
func foreignLabels(is, was map[string]string) (out []string) {
	differs := func(a, b map[string]string) {
		for key, value := range a {
			if other, ok := b[key]; (!ok || other != value) && !nodesLabel(key) && !slices.Contains(out, key) {
				out = append(out, key)
			}
		}
	}
	differs(is, was)
	differs(was, is)
	slices.Sort(out)
	return out
}

// nodesLabel: among the labels of Kubernetes itself, those of
// k8s.io/kubelet/pkg/apis alone.
func nodesLabel(key string) bool {
	domain, _, qualified := strings.Cut(key, "/")
	in := func(d string) bool { return qualified && (domain == d || strings.HasSuffix(domain, "."+d)) }
	switch key {
	case corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
		corev1.LabelInstanceType, corev1.LabelInstanceTypeStable, corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch":
		return true
	}
	if in(corev1.LabelNamespaceNodeRestriction) {
		return false
	}
	return in(corev1.LabelNamespaceSuffixKubelet) || in(corev1.LabelNamespaceSuffixNode) || !in("kubernetes.io") && !in("k8s.io")
}

// claim: how large the volume has become.
func (r nodeRestriction) claim(_ context.Context, node string, a admission.Attributes) error {
	if a.GetSubresource() != "status" {
		return errors.New("may only update PVC status")
	}
	c, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	old, was := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok || !was {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	c, old = c.DeepCopy(), old.DeepCopy()
	for _, x := range []*corev1.PersistentVolumeClaim{c, old} {
		x.ResourceVersion, x.ManagedFields = "", nil
		x.Status.Capacity, x.Status.Conditions, x.Status.AllocatedResources, x.Status.AllocatedResourceStatuses = nil, nil, nil, nil
	}
	if !equality.Semantic.DeepEqual(c, old) {
		return fmt.Errorf("node %q is not allowed to update fields other than status.quantity and status.conditions", node)
	}
	return nil
}

// token: of the account of a Pod of its own, bound to that, for an audience
// that the Pod asks for.
func (r nodeRestriction) token(ctx context.Context, node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create || a.GetSubresource() != "token" {
		return nil
	}
	t, ok := a.GetObject().(*authenticationv1.TokenRequest)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	ref := t.Spec.BoundObjectRef
	switch {
	case ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "":
		return errors.New("node requested token not bound to a pod")
	case ref.UID == "":
		return errors.New("node requested token with a pod binding without a uid")
	}
	p, err := r.Pod(ctx, a.GetNamespace(), ref.Name)
	switch {
	case err != nil:
		return err
	case ref.UID != p.UID:
		return fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	case p.Spec.NodeName != node:
		return errors.New("node requested token bound to a pod scheduled on a different node")
	case len(t.Spec.Audiences) > 1:
		return errors.New("node may only request 0 or 1 audiences")
	}
	audience := strings.Join(t.Spec.Audiences, "")
	for _, v := range p.Spec.Volumes {
		if v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
			return s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience
		}) {
			return nil
		}
	}
	if r.Allowed(ctx, a.GetUserInfo(), "request-serviceaccounts-token-audience", schema.GroupResource{Group: a.GetResource().Group, Resource: audience}, a.GetNamespace(), a.GetName()) {
		return nil
	}
	return fmt.Errorf("%s is not authorized to request tokens for audience %q", a.GetUserInfo().GetName(), audience)
}

func (r nodeRestriction) lease(_ context.Context, node string, a admission.Attributes) error {
	switch {
	case a.GetNamespace() != corev1.NamespaceNodeLease:
		return fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	case nameOf(a) != node:
		return errors.New("can only access node lease with the same name as the requesting node")
	}
	return nil
}

func (r nodeRestriction) csiNode(_ context.Context, node string, a admission.Attributes) error {
	if nameOf(a) != node {
		return errors.New("can only access CSINode with the same name as the requesting node")
	}
	return nil
}

// nameOf is the name of what is written; a new object has it only inside.
func nameOf(a admission.Attributes) string {
	if a.GetOperation() == admission.Create {
		if m, err := meta.Accessor(a.GetObject()); err == nil {
			return m.GetName()
		}
	}
	return a.GetName()
}

func (r nodeRestriction) slice(_ context.Context, node string, a admission.Attributes) error {
	o, verb := a.GetObject(), "create"
	switch a.GetOperation() {
	case admission.Delete:
		o, verb = a.GetOldObject(), "delete"
	case admission.Update:
		return nil // the authorizer has seen whose it is, and that cannot change
	}
	if s, ok := o.(*resourcev1.ResourceSlice); !ok || ptr.Deref(s.Spec.NodeName, "") != node {
		return fmt.Errorf("can only %s ResourceSlice with the same NodeName as the requesting node", verb)
	}
	return nil
}

// signingRequest: of a node's certificates, its own.
func (r nodeRestriction) signingRequest(_ context.Context, _ string, a admission.Attributes) error {
	c, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if a.GetOperation() != admission.Create || !ok || c.Spec.SignerName != certificatesv1.KubeletServingSignerName && c.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	x, err := certificate.Parse(c.Spec.Request)
	if err != nil {
		return fmt.Errorf("unable to parse csr: %w", err)
	}
	if x.Subject.CommonName != a.GetUserInfo().GetName() {
		return fmt.Errorf("can only create a node CSR with CN=%s", a.GetUserInfo().GetName())
	}
	return nil
}
