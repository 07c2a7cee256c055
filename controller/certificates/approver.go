// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"context"
	"crypto/x509"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/api/certificate"
)

// approver approves client certificates of nodes for those who may ask for
// them: for themselves, as a node does that renews its own, or for any node, as
// one does that joins with a token.
type approver struct{ client kubernetes.Interface }

// Reconcile approves what may be approved without a person. What may not is an
// error, which is tried again ever more rarely: the role may come after the
// request.
func (a approver) Reconcile(ctx context.Context, c *certificatesv1.CertificateSigningRequest) (reconcile.Result, error) {
	if answered(c) || c.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return reconcile.Result{}, nil
	}
	r, err := certificate.Parse(c.Spec.Request)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("cannot read request %s: %w", c.Name, err)
	}
	if certificate.ForNodeClient(r, c.Spec.Usages) != nil {
		return reconcile.Result{}, nil
	}
	ways := waysFor(c, r)
	for _, w := range ways {
		may, err := a.may(ctx, c, w.subresource)
		if err != nil {
			return reconcile.Result{}, fmt.Errorf("cannot ask who may have request %s approved: %w", c.Name, err)
		}
		if may {
			return reconcile.Result{}, autoApprove(ctx, a.client, c, w.message)
		}
	}
	return reconcile.Result{}, fmt.Errorf("cannot approve request %s: %s may not create certificatesigningrequests/%s", c.Name, c.Spec.Username, ways[len(ways)-1].subresource)
}

// answered says that nothing is to be approved any more.
func answered(c *certificatesv1.CertificateSigningRequest) bool {
	return len(c.Status.Certificate) > 0 || certificate.Has(c, certificatesv1.CertificateApproved) || certificate.Has(c, certificatesv1.CertificateDenied)
}

func autoApprove(ctx context.Context, api kubernetes.Interface, c *certificatesv1.CertificateSigningRequest, message string) error {
	c.Status.Conditions = append(c.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message,
	})
	_, err := api.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, c.Name, c, metav1.UpdateOptions{})
	return client.IgnoreNotFound(err)
}

// way is one reason to approve: a permission that the requester has to have.
type way struct{ subresource, message string }

func waysFor(c *certificatesv1.CertificateSigningRequest, r *x509.CertificateRequest) (out []way) {
	if c.Spec.Username == r.Subject.CommonName {
		out = append(out, way{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."})
	}
	return append(out, way{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."})
}

// may asks the authorizer about the one who made the request.
func (a approver) may(ctx context.Context, c *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range c.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: c.Spec.Username, UID: c.Spec.UID, Groups: c.Spec.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: certificatesv1.GroupName, Version: "*", Resource: "certificatesigningrequests", Subresource: subresource, Verb: "create",
		},
	}}
	review, err := a.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}
