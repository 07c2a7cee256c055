// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/api/certificate"
	"github.com/peapod/peapod/controller/loop"
)

// signer signs approved requests to the signers that are Kubernetes' own; those
// of others are for others.
type signer struct {
	client kubernetes.Interface
	issue  loop.Issue
}

// checks are the signers, each with what it refuses.
var checks = map[string]func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error{
	certificatesv1.KubeAPIServerClientSignerName:        forClient,
	certificatesv1.KubeAPIServerClientKubeletSignerName: certificate.ForNodeClient,
	certificatesv1.KubeletServingSignerName:             certificate.ForNodeServing,
	// What was asked for by an API of old is not restricted.
	certificatesv1beta1.LegacyUnknownSignerName: func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error { return nil },
}

// Reconcile writes the certificate, or why there is none.
func (s signer) Reconcile(ctx context.Context, c *certificatesv1.CertificateSigningRequest) (reconcile.Result, error) {
	check, ours := checks[c.Spec.SignerName]
	if !ours || len(c.Status.Certificate) > 0 || !certificate.Has(c, certificatesv1.CertificateApproved) ||
		certificate.Has(c, certificatesv1.CertificateDenied) || certificate.Has(c, certificatesv1.CertificateFailed) {
		return reconcile.Result{}, nil
	}
	r, err := certificate.Parse(c.Spec.Request)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("cannot read request %s: %w", c.Name, err)
	}
	if err := check(r, c.Spec.Usages); err != nil {
		c.Status.Conditions = append(c.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(), LastUpdateTime: metav1.Now(),
		})
	} else if c.Status.Certificate, err = s.issue(r, c.Spec.Usages, c.Spec.ExpirationSeconds); err != nil {
		return reconcile.Result{}, err
	}
	_, err = s.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, c, metav1.UpdateOptions{})
	return reconcile.Result{}, client.IgnoreNotFound(err)
}

// forClient refuses what is not for a client of the API server alone.
func forClient(_ *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	allowed := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth}
	for _, u := range usages {
		if !slices.Contains(allowed, u) {
			return fmt.Errorf("invalid usage for client certificate: %s", u)
		}
	}
	if !slices.Contains(usages, certificatesv1.UsageClientAuth) {
		return fmt.Errorf("missing required usage for client certificate: %s", certificatesv1.UsageClientAuth)
	}
	return nil
}
