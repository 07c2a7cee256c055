// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// podKind is what owns a claim that goes with its Pod.
var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

// claims are those that a Pod is to have, by the order of their templates. What
// is to go with the set is its own from the beginning: if it became so when the
// Pod is there, the scheduler would find each claim changed as it binds it.
func (m *members) claims(p *corev1.Pod) (out []*corev1.PersistentVolumeClaim) {
	for i := range m.set.Spec.VolumeClaimTemplates {
		c := m.set.Spec.VolumeClaimTemplates[i].DeepCopy()
		c.Name, c.Namespace = fmt.Sprintf("%s-%s-%d", c.Name, m.set.Name, ordinalOf(p)), m.set.Namespace
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		maps.Copy(c.Labels, m.set.Spec.Selector.MatchLabels)
		if set, _ := m.rightful(p); set && metav1.GetControllerOf(c) == nil {
			c.OwnerReferences = append(c.OwnerReferences, *metav1.NewControllerRef(m.set, m.Gvk))
		}
		out = append(out, c)
	}
	return out
}

// hasVolumes says whether the volumes of a Pod are its claims.
func (m *members) hasVolumes(p *corev1.Pod) bool {
	for i, c := range m.claims(p) {
		name := m.set.Spec.VolumeClaimTemplates[i].Name
		if !slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == name && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == c.Name
		}) {
			return false
		}
	}
	return true
}

// giveVolumes makes its claims volumes of a Pod, in place of others of the same
// names.
func (m *members) giveVolumes(p *corev1.Pod) {
	var volumes []corev1.Volume
	names := map[string]bool{}
	for i, c := range m.claims(p) {
		name := m.set.Spec.VolumeClaimTemplates[i].Name
		names[name] = true
		source := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name}}
		volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: source})
	}
	for _, v := range p.Spec.Volumes {
		if !names[v.Name] {
			volumes = append(volumes, v)
		}
	}
	p.Spec.Volumes = volumes
}

// makeClaims makes the claims that are missing.
func (m *members) makeClaims(ctx context.Context, p *corev1.Pod) (errs error) {
	for _, c := range m.claims(p) {
		have := &corev1.PersistentVolumeClaim{}
		err := m.Client.Get(ctx, client.ObjectKeyFromObject(c), have)
		switch {
		case apierrors.IsNotFound(err):
			if err = m.Client.Create(ctx, c); err != nil {
				errs = errors.Join(errs, fmt.Errorf("failed to create PVC %s: %w", c.Name, err))
			}
			if err == nil {
				m.Events.Eventf(m.set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", c.Name, p.Name, m.set.Name)
			} else if !apierrors.IsAlreadyExists(err) {
				m.Events.Eventf(m.set, corev1.EventTypeWarning, "FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %s", c.Name, p.Name, m.set.Name, err)
			}
		case err != nil:
			errs = errors.Join(errs, fmt.Errorf("failed to retrieve PVC %s: %w", c.Name, err))
		case have.DeletionTimestamp != nil:
			errs = errors.Join(errs, fmt.Errorf("pvc %s is being deleted", c.Name))
		}
	}
	return errs
}

// eachClaim calls f with the claims that are there.
func (m *members) eachClaim(ctx context.Context, p *corev1.Pod, f func(*corev1.PersistentVolumeClaim) error) error {
	for _, c := range m.claims(p) {
		have := &corev1.PersistentVolumeClaim{}
		if err := m.Client.Get(ctx, client.ObjectKeyFromObject(c), have); apierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			return err
		}
		if err := f(have); err != nil {
			return err
		}
	}
	return nil
}

func (m *members) retention() (whenDeleted, whenScaled bool) {
	p, remove := m.set.Spec.PersistentVolumeClaimRetentionPolicy, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	return p != nil && p.WhenDeleted == remove, p != nil && p.WhenScaled == remove
}

// staleClaim says whether a claim of a Pod that is to be made still goes away
// with the one before.
func (m *members) staleClaim(ctx context.Context, p *corev1.Pod) (stale bool, err error) {
	if _, scaled := m.retention(); !scaled {
		return false, nil
	}
	err = m.eachClaim(ctx, p, func(c *corev1.PersistentVolumeClaim) error {
		stale = stale || former(c, p, podKind)
		return nil
	})
	return stale, err
}

