// SPDX-License-Identifier: Apache-2.0

package owned

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The past of a workload that makes its Pods itself is a row of
// ControllerRevisions: each holds a template, as a patch that brings it back.

// Revisions are those of owner, the oldest first. Orphans are taken over.
func (o Owning) Revisions(ctx context.Context, owner client.Object, selector labels.Selector) ([]*appsv1.ControllerRevision, error) {
	var list appsv1.ControllerRevisionList
	if err := o.Client.List(ctx, &list, client.InNamespace(owner.GetNamespace())); err != nil {
		return nil, err
	}
	var out []*appsv1.ControllerRevision
	for i := range list.Items {
		if selector.Matches(labels.Set(list.Items[i].Labels)) {
			out = append(out, &list.Items[i])
		}
	}
	// Revisions that match no more are left to whom they belong.
	out, err := Claim(ctx, o, owner, func(*appsv1.ControllerRevision) bool { return true }, out)
	slices.SortFunc(out, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	return out, err
}

// PatchOf is the data of a revision.
func PatchOf(t *corev1.PodTemplateSpec) ([]byte, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	var template map[string]any
	if err := json.Unmarshal(b, &template); err != nil {
		return nil, err
	}
	template["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": template}})
}

// TemplateOf is the template that a revision brings back.
func TemplateOf(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var data struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &data); err != nil {
		return nil, fmt.Errorf("cannot read revision %s/%s: %w", r.Namespace, r.Name, err)
	}
	return &data.Spec.Template, nil
}

// revisionHash is that of the data, and of the number of collisions.
func revisionHash(data []byte, collisions *int32) string {
	h := fnv.New32()
	h.Write(data)
	if collisions != nil {
		h.Write(strconv.AppendInt(nil, int64(*collisions), 10))
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

func revisionName(owner, hash string) string { return owner[:min(len(owner), 223)] + "-" + hash }

// NewRevision is a revision without a name.
func (o Owning) NewRevision(owner client.Object, t *corev1.PodTemplateSpec, number int64) (*appsv1.ControllerRevision, error) {
	data, err := PatchOf(t)
	if err != nil {
		return nil, err
	}
	r := &appsv1.ControllerRevision{Revision: number, Data: runtime.RawExtension{Raw: data}}
	r.Namespace, r.Labels, r.Annotations = owner.GetNamespace(), maps.Clone(t.Labels), maps.Clone(owner.GetAnnotations())
	r.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, o.Gvk)}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	return r, nil
}

// createRevision gives a revision its name and makes it. Where another has the
// name, the count of collisions makes another.
func (o Owning) createRevision(ctx context.Context, owner client.Object, r *appsv1.ControllerRevision, collisions *int32) (*appsv1.ControllerRevision, error) {
	r.Labels[appsv1.ControllerRevisionHashLabelKey] = revisionHash(r.Data.Raw, collisions)
	for {
		made := r.DeepCopy()
		made.Name = revisionName(owner.GetName(), revisionHash(r.Data.Raw, collisions))
		if made, err := o.TryRevision(ctx, made); made != nil || err != nil {
			return made, err
		}
		*collisions++
	}
}

// TryRevision makes a revision, or finds it made. It is nil when another has
// the name.
func (o Owning) TryRevision(ctx context.Context, r *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	err := o.Client.Create(ctx, r)
	if !apierrors.IsAlreadyExists(err) {
		return r, err
	}
	have := &appsv1.ControllerRevision{}
	if err := o.Live.Get(ctx, client.ObjectKeyFromObject(r), have); err != nil || !bytes.Equal(have.Data.Raw, r.Data.Raw) {
		return nil, err
	}
	return have, nil
}

// Present is the revision of the template that owner has now: the newest, if it
// is the same; an older one, which becomes the newest; or a new one.
func (o Owning) Present(ctx context.Context, owner client.Object, t *corev1.PodTemplateSpec, past []*appsv1.ControllerRevision, collisions *int32, asNow func(*corev1.PodTemplateSpec)) (*appsv1.ControllerRevision, error) {
	number := int64(1)
	if len(past) > 0 {
		number = past[len(past)-1].Revision + 1
	}
	r, err := o.NewRevision(owner, t, number)
	if err != nil {
		return nil, err
	}
	for i := len(past) - 1; i >= 0; i-- {
		same := past[i]
		if !bytes.Equal(same.Data.Raw, r.Data.Raw) {
			continue
		}
		if i < len(past)-1 {
			same.Revision = number
			err = o.Client.Update(ctx, same)
		}
		return same, err
	}
	if len(past) > 0 {
		// One that an older version wrote may lack what is filled in today.
		last := past[len(past)-1]
		if was, err := TemplateOf(last); err == nil {
			asNow(was)
			if again, err := PatchOf(was); err == nil && bytes.Equal(again, r.Data.Raw) {
				return last, nil
			}
		}
	}
	return o.createRevision(ctx, owner, r, collisions)
}
