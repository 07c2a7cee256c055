// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/dump"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// What a Deployment writes on its ReplicaSets, and on itself, of the past.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	// longestHistory bounds the list of revisions that one ReplicaSet has been.
	longestHistory = 2000
)

// own says which annotations are not taken over by ReplicaSets.
func own(key string) bool {
	switch key {
	case corev1.LastAppliedConfigAnnotation, revisionAnnotation, historyAnnotation, desiredAnnotation, maxAnnotation, appsv1.DeprecatedRollbackTo:
		return true
	}
	return false
}

// sameTemplate compares without the hash, which only ReplicaSets have.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(a, b)
}

// templateHash is the pod-template-hash: of all fields of the template, and of
// the number of collisions so far.
func templateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	h.Write([]byte(dump.ForHash(*t)))
	if collisions != nil {
		// Eight bytes, of which four are zero, as Kubernetes has always hashed it.
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(uint32(*collisions))))
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// revisionOf is the revision of a ReplicaSet; none is 0, nonsense an error.
func revisionOf(s *appsv1.ReplicaSet) (int64, error) {
	v, ok := s.Annotations[revisionAnnotation]
	if !ok {
		return 0, nil
	}
	return strconv.ParseInt(v, 10, 64)
}

// revise gives the current ReplicaSet the newest revision and the Deployment
// the same; with create it makes the ReplicaSet if there is none.
func (o *rollout) revise(ctx context.Context, create bool) error {
	next := int64(1)
	for _, s := range o.old {
		if n, err := revisionOf(s); err == nil {
			next = max(next, n+1)
		}
	}
	if o.current == nil {
		if !create {
			return nil
		}
		return o.create(ctx, next)
	}
	if changed := annotate(o.d, o.current, next); changed || o.current.Spec.MinReadySeconds != o.d.Spec.MinReadySeconds {
		o.current.Spec.MinReadySeconds = o.d.Spec.MinReadySeconds
		if err := o.Client.Update(ctx, o.current); err != nil {
			return err
		}
	}
	o.setRevision(o.current.Annotations[revisionAnnotation])
	if hasDeadline(o.d) && deploymentCondition(&o.d.Status, appsv1.DeploymentProgressing) == nil {
		o.progressing(corev1.ConditionTrue, setFound, fmt.Sprintf("Found new replica set %q", o.current.Name))
	}
	return nil
}

func (o *rollout) setRevision(v string) {
	if o.d.Annotations == nil {
		o.d.Annotations = map[string]string{}
	}
	o.d.Annotations[revisionAnnotation] = v
}

// annotate copies the Deployment's annotations to the current ReplicaSet and
// gives it the newest revision. One that was a revision before keeps the list
// of them.
func annotate(d *appsv1.Deployment, s *appsv1.ReplicaSet, next int64) (changed bool) {
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	for k, v := range d.Annotations {
		if have, ok := s.Annotations[k]; !own(k) && (!ok || have != v) {
			s.Annotations[k] = v
			changed = true
		}
	}
	was, had := s.Annotations[revisionAnnotation]
	n, err := strconv.ParseInt(cmp.Or(was, "0"), 10, 64)
	if err != nil {
		return false
	}
	if n >= next {
		return changed
	}
	s.Annotations[revisionAnnotation] = strconv.FormatInt(next, 10)
	if had {
		remember(s, was)
	}
	return true
}

// remember adds a revision to the list of a ReplicaSet, and drops the oldest
// that make it too long.
func remember(s *appsv1.ReplicaSet, revision string) {
	list := s.Annotations[historyAnnotation]
	if list == "" || strings.HasPrefix(list, ",") {
		s.Annotations[historyAnnotation] = revision
		return
	}
	past, total := strings.Split(list, ","), len(list)+len(revision)+1
	for total > longestHistory && len(past) > 0 {
		total -= len(past[0]) + 1
		past = past[1:]
	}
	if total <= longestHistory {
		s.Annotations[historyAnnotation] = strings.Join(append(past, revision), ",")
	}
}

// create makes the current ReplicaSet. Its name says its template; when
// another one has it, the hash has collided, and the next look tries another.
func (o *rollout) create(ctx context.Context, revision int64) error {
	s := o.newSet()
	n := grown(o.d, append(slices.Clone(o.old), s), 0)
	s.Spec.Replicas = &n
	annotate(o.d, s, revision)
	mark(o.d, s)
	err := o.Client.Create(ctx, s)
	switch {
	case apierrors.IsAlreadyExists(err):
		if s, err = o.twin(ctx, s.Name, err); err != nil {
			return err
		}
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return err
	case err != nil:
		message := fmt.Sprintf("Failed to create new replica set %q: %v", s.Name, err)
		o.Events.Event(o.d, corev1.EventTypeWarning, setFailed, message)
		if hasDeadline(o.d) {
			o.progressing(corev1.ConditionFalse, setFailed, message)
			_ = o.write(ctx) // the first error is the one to tell
		}
		return err
	default:
		if n > 0 {
			o.Events.Eventf(o.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", s.Name, n)
		}
		if hasDeadline(o.d) {
			o.progressing(corev1.ConditionTrue, setCreated, fmt.Sprintf("Created new replica set %q", s.Name))
		}
	}
	o.current = s
	o.setRevision(strconv.FormatInt(revision, 10))
	return nil
}

func (o *rollout) newSet() *appsv1.ReplicaSet {
	template := o.d.Spec.Template.DeepCopy()
	hash := templateHash(template, o.d.Status.CollisionCount)
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	name := o.d.Name
	if most := validation.DNS1123SubdomainMaxLength - len("-") - len(hash); len(name) > most {
		name = name[:most]
	}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: name + "-" + hash, Namespace: o.d.Namespace, Labels: maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(o.d, o.Gvk)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: new(int32), MinReadySeconds: o.d.Spec.MinReadySeconds, Template: *template,
			Selector: metav1.AddLabelToSelector(o.d.Spec.Selector.DeepCopy(), appsv1.DefaultDeploymentUniqueLabelKey, hash),
		},
	}
}

