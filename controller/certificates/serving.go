// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/api/certificate"
)

// servingApprover approves what a node serves with, for its own addresses. It is
// ours: Kubernetes leaves these requests to a person, and its API server then
// mostly does not verify whom it sends logs and exec to; ours always does.
type servingApprover struct {
	client kubernetes.Interface
	cache  client.Reader
}

// Reconcile approves a request whose names are the requester's own. One for
// names that its Node does not have is tried again ever more rarely: the Node's
// status may come after the request.
func (a servingApprover) Reconcile(ctx context.Context, c *certificatesv1.CertificateSigningRequest) (reconcile.Result, error) {
	if answered(c) || c.Spec.SignerName != certificatesv1.KubeletServingSignerName {
		return reconcile.Result{}, nil
	}
	r, err := certificate.Parse(c.Spec.Request)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("cannot read request %s: %w", c.Name, err)
	}
	if certificate.ForNodeServing(r, c.Spec.Usages) != nil || c.Spec.Username != r.Subject.CommonName || !slices.Contains(c.Spec.Groups, r.Subject.Organization[0]) {
		return reconcile.Result{}, nil // a person may
	}
	var nodes corev1.NodeList
	var services corev1.ServiceList
	if err := errors.Join(a.cache.List(ctx, &nodes), a.cache.List(ctx, &services)); err != nil {
		return reconcile.Result{}, fmt.Errorf("cannot look whose names are in request %s: %w", c.Name, err)
	}
	if err := ownNames(r, nodes.Items, services.Items); err != nil {
		return reconcile.Result{}, fmt.Errorf("cannot approve request %s: %w", c.Name, err)
	}
	return reconcile.Result{}, autoApprove(ctx, a.client, c, "Auto approving kubelet serving certificate for the addresses of its Node.")
}

// ownNames refuses a server that would be taken for another: its name is the
// node's, and its addresses are those of that Node, and of no other, and of no
// Service. A node writes its own addresses, so that its word alone is not enough.
func ownNames(r *x509.CertificateRequest, nodes []corev1.Node, services []corev1.Service) error {
	self := certificate.NodeName(r)
	for _, name := range r.DNSNames {
		if name != self {
			return fmt.Errorf("%s is not the name of node %s", name, self)
		}
	}
	for _, ip := range r.IPAddresses {
		owners := ownersOf(ip, nodes, services)
		if !slices.Equal(owners, []string{"node " + self}) {
			return fmt.Errorf("%s belongs to %q, not to node %s alone", ip, owners, self)
		}
	}
	return nil
}

func ownersOf(ip net.IP, nodes []corev1.Node, services []corev1.Service) (out []string) {
	for _, n := range nodes {
		if slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool { return ip.Equal(net.ParseIP(a.Address)) }) {
			out = append(out, "node "+n.Name)
		}
	}
	for _, s := range services {
		if slices.ContainsFunc(slices.Concat(s.Spec.ClusterIPs, s.Spec.ExternalIPs), func(a string) bool { return ip.Equal(net.ParseIP(a)) }) {
			out = append(out, "service "+s.Namespace+"/"+s.Name)
		}
	}
	return out
}
