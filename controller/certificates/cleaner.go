// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// How long requests stay, as with kube-controller-manager, which looks once an
// hour; here they go when their time has come.
const (
	keepAnswered = time.Hour
	keepOpen     = 24 * time.Hour
)

// cleaner removes requests that nobody waits for any more.
type cleaner struct {
	client client.Client
	now    func() time.Time
}

// Reconcile deletes a request whose time has come, or comes back then.
func (l cleaner) Reconcile(ctx context.Context, c *certificatesv1.CertificateSigningRequest) (reconcile.Result, error) {
	end := endOf(c)
	if left := end.Sub(l.now()); end.IsZero() || left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	return reconcile.Result{}, client.IgnoreNotFound(l.client.Delete(ctx, c, client.Preconditions{UID: &c.UID}))
}

// endOf is when a request goes: the first of the times that its conditions and
// its certificate set. Zero is never.
func endOf(c *certificatesv1.CertificateSigningRequest) (end time.Time) {
	after := func(t metav1.Time, d time.Duration) {
		if at := t.Add(d); !t.IsZero() && (end.IsZero() || at.Before(end)) {
			end = at
		}
	}
	if len(c.Status.Conditions) == 0 {
		after(c.CreationTimestamp, keepOpen)
	}
	for _, x := range c.Status.Conditions {
		switch x.Type {
		case certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			after(x.LastUpdateTime, keepAnswered)
		case certificatesv1.CertificateApproved:
			if len(c.Status.Certificate) == 0 {
				after(x.LastUpdateTime, keepOpen)
				continue
			}
			after(x.LastUpdateTime, keepAnswered)
			after(expiry(c.Status.Certificate), 0)
		}
	}
	return end
}

// expiry is when the first certificate of a chain ends, if it can be read.
func expiry(chain []byte) metav1.Time {
	block, _ := pem.Decode(chain)
	if block == nil {
		return metav1.Time{}
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return metav1.Time{}
	}
	return metav1.NewTime(cert.NotAfter)
}