// twin is the ReplicaSet that has the name of the new one. It is the current
// one if it is ours and of the same template: the cache was late.
func (o *rollout) twin(ctx context.Context, name string, exists error) (*appsv1.ReplicaSet, error) {
	s := &appsv1.ReplicaSet{}
	if err := o.Live.Get(ctx, client.ObjectKey{Namespace: o.d.Namespace, Name: name}, s); err != nil {
		return nil, err
	}
	if metav1.IsControlledBy(s, o.d) && sameTemplate(&o.d.Spec.Template, &s.Spec.Template) {
		return s, nil
	}
	n := int32(1)
	if c := o.d.Status.CollisionCount; c != nil {
		n += *c
	}
	o.d.Status.CollisionCount = &n
	_ = o.write(ctx) // and then the name is tried again with it, or found taken again
	return nil, exists
}

// forgetOld deletes the oldest ReplicaSets that are more than the limit and
// have no Pods.
func (o *rollout) forgetOld(ctx context.Context) error {
	limit := o.d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return nil
	}
	var past []*appsv1.ReplicaSet
	for _, s := range o.old {
		if s.DeletionTimestamp == nil {
			past = append(past, s)
		}
	}
	slices.SortFunc(past, func(a, b *appsv1.ReplicaSet) int {
		x, errX := revisionOf(a)
		y, errY := revisionOf(b)
		if errX != nil || errY != nil || x == y {
			return byAge(a, b)
		}
		return cmp.Compare(x, y)
	})
	for _, s := range past[:max(len(past)-int(*limit), 0)] {
		if s.Status.Replicas != 0 || *s.Spec.Replicas != 0 || s.Generation > s.Status.ObservedGeneration {
			continue
		}
		if err := o.Client.Delete(ctx, s, client.PropagationPolicy(metav1.DeletePropagationBackground), client.Preconditions{UID: &s.UID}); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// rollbackTo is the revision that an older client orders to go back to; 0 is
// the last one. Clients of today write the template themselves.
func rollbackTo(d *appsv1.Deployment) *int64 {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedRollbackTo], 10, 64)
	if err != nil {
		return nil
	}
	return &n
}

// rollBack gives the Deployment the template and annotations of a former
// revision, and takes the order away.
func (o *rollout) rollBack(ctx context.Context) error {
	if err := o.revise(ctx, true); err != nil {
		return err
	}
	if err := o.write(ctx); err != nil {
		return err
	}
	to, all := *rollbackTo(o.d), o.all()
	if to == 0 {
		if to = lastRevision(all); to == 0 {
			o.Events.Event(o.d, corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find last revision.")
			return o.drop(ctx, nil)
		}
	}
	i := slices.IndexFunc(all, func(s *appsv1.ReplicaSet) bool { n, err := revisionOf(s); return err == nil && n == to })
	switch {
	case i < 0:
		o.Events.Event(o.d, corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find the revision to rollback to.")
		return o.drop(ctx, nil)
	case sameTemplate(&o.d.Spec.Template, &all[i].Spec.Template):
		o.Events.Eventf(o.d, corev1.EventTypeWarning, "DeploymentRollbackTemplateUnchanged", "The rollback revision contains the same template as current deployment %q", o.d.Name)
		return o.drop(ctx, nil)
	}
	if err := o.drop(ctx, all[i]); err != nil {
		return err
	}
	o.Events.Eventf(o.d, corev1.EventTypeNormal, "DeploymentRollback", "Rolled back deployment %q to revision %d", o.d.Name, to)
	return nil
}

// drop takes the order away, and with it takes over what s was.
func (o *rollout) drop(ctx context.Context, s *appsv1.ReplicaSet) error {
	if s != nil {
		o.d.Spec.Template = *s.Spec.Template.DeepCopy()
		delete(o.d.Spec.Template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
		maps.DeleteFunc(o.d.Annotations, func(k, _ string) bool { return !own(k) })
		for k, v := range s.Annotations {
			if !own(k) {
				o.d.Annotations[k] = v
			}
		}
	}
	delete(o.d.Annotations, appsv1.DeprecatedRollbackTo)
	if err := o.Client.Update(ctx, o.d); err != nil {
		return err
	}
	o.was = o.d.DeepCopy()
	return nil
}

// lastRevision is the one before the newest, or 0.
func lastRevision(all []*appsv1.ReplicaSet) int64 {
	var list []int64
	for _, s := range all {
		if n, err := revisionOf(s); err == nil {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	if len(list) < 2 {
		return 0
	}
	return list[len(list)-2]
}
