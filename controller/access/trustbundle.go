// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/peapod/peapod/controller/loop"
)

// apiServingSigner is who signs the API server's certificate.
const apiServingSigner = "kubernetes.io/kube-apiserver-serving"

// addTrustBundle publishes the cluster's CA as the ClusterTrustBundle of the
// API server's signer, and no other
// (kube-apiserver-serving-clustertrustbundle-publisher-controller).
func addTrustBundle(m manager.Manager, c loop.Config) error {
	want := &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: bundleName(apiServingSigner, c.RootCA)},
		Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: apiServingSigner, TrustBundle: string(c.RootCA)},
	}
	r := trustBundle{m.GetClient(), want}
	one := func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: client.ObjectKeyFromObject(want)}}
	}
	signers := predicate.NewPredicateFuncs(func(o client.Object) bool {
		return o.(*certificatesv1.ClusterTrustBundle).Spec.SignerName == apiServingSigner
	})
	// At first there is none that could be seen.
	first := source.Func(func(_ context.Context, q loop.RequestQueue) error {
		q.Add(one(nil, nil)[0])
		return nil
	})
	return ctrl.NewControllerManagedBy(m).Named("clustertrustbundle-publisher").
		Watches(&certificatesv1.ClusterTrustBundle{}, handler.EnqueueRequestsFromMapFunc(one), builder.WithPredicates(signers)).
		WatchesRawSource(first).Complete(r)
}

// bundleName is the signer's prefix and what the bundle holds.
func bundleName(signer string, pem []byte) string {
	sum := sha256.Sum256(pem)
	return fmt.Sprintf("%s:%x", strings.ReplaceAll(signer, "/", ":"), sum[:12])
}

type trustBundle struct {
	client client.Client
	want   *certificatesv1.ClusterTrustBundle
}

// Reconcile makes or mends the bundle, then removes those of older CAs.
func (r trustBundle) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	var have certificatesv1.ClusterTrustBundle
	err := r.client.Get(ctx, client.ObjectKeyFromObject(r.want), &have)
	switch {
	case apierrors.IsNotFound(err):
		err = client.IgnoreAlreadyExists(r.client.Create(ctx, r.want.DeepCopy()))
	case err == nil && have.Spec.TrustBundle != r.want.Spec.TrustBundle:
		have.Spec.TrustBundle = r.want.Spec.TrustBundle
		err = loop.IgnoreStale(r.client.Update(ctx, &have))
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	var all certificatesv1.ClusterTrustBundleList
	if err := r.client.List(ctx, &all); err != nil {
		return ctrl.Result{}, err
	}
	for _, b := range all.Items {
		if b.Spec.SignerName == r.want.Spec.SignerName && b.Name != r.want.Name {
			err = errors.Join(err, client.IgnoreNotFound(r.client.Delete(ctx, &b)))
		}
	}
	return ctrl.Result{}, err
}
