// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
)

// scaleAccess reaches the replica counts of a kind.
type scaleAccess struct {
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
	done, _, err := s.main.Update(ctx, name, rest.DefaultUpdatedObjectInfo(nil, whole.transform), rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, o)
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

func (u scaledObject) transform(ctx context.Context, _, old runtime.Object) (runtime.Object, error) {
	was, err := u.scaleOf(old)
	if err != nil {
		return nil, err
	}
	changed, err := u.info.UpdatedObject(ctx, was)
	if err != nil {
		return nil, err
	}
	scale, ok := changed.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("wrong object passed to Scale update: %T", changed))
	}
	if scale.Spec.Replicas < 0 {
		errs := field.ErrorList{field.Invalid(field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0").WithOrigin("minimum")}
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), u.name, errs)
	}
	if u.update != nil {
		if err := u.update(ctx, scale, was); err != nil {
			return nil, err
		}
	}
	out := old.DeepCopyObject()
	u.access.set(out, scale.Spec.Replicas)
	if scale.ResourceVersion != "" {
		out.(object).SetResourceVersion(scale.ResourceVersion)
	}
	return out, nil
}

func (s scaleStore) ConvertToTable(ctx context.Context, o, options runtime.Object) (*metav1.Table, error) {
	return rest.NewDefaultTableConvertor(schema.GroupResource{Resource: "scales", Group: "autoscaling"}).ConvertToTable(ctx, o, options)
}
