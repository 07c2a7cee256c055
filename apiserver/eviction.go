// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

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

// eviction is pods/eviction: a delete that asks the budgets of disruptions
// first.
type eviction struct {
	main *registry.Store
	all  *stores
}

// evictionTries bounds how often a Pod that changes meanwhile is looked at
// again.
const evictionTries = 20

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
	status, err := e.evict(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return status, nil
}

// evict deletes a Pod if its budget allows.
func (e eviction) evict(ctx context.Context, name string, options *metav1.DeleteOptions) (*metav1.Status, error) {
	done := &metav1.Status{Status: metav1.StatusSuccess}
	p, gone, err := e.evictFree(ctx, name, options)
	if gone || err != nil {
		return done, err
	}
	store := e.all.main[policyv1.Resource("poddisruptionbudgets")]
	budgets, err := budgetsOf(ctx, store, p)
	switch {
	case err != nil:
		return nil, err
	case len(budgets) == 0:
		return done, e.remove(ctx, name, options)
	case len(budgets) > 1:
		return &metav1.Status{Status: metav1.StatusFailure, Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.", Code: http.StatusInternalServerError}, nil
	}
	b := budgets[0]
	if !unhealthyMayGo(b, p) {
		take := func(b *policyv1.PodDisruptionBudget) error { return spend(b, name, time.Now()) }
		if err := update(ctx, store, b.Name, nil, options.DryRun, &policyv1.PodDisruptionBudget{}, take); err != nil {
			return nil, err
		}
		return done, e.remove(ctx, name, options)
	}
	// It may have become ready meanwhile, and then it counts.
	err = e.remove(ctx, name, atVersion(options, p.ResourceVersion))
	if apierrors.IsConflict(err) && !asksVersion(options) {
		return nil, inProgress(b.Name)
	}
	return done, err
}

// evictFree deletes a Pod that no budget keeps: one that is over, ending, or
// has not begun. The last only while that is so.
func (e eviction) evictFree(ctx context.Context, name string, options *metav1.DeleteOptions) (p *corev1.Pod, gone bool, err error) {
	for range evictionTries {
		found, getErr := e.main.Get(ctx, name, &metav1.GetOptions{})
		if getErr != nil {
			return nil, false, getErr
		}
		p = found.(*corev1.Pod)
		ended := pod.Terminal(p) || p.DeletionTimestamp != nil
		if !ended && p.Status.Phase != corev1.PodPending {
			return p, false, nil
		}
		as := options
		if !ended && !asksVersion(options) {
			as = atVersion(options, p.ResourceVersion)
		}
		if err = e.remove(ctx, name, as); err == nil {
			return p, true, nil
		}
		if !apierrors.IsConflict(err) || asksVersion(options) {
			return nil, false, err
		}
	}
	return nil, false, err // it changes all the time
}

func asksVersion(o *metav1.DeleteOptions) bool {
	return o.Preconditions != nil && o.Preconditions.ResourceVersion != nil
}

// atVersion are the options with the precondition that the Pod is as it was.
func atVersion(o *metav1.DeleteOptions, version string) *metav1.DeleteOptions {
	o = o.DeepCopy()
	if o.Preconditions == nil {
		o.Preconditions = &metav1.Preconditions{}
	}
	o.Preconditions.ResourceVersion = &version
	return o
}

// remove says in the Pod's conditions why it goes, and deletes it.
func (e eviction) remove(ctx context.Context, name string, options *metav1.DeleteOptions) error {
	options = options.DeepCopy()
	if !dryrun.IsDryRun(options.DryRun) {
		marked, err := e.mark(ctx, name, options.Preconditions)
		if err != nil {
			return err
		}
		if asksVersion(options) {
			options.Preconditions.ResourceVersion = &marked.ResourceVersion // the mark is our own change
		}
	}
	_, _, err := e.main.Delete(withGrace(ctx, options), name, rest.ValidateAllObjectFunc, options)
	return err
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
