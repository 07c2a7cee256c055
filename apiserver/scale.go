// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// scaleAccess reaches the replica counts of a kind.
type scaleAccess struct {
	gv  schema.GroupVersion // of the kind
	get func(runtime.Object) (spec *int32, status int32, selector *metav1.LabelSelector)
	set func(runtime.Object, int32)
}

// scaleStore serves /scale as autoscaling/v1 Scale over the kind's own store.
type scaleStore struct {
	main   *registry.Store
	access *scaleAccess
}

func (scaleStore) New() runtime.Object { return &autoscalingv1.Scale{} }
func (scaleStore) Destroy()            {}

func (scaleStore) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

func (s scaleStore) scaleOf(o runtime.Object) (*autoscalingv1.Scale, error) {
	m := o.(object)
	spec, status, selector := s.access.get(o)
	sel, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	out := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUID(), ResourceVersion: m.GetResourceVersion(), CreationTimestamp: m.GetCreationTimestamp()},
		Status:     autoscalingv1.ScaleStatus{Replicas: status, Selector: sel.String()},
	}
	if spec != nil {
		out.Spec.Replicas = *spec
	}
	return out, nil
}

func (s scaleStore) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	whole, err := s.main.Get(ctx, name, o)
	if err != nil {
		return nil, err
	}
	return s.scaleOf(whole)
}

func (s scaleStore) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	whole := scaledObject{s, info, update, name}
	done, _, err := s.main.Update(ctx, name, whole, rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, o)
	if err != nil {
		return nil, false, err
	}
	scale, err := s.scaleOf(done)
	return scale, false, err
}

// scaledObject turns an update of the Scale into one of the object behind it.
type scaledObject struct {
	scaleStore
	info   rest.UpdatedObjectInfo
	update rest.ValidateObjectUpdateFunc
	name   string
}

// Preconditions are those of the Scale.
func (u scaledObject) Preconditions() *metav1.Preconditions { return u.info.Preconditions() }

// UpdatedObject scales the object. What a manager owns of the Scale it owns of
// the object.
func (u scaledObject) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	out := old.DeepCopyObject().(object)
	was, err := u.scaleOf(out)
	if err != nil {
		return nil, err
	}
	owned := managedfields.NewScaleHandler(out.GetManagedFields(), u.access.gv, managedfields.ResourcePathMappings{u.access.gv.String(): fieldpath.MakePathOrDie("spec", "replicas")})
	if was.ManagedFields, err = owned.ToSubresource(); err != nil {
		return nil, err
	}
	changed, err := u.info.UpdatedObject(ctx, was)
	if err != nil {
		return nil, err
	}
	scale, ok := changed.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected input object type to be Scale, but %T", changed))
	}
	errs := metavalidation.ValidateManagedFields(scale.ManagedFields, field.NewPath("metadata", "managedFields"))
	if scale.Spec.Replicas < 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0").WithOrigin("minimum"))
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), u.name, errs)
	}
	if scale.UID != "" && scale.UID != out.GetUID() {
		part := u.main.DefaultQualifiedResource
		part.Resource += "/scale"
		return nil, apierrors.NewConflict(part, u.name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", scale.UID, out.GetUID())) //nolint:staticcheck // upstream's text
	}
	if u.update != nil {
		if err := u.update(ctx, scale, was); err != nil {
			return nil, err
		}
	}
	u.access.set(out, scale.Spec.Replicas)
	out.SetResourceVersion(scale.ResourceVersion)
	managers, err := owned.ToParent(scale.ManagedFields)
	if err != nil {
		return nil, err
	}
	out.SetManagedFields(managers)
	return out, nil
}

func (s scaleStore) ConvertToTable(ctx context.Context, o, options runtime.Object) (*metav1.Table, error) {
	return rest.NewDefaultTableConvertor(schema.GroupResource{Resource: "scales", Group: "autoscaling"}).ConvertToTable(ctx, o, options)
}
