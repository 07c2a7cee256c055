// SPDX-License-Identifier: Apache-2.0

// Package certificates owns how CertificateSigningRequests end: nodes' requests
// for their own client certificates are approved, approved requests to the
// signers of Kubernetes are signed, and what was answered, or never was, is
// removed after a while. They are csrapproving, csrsigning and csrcleaner of
// kube-controller-manager 1.37, and one more, which approves what nodes serve
// with.
package certificates

import (
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
)

// Add adds the controllers to a manager.
func Add(m manager.Manager, c loop.Config) error {
	for name, r := range map[string]reconcile.ObjectReconciler[*certificatesv1.CertificateSigningRequest]{
		"csrapproving":                 approver{c.Client},
		"csrapproving-kubelet-serving": servingApprover{c.Client, m.GetClient()},
		"csrsigning":                   signer{c.Client, c.Issue},
		"csrcleaner":                   cleaner{m.GetClient(), time.Now},
	} {
		err := ctrl.NewControllerManagedBy(m).Named(name).For(&certificatesv1.CertificateSigningRequest{}).
			Complete(reconcile.AsReconciler(m.GetClient(), r))
		if err != nil {
			return fmt.Errorf("cannot add %s: %w", name, err)
		}
	}
	return nil
}
