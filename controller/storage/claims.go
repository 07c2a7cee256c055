// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	storagehelper "k8s.io/component-helpers/storage/volume"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	apiclaim "github.com/peapod/peapod/api/claim"
	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/volume"
)

// binder brings claims and volumes together, as the persistent volume
// controller of Kubernetes does. What it decides, it decides from the API
// itself: an old cache would give a claim two volumes.
//
//	claim   Pending ──▶ Bound ──▶ Lost
//	volume  Available ──▶ Bound ──▶ Released ──▶ deleted, or kept
type binder struct {
	client  client.Client
	live    client.Reader
	events  record.EventRecorder
	node    string
	folders *volume.Folders
}

func addVolumeBinder(m manager.Manager, c loop.Config) error {
	b := &binder{m.GetClient(), m.GetAPIReader(), m.GetEventRecorderFor("persistentvolume-controller"), c.NodeName, c.Folders}
	err := ctrl.NewControllerManagedBy(m).Named("persistentvolume-binder-claims").For(&corev1.PersistentVolumeClaim{}).
		Watches(&corev1.PersistentVolume{}, handler.EnqueueRequestsFromMapFunc(b.claimsOf)).
		Watches(&storagev1.StorageClass{}, handler.EnqueueRequestsFromMapFunc(b.waiting)).
		Complete(reconcile.Func(b.claim))
	if err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(m).Named("persistentvolume-binder-volumes").For(&corev1.PersistentVolume{}).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(b.volumesOf)).
		Complete(reconcile.Func(b.volume))
}

// claimsOf are the claims that a change of a volume is about: the one that it
// is kept for, or all that wait for one.
func (b *binder) claimsOf(ctx context.Context, o client.Object) []reconcile.Request {
	if r := o.(*corev1.PersistentVolume).Spec.ClaimRef; r != nil {
		return []reconcile.Request{{NamespacedName: client.ObjectKey{Namespace: r.Namespace, Name: r.Name}}}
	}
	return b.waiting(ctx, o)
}

// waiting are the claims without a volume.
func (b *binder) waiting(ctx context.Context, _ client.Object) (out []reconcile.Request) {
	var all corev1.PersistentVolumeClaimList
	if err := b.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is closing
	}
	for i := range all.Items {
		if !apiclaim.Bound(&all.Items[i]) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&all.Items[i])})
		}
	}
	return out
}

// volumesOf are the volumes that a change of a claim is about.
func (b *binder) volumesOf(ctx context.Context, o client.Object) (out []reconcile.Request) {
	var all corev1.PersistentVolumeList
	if err := b.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is closing
	}
	c := o.(*corev1.PersistentVolumeClaim)
	for i := range all.Items {
		v := &all.Items[i]
		if r := v.Spec.ClaimRef; v.Name == c.Spec.VolumeName || r != nil && r.Namespace == c.Namespace && r.Name == c.Name {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(v)})
		}
	}
	return out
}

// claim looks for a claim's volume, or after it.
func (b *binder) claim(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	c := &corev1.PersistentVolumeClaim{}
	if err := b.live.Get(ctx, r.NamespacedName, c); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if _, done := c.Annotations[storagehelper.AnnBindCompleted]; done {
		return reconcile.Result{}, b.bound(ctx, c)
	}
	if c.Spec.VolumeName != "" {
		return reconcile.Result{}, b.named(ctx, c)
	}
	return reconcile.Result{}, b.unbound(ctx, c)
}

