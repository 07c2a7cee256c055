// SPDX-License-Identifier: Apache-2.0

package garbage

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// customResources brings the kinds of CustomResourceDefinitions into the graph
// when they are established, and takes them out when their definition is gone.
// Definitions are large: the cache has only their metadata.
type customResources struct {
	definitions apiextensions.CustomResourceDefinitionInterface
	all         *Everything
	// kinds are those followed, by the name of their definition; there is one
	// worker.
	kinds map[string]schema.GroupVersionKind
}

func addCustomResources(m manager.Manager, all *Everything) error {
	client, err := apiextensions.NewForConfig(m.GetConfig())
	if err != nil {
		return err
	}
	definition := &metav1.PartialObjectMetadata{}
	definition.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	r := customResources{client.CustomResourceDefinitions(), all, map[string]schema.GroupVersionKind{}}
	return ctrl.NewControllerManagedBy(m).Named("customresources").For(definition, builder.OnlyMetadata).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1}).Complete(r)
}

func (r customResources) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	select {
	case <-r.all.started:
	case <-ctx.Done():
		return reconcile.Result{}, ctx.Err()
	}
	d, err := r.definitions.Get(ctx, q.Name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("cannot read the definition %s: %w", q.Name, err)
	}
	have, want := r.kinds[q.Name], schema.GroupVersionKind{}
	if err == nil {
		want = served(d)
	}
	if have == want {
		return reconcile.Result{}, nil
	}
	if !have.Empty() {
		if err := r.all.forget(ctx, have.GroupKind()); err != nil {
			return reconcile.Result{}, fmt.Errorf("cannot forget %s: %w", have.GroupKind(), err)
		}
		delete(r.kinds, q.Name)
	}
	if want.Empty() {
		return reconcile.Result{}, nil
	}
	if err := r.all.follow(ctx, want); err != nil {
		return reconcile.Result{}, fmt.Errorf("cannot follow %s: %w", want.GroupKind(), err)
	}
	r.kinds[q.Name] = want
	return reconcile.Result{}, nil
}

// served is the kind of a definition in the version that discovery prefers, or
// nothing while there is none.
func served(d *apiextensionsv1.CustomResourceDefinition) schema.GroupVersionKind {
	if !apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established) {
		return schema.GroupVersionKind{}
	}
	var names []string
	for _, v := range d.Spec.Versions {
		if v.Served {
			names = append(names, v.Name)
		}
	}
	if len(names) == 0 {
		return schema.GroupVersionKind{}
	}
	preferred := slices.MaxFunc(names, version.CompareKubeAwareVersionStrings)
	return schema.GroupVersionKind{Group: d.Spec.Group, Version: preferred, Kind: d.Status.AcceptedNames.Kind}
}

// follow takes a kind into the graph. Whoever named an owner of that kind could
// not be judged before.
func (e *Everything) follow(ctx context.Context, kind schema.GroupVersionKind) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.watch(ctx, kind); err != nil {
		return err
	}
	for _, uid := range e.graph.ownedBy(kind.GroupKind()) {
		e.queue.Add(uid)
	}
	return nil
}

// forget takes a kind out of the graph that is no longer served.
func (e *Everything) forget(ctx context.Context, kind schema.GroupKind) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	example := e.kinds[kind]
	if example == nil {
		return nil
	}
	if err := e.cache.RemoveInformer(ctx, example); err != nil {
		return err
	}
	delete(e.kinds, kind)
	for _, uid := range e.graph.of(kind) {
		for _, dependent := range e.graph.remove(uid) {
			e.queue.Add(dependent)
		}
	}
	return nil
}