func (m *members) claimsOwned(ctx context.Context, p *corev1.Pod) (owned bool, err error) {
	owned = true
	err = m.eachClaim(ctx, p, func(c *corev1.PersistentVolumeClaim) error {
		owned = owned && m.owned(c, p)
		return nil
	})
	return owned, err
}

// ownClaims gives claims the owners that the policy says: the set, to go with
// it, or the Pod, when it is scaled away, to go with that.
func (m *members) ownClaims(ctx context.Context, p *corev1.Pod) error {
	return m.eachClaim(ctx, p, func(c *corev1.PersistentVolumeClaim) error {
		foreign := m.foreign(c, p)
		if foreign {
			m.Events.Eventf(m.set, corev1.EventTypeWarning, "ConflictingController", "PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim", c.Name)
		}
		if m.owned(c, p) {
			return nil
		}
		c.OwnerReferences = slices.DeleteFunc(c.OwnerReferences, func(ref metav1.OwnerReference) bool {
			return refersTo(&ref, m.set, m.Gvk) || refersTo(&ref, p, podKind)
		})
		if set, its := m.rightful(p); !foreign {
			if set {
				c.OwnerReferences = append(c.OwnerReferences, *metav1.NewControllerRef(m.set, m.Gvk))
			}
			if its {
				c.OwnerReferences = append(c.OwnerReferences, *metav1.NewControllerRef(p, podKind))
			}
		}
		if err := m.Client.Update(ctx, c); err != nil {
			return fmt.Errorf("could not update claim %s for delete policy ownerRefs: %w", c.Name, err)
		}
		return nil
	})
}

// rightful says who is to own the claims of a Pod.
func (m *members) rightful(p *corev1.Pod) (set, itself bool) {
	deleted, scaled := m.retention()
	away := scaled && !hasOrdinal(m.set, ordinalOf(p))
	return deleted && !away, away
}

// owned says whether a claim has its rightful owners, or others that are better
// not touched.
func (m *members) owned(c *corev1.PersistentVolumeClaim, p *corev1.Pod) bool {
	bySet, byPod := belongsTo(c, m.set), belongsTo(c, p)
	switch {
	case former(c, m.set, m.Gvk), former(c, p, podKind):
		return true // the garbage collector has it
	case m.foreign(c, p):
		return !bySet && !byPod
	}
	for _, ref := range c.OwnerReferences {
		if (ref.UID == m.set.UID || ref.UID == p.UID) && (ref.Controller == nil || !*ref.Controller) {
			return false
		}
	}
	set, itself := m.rightful(p)
	return bySet == set && byPod == itself
}

// foreign says whether somebody else controls a claim that a policy is about.
func (m *members) foreign(c *corev1.PersistentVolumeClaim, p *corev1.Pod) bool {
	if deleted, scaled := m.retention(); !deleted && !scaled {
		return false
	}
	return slices.ContainsFunc(c.OwnerReferences, func(ref metav1.OwnerReference) bool {
		switch {
		case refersTo(&ref, m.set, m.Gvk):
			return ref.UID != m.set.UID
		case refersTo(&ref, p, podKind):
			return ref.UID != p.UID
		}
		return ref.Controller != nil && *ref.Controller
	})
}

func belongsTo(c *corev1.PersistentVolumeClaim, o client.Object) bool {
	return slices.ContainsFunc(c.OwnerReferences, func(ref metav1.OwnerReference) bool { return ref.UID == o.GetUID() })
}

// refersTo says whether a reference is to an object of that name and kind.
func refersTo(ref *metav1.OwnerReference, o client.Object, gvk schema.GroupVersionKind) bool {
	return ref.APIVersion == gvk.GroupVersion().String() && ref.Kind == gvk.Kind && ref.Name == o.GetName()
}

// former says whether a claim belongs to another of the same name.
func former(c *corev1.PersistentVolumeClaim, o client.Object, gvk schema.GroupVersionKind) bool {
	i := slices.IndexFunc(c.OwnerReferences, func(ref metav1.OwnerReference) bool { return refersTo(&ref, o, gvk) })
	return i >= 0 && c.OwnerReferences[i].UID != o.GetUID()
}
