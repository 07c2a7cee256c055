// SPDX-License-Identifier: Apache-2.0

// Package certificates owns how CertificateSigningRequests end: nodes' requests
// for their own client certificates are approved, approved requests to the
// signers of Kubernetes are signed, and what was answered, or never was, is
// removed after a while. They are csrapproving, csrsigning and csrcleaner of
// kube-controller-manager 1.37.
package certificates

import (
	"crypto/x509"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Issue signs a request for so long, if it says how long, and gives the
// certificate in PEM.
type Issue func(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage, seconds *int32) ([]byte, error)

// Add adds the three controllers to a manager. c asks what a user may, and
// writes subresources.
func Add(m manager.Manager, c kubernetes.Interface, issue Issue) error {
	for name, r := range map[string]reconcile.ObjectReconciler[*certificatesv1.CertificateSigningRequest]{
		"csrapproving": approver{c},
		"csrsigning":   signer{c, issue},
		"csrcleaner":   cleaner{m.GetClient(), time.Now},
	} {
		err := ctrl.NewControllerManagedBy(m).Named(name).For(&certificatesv1.CertificateSigningRequest{}).
			Complete(reconcile.AsReconciler(m.GetClient(), r))
		if err != nil {
			return fmt.Errorf("cannot add %s: %w", name, err)
		}
	}
	return nil
}
