// SPDX-License-Identifier: Apache-2.0

// Package bootstrap owns what becomes of bootstrap tokens: each signs what the
// cluster says of itself to machines that join (kube-public/cluster-info), and
// goes when its time is over. They are bootstrapsigner and tokencleaner of
// kube-controller-manager 1.37.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstrapsecrets "k8s.io/cluster-bootstrap/util/secrets"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/auth"
	"github.com/peapod/peapod/controller/loop"
)

// Add adds both controllers to a manager. They hear of Secrets by their
// metadata, which the garbage collector follows anyway, and
// read the few that are tokens.
func Add(m manager.Manager, c loop.Config) error {
	secrets := &metav1.PartialObjectMetadata{}
	secrets.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	system := predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetNamespace() == metav1.NamespaceSystem })
	cleaning := ctrl.NewControllerManagedBy(m).Named("tokencleaner").For(secrets, builder.OnlyMetadata, builder.WithPredicates(system)).
		Complete(cleaner{c.Client})

	about := client.ObjectKey{Namespace: metav1.NamespacePublic, Name: bootstrapapi.ConfigMapClusterInfo}
	isAbout := predicate.NewPredicateFuncs(func(o client.Object) bool { return client.ObjectKeyFromObject(o) == about })
	sign := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: about}}
	})
	signing := ctrl.NewControllerManagedBy(m).Named("bootstrapsigner").For(&corev1.ConfigMap{}, builder.WithPredicates(isAbout)).
		WatchesMetadata(secrets, sign, builder.WithPredicates(system)).
		Complete(reconcile.AsReconciler(m.GetClient(), signer{c.Client}))
	return errors.Join(cleaning, signing)
}

// cleaner deletes tokens whose time is over.
type cleaner struct{ client kubernetes.Interface }

// Reconcile deletes a token, or comes back when it is to be deleted.
func (l cleaner) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	secrets := l.client.CoreV1().Secrets(q.Namespace)
	s, err := secrets.Get(ctx, q.Name, metav1.GetOptions{})
	if err != nil || s.Type != bootstrapapi.SecretTypeBootstrapToken {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	left, over := bootstrapsecrets.GetExpiration(s, time.Now())
	if !over {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	err = secrets.Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
	if apierrors.IsConflict(err) {
		err = nil // another of that name, which rings again
	}
	return reconcile.Result{}, client.IgnoreNotFound(err)
}

// signer keeps a signature of each token in cluster-info.
type signer struct{ client kubernetes.Interface }

// Reconcile writes the signatures of all tokens there are, and no others.
func (s signer) Reconcile(ctx context.Context, m *corev1.ConfigMap) (reconcile.Result, error) {
	content, there := m.Data[bootstrapapi.KubeConfigKey]
	if !there {
		return reconcile.Result{}, nil
	}
	tokens, err := s.client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("type", string(bootstrapapi.SecretTypeBootstrapToken)).String(),
	})
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("cannot read the bootstrap tokens: %w", err)
	}
	want := signed(m.Data, content, tokens.Items, time.Now())
	if maps.Equal(want, m.Data) {
		return reconcile.Result{}, nil
	}
	m.Data = want
	_, err = s.client.CoreV1().ConfigMaps(m.Namespace).Update(ctx, m, metav1.UpdateOptions{})
	return reconcile.Result{}, client.IgnoreNotFound(err)
}

// signed is the data of cluster-info with the signatures of these tokens.
func signed(data map[string]string, content string, tokens []corev1.Secret, now time.Time) map[string]string {
	out := maps.Clone(data)
	maps.DeleteFunc(out, func(key, _ string) bool { return strings.HasPrefix(key, bootstrapapi.JWSSignatureKeyPrefix) })
	for i := range tokens {
		if id, secret, ok := auth.SigningToken(&tokens[i], now); ok {
			out[bootstrapapi.JWSSignatureKeyPrefix+id] = auth.SignDetached(content, id, secret)
		}
	}
	return out
}