// unbound finds a volume for a claim, or has one made.
func (b *binder) unbound(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	class, err := b.class(ctx, storagehelper.GetPersistentVolumeClaimClass(c))
	if err != nil {
		return err
	}
	v, err := b.best(ctx, c, apiclaim.Delayed(class))
	if err != nil {
		return err
	}
	if v != nil {
		return b.bind(ctx, v, c)
	}
	if given, err := b.giveClass(ctx, c); given || err != nil {
		return err
	}
	switch {
	case apiclaim.Delayed(class) && !storagehelper.IsDelayBindingProvisioning(c):
		if err := b.tellDelay(ctx, c); err != nil {
			return err
		}
	case storagehelper.GetPersistentVolumeClaimClass(c) != "":
		return b.provision(ctx, c, class)
	default:
		b.events.Event(c, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	}
	return b.phase(ctx, c, corev1.ClaimPending, nil)
}

// class finds a class; none is nil.
func (b *binder) class(ctx context.Context, name string) (*storagev1.StorageClass, error) {
	if name == "" {
		return nil, nil
	}
	class := &storagev1.StorageClass{}
	err := b.live.Get(ctx, client.ObjectKey{Name: name}, class)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return class, err
}

func (b *binder) best(ctx context.Context, c *corev1.PersistentVolumeClaim, delayed bool) (*corev1.PersistentVolume, error) {
	var all corev1.PersistentVolumeList
	if err := b.live.List(ctx, &all); err != nil {
		return nil, err
	}
	var list []*corev1.PersistentVolume
	for i := range all.Items {
		// Without a node the library leaves access modes to its caller.
		if v := &all.Items[i]; storagehelper.IsVolumeBoundToClaim(v, c) && v.Spec.ClaimRef != nil || storagehelper.CheckAccessModes(c, v) {
			list = append(list, v)
		}
	}
	v, err := storagehelper.FindMatchingVolume(c, list, nil, nil, delayed, true)
	if err != nil {
		return nil, fmt.Errorf("cannot find a volume for claim %s/%s: %w", c.Namespace, c.Name, err)
	}
	return v, nil
}

// giveClass gives a claim that names no class the default one, which there was
// not when it came.
func (b *binder) giveClass(ctx context.Context, c *corev1.PersistentVolumeClaim) (bool, error) {
	if storagehelper.PersistentVolumeClaimHasClass(c) {
		return false, nil
	}
	var all storagev1.StorageClassList
	if err := b.live.List(ctx, &all); err != nil {
		return false, err
	}
	var list []*storagev1.StorageClass
	for i := range all.Items {
		list = append(list, &all.Items[i])
	}
	first := apiclaim.Default(list)
	if first == nil {
		return false, nil
	}
	c.Spec.StorageClassName = &first.Name
	return true, b.client.Update(ctx, c)
}

// tellDelay says what a claim waits for.
func (b *binder) tellDelay(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	var all corev1.PodList
	if err := b.client.List(ctx, &all, client.InNamespace(c.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	var names []string
	for i := range all.Items {
		if p := &all.Items[i]; p.Spec.NodeName == "" && uses(p, c) {
			names = append(names, p.Name)
		}
	}
	switch len(names) {
	case 0:
		b.events.Event(c, corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case 1:
		b.events.Eventf(c, corev1.EventTypeNormal, "WaitForPodScheduled", "waiting for pod %s to be scheduled", names[0])
	default:
		b.events.Eventf(c, corev1.EventTypeNormal, "WaitForPodScheduled", "waiting for pods %s to be scheduled", strings.Join(names, ","))
	}
	return nil
}

// uses: a volume of the Pod is the claim's.
func uses(p *corev1.Pod, c *corev1.PersistentVolumeClaim) bool {
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if apiclaim.Of(p, v) == c.Name && (v.Ephemeral == nil || metav1.IsControlledBy(c, p)) {
			return true
		}
	}
	return false
}

// named looks whether a claim gets the volume that it names.
func (b *binder) named(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	v := &corev1.PersistentVolume{}
	switch err := b.live.Get(ctx, client.ObjectKey{Name: c.Spec.VolumeName}, v); {
	case apierrors.IsNotFound(err):
		return b.phase(ctx, c, corev1.ClaimPending, nil)
	case err != nil:
		return err
	case storagehelper.IsVolumeBoundToClaim(v, c):
		return b.bind(ctx, v, c)
	case v.Spec.ClaimRef != nil:
		b.events.Eventf(c, corev1.EventTypeWarning, "FailedBinding", "volume %q already bound to a different claim.", v.Name)
		return b.phase(ctx, c, corev1.ClaimPending, nil)
	}
	if err := apiclaim.Satisfies(v, c); err != nil {
		b.events.Eventf(c, corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind to requested volume %q: %s", v.Name, err)
		return b.phase(ctx, c, corev1.ClaimPending, nil)
	}
	return b.bind(ctx, v, c)
}

// bound looks whether a claim has its volume yet.
func (b *binder) bound(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	if c.Spec.VolumeName == "" {
		return b.lost(ctx, c, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	v := &corev1.PersistentVolume{}
	switch err := b.live.Get(ctx, client.ObjectKey{Name: c.Spec.VolumeName}, v); {
	case apierrors.IsNotFound(err):
		return b.lost(ctx, c, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case err != nil:
		return err
	case v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == c.UID:
		return b.bind(ctx, v, c)
	}
	return b.lost(ctx, c, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

func (b *binder) lost(ctx context.Context, c *corev1.PersistentVolumeClaim, reason, text string) error {
	if c.Status.Phase != corev1.ClaimLost {
		b.events.Event(c, corev1.EventTypeWarning, reason, text)
	}
	return b.phase(ctx, c, corev1.ClaimLost, nil)
}

// bind makes a volume and a claim know each other, one write after another;
// what is done already is not done again.
func (b *binder) bind(ctx context.Context, v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) error {
	kept, dirty, err := storagehelper.GetBindVolumeToClaim(v, c)
	if err != nil {
		return err
	}
	if dirty {
		if err := b.client.Update(ctx, kept); err != nil {
			return fmt.Errorf("cannot keep volume %s for claim %s/%s: %w", v.Name, c.Namespace, c.Name, err)
		}
	}
	if err := b.volumePhase(ctx, kept, corev1.VolumeBound, ""); err != nil {
		return err
	}
	if taken := c.DeepCopy(); take(taken, v.Name) {
		if err := b.client.Update(ctx, taken); err != nil {
			return fmt.Errorf("cannot give claim %s/%s its volume: %w", c.Namespace, c.Name, err)
		}
		c = taken
	}
	return b.phase(ctx, c, corev1.ClaimBound, kept)
}

// take gives a claim its volume. It says whether that is new.
func take(c *corev1.PersistentVolumeClaim, name string) bool {
	if apiclaim.Bound(c) && c.Spec.VolumeName == name {
		return false
	}
	if c.Spec.VolumeName != name {
		c.Spec.VolumeName = name
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, storagehelper.AnnBoundByController, "yes")
	}
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, storagehelper.AnnBindCompleted, "yes")
	return true
}

// phase writes the status of a claim, and what its volume gives it.
func (b *binder) phase(ctx context.Context, c *corev1.PersistentVolumeClaim, p corev1.PersistentVolumeClaimPhase, v *corev1.PersistentVolume) error {
	now := c.DeepCopy()
	if now.Status.Phase = p; v == nil {
		now.Status.AccessModes, now.Status.Capacity = nil, nil
	} else {
		now.Status.AccessModes = v.Spec.AccessModes
		if c.Status.Phase != corev1.ClaimBound || now.Status.Capacity == nil {
			now.Status.Capacity = v.Spec.Capacity // later ones are an expansion's
		}
		if name := v.Spec.VolumeAttributesClassName; name != nil && *name != "" && now.Status.CurrentVolumeAttributesClassName == nil {
			now.Status.CurrentVolumeAttributesClassName = name
		}
	}
	if equality.Semantic.DeepEqual(now.Status, c.Status) {
		return nil
	}
	return b.client.Status().Update(ctx, now)
}
