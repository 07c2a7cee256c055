// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/pod"
)

// eviction is pods/eviction: a delete that asks first. Without disruption
// budgets in the API there is nobody to say no.
type eviction struct{ main *registry.Store }

func (eviction) New() runtime.Object { return &policyv1.Eviction{} }
func (eviction) Destroy()            {}
func (eviction) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

// AcceptsGroupVersion says that the body is of another group than the Pod.
func (eviction) AcceptsGroupVersion(gv schema.GroupVersion) bool {
	return gv == policyv1.SchemeGroupVersion
}

// Create evicts a Pod.
func (e eviction) Create(ctx context.Context, name string, o runtime.Object, validate rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	ask, ok := o.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", o))
	}
	if name != ask.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	if ask.DeleteOptions == nil {
		ask.DeleteOptions = &metav1.DeleteOptions{}
	}
	options := ask.DeleteOptions
	if ptr.Deref(options.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		path := field.NewPath("deleteOptions").Child("ignoreStoreReadErrorWithClusterBreakingPotential")
		errs := field.ErrorList{field.Invalid(path, true, "can not be set for pod eviction, try after removing the option")}
		return nil, apierrors.NewInvalid(policyv1.SchemeGroupVersion.WithKind("Eviction").GroupKind(), name, errs)
	}
	switch {
	case len(options.DryRun) == 0:
		options.DryRun = opts.DryRun
	case len(opts.DryRun) > 0 && !slices.Equal(opts.DryRun, options.DryRun):
		return nil, fmt.Errorf("Non-matching dry-run options in request and content: %v and %v", opts.DryRun, options.DryRun) //nolint:staticcheck // upstream's text
	}
	if validate != nil {
		if err := validate(ctx, ask.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if !dryrun.IsDryRun(options.DryRun) {
		marked, err := e.mark(ctx, name, options.Preconditions)
		if err != nil {
			return nil, err
		}
		if p := options.Preconditions; p != nil && p.ResourceVersion != nil {
			p.ResourceVersion = &marked.ResourceVersion // the mark is our own change
		}
	}
	if _, _, err := e.main.Delete(withGrace(ctx, options), name, rest.ValidateAllObjectFunc, options); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// mark says in the Pod's conditions why it goes (KEP-3329).
func (e eviction) mark(ctx context.Context, name string, pre *metav1.Preconditions) (*corev1.Pod, error) {
	out := &corev1.Pod{}
	err := update(ctx, e.main, name, nil, nil, out, func(p *corev1.Pod) error {
		if err := evictable(p, pre); err != nil {
			return err
		}
		pod.SetCondition(&p.Status, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
		})
		return nil
	})
	return out, err
}

// evictable compares a Pod with the preconditions of its eviction.
func evictable(p *corev1.Pod, pre *metav1.Preconditions) error {
	kind := schema.GroupResource{Resource: "Pod"}
	switch {
	case pre == nil:
	case pre.UID != nil && *pre.UID != "" && *pre.UID != p.UID:
		return apierrors.NewConflict(kind, p.Name, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *pre.UID, p.UID))
	case pre.ResourceVersion != nil && *pre.ResourceVersion != "" && *pre.ResourceVersion != p.ResourceVersion:
		return apierrors.NewConflict(kind, p.Name, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *pre.ResourceVersion, p.ResourceVersion))
	}
	return nil
}
