// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
)

// members are the Pods of one StatefulSet at one look: those that it is to
// have, by their ordinals, of which some are yet to be made, and the others
// that have to go, the highest first.
type members struct {
	statefulSets
	set             *appsv1.StatefulSet
	now             time.Time
	past            []*appsv1.ControllerRevision
	current, target *appsv1.ControllerRevision
	wanted, surplus []*corev1.Pod
	status          appsv1.StatefulSetStatus
}

// parentOf is the set that a Pod's name says, and its ordinal; -1 is none.
func parentOf(name string) (parent string, ordinal int) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return "", -1
	}
	digits := name[i+1:]
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return "", -1
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil {
		n = -1
	}
	return name[:i], int(n)
}

func ordinalOf(p *corev1.Pod) int {
	_, n := parentOf(p.Name)
	return n
}

func startOf(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

// hasOrdinal says whether the set is to have a Pod of that ordinal.
func hasOrdinal(set *appsv1.StatefulSet, ordinal int) bool {
	start := startOf(set)
	return ordinal >= start && ordinal < start+int(*set.Spec.Replicas)
}

func made(p *corev1.Pod) bool   { return p.Status.Phase != "" }
func ending(p *corev1.Pod) bool { return p.DeletionTimestamp != nil }
func revisionLabel(p *corev1.Pod) string {
	return p.Labels[appsv1.StatefulSetRevisionLabel]
}

// place puts the Pods in their places, and Pods to be made in those that are
// empty.
func (m *members) place(pods []*corev1.Pod) error {
	start := startOf(m.set)
	m.wanted = make([]*corev1.Pod, *m.set.Spec.Replicas)
	for _, p := range pods {
		switch n := ordinalOf(p); {
		case hasOrdinal(m.set, n):
			m.wanted[n-start] = p
		case n >= 0:
			m.surplus = append(m.surplus, p)
		}
	}
	slices.SortFunc(m.surplus, func(a, b *corev1.Pod) int { return cmp.Compare(ordinalOf(b), ordinalOf(a)) })
	for i, p := range m.wanted {
		if p != nil {
			continue
		}
		var err error
		if m.wanted[i], err = m.fresh(start + i); err != nil {
			return err
		}
	}
	return nil
}

// fresh is a Pod to be made: of the current revision as long as its turn to be
// updated has not come.
func (m *members) fresh(ordinal int) (*corev1.Pod, error) {
	revision, u := m.target, m.set.Spec.UpdateStrategy
	rolls := u.Type == appsv1.RollingUpdateStatefulSetStrategyType
	before := startOf(m.set)
	switch {
	case u.RollingUpdate != nil:
		before += int(*u.RollingUpdate.Partition)
		rolls = true
	default:
		before += int(m.set.Status.CurrentReplicas)
	}
	if rolls && ordinal < before {
		revision = m.current
	}
	t, err := owned.TemplateOf(revision)
	if err != nil {
		return nil, err
	}
	p := owned.PodFor(m.set, m.Gvk, t)
	p.GenerateName, p.Name = "", fmt.Sprintf("%s-%d", m.set.Name, ordinal)
	identify(p)
	p.Labels[appsv1.StatefulSetRevisionLabel] = revision.Name
	p.Spec.Hostname, p.Spec.Subdomain = p.Name, m.set.Spec.ServiceName
	m.giveVolumes(p)
	return p, nil
}

// identify writes on a Pod who it is.
func identify(p *corev1.Pod) {
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[appsv1.StatefulSetPodNameLabel] = p.Name
	p.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinalOf(p))
}

func (m *members) available(p *corev1.Pod) bool {
	return owned.LongReady(p, m.set.Spec.MinReadySeconds, m.now)
}

func (m *members) unavailable(p *corev1.Pod) bool { return !m.available(p) || ending(p) }

// count sums up the Pods.
func (m *members) count() {
	s := &m.status
	s.Replicas, s.ReadyReplicas, s.AvailableReplicas, s.CurrentReplicas, s.UpdatedReplicas = 0, 0, 0, 0, 0
	for _, p := range slices.Concat(m.wanted, m.surplus) {
		if !made(p) {
			continue
		}
		s.Replicas++
		if p.Status.Phase == corev1.PodRunning && pod.Ready(p) {
			s.ReadyReplicas++
			if m.available(p) {
				s.AvailableReplicas++
			}
		}
		if ending(p) {
			continue
		}
		if revisionLabel(p) == m.current.Name {
			s.CurrentReplicas++
		}
		if revisionLabel(p) == m.target.Name {
			s.UpdatedReplicas++
		}
	}
}

// complete ends an update that has reached all.
func (m *members) complete() {
	s, n := &m.status, *m.set.Spec.Replicas
	if s.UpdatedReplicas == n && s.ReadyReplicas == n && s.Replicas == n {
		s.CurrentReplicas, s.CurrentRevision = s.UpdatedReplicas, s.UpdateRevision
	}
}

// update makes what is missing, in order and waiting for each before the next
// unless the set is parallel; then takes away what is too much; then replaces
// what is of an older revision.
func (m *members) update(ctx context.Context) error {
	ordered := m.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
	for _, step := range []struct {
		pods []*corev1.Pod
		do   func(context.Context, *corev1.Pod, bool) (wait bool, err error)
	}{{m.wanted, m.keep}, {m.surplus, m.keepClaims}, {m.surplus, m.dismiss}} {
		wait, err := m.each(step.pods, ordered, func(p *corev1.Pod) (bool, error) { return step.do(ctx, p, ordered) })
		if wait || err != nil {
			m.count()
			return err
		}
	}
	m.count()
	if m.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return nil
	}
	return m.replace(ctx, ordered)
}

// each does something for Pod after Pod until one has to be waited for, or for
// all of them together.
func (m *members) each(pods []*corev1.Pod, ordered bool, do func(*corev1.Pod) (bool, error)) (wait bool, err error) {
	if !ordered {
		err := owned.SlowStart(len(pods), func(i int) error {
			_, err := do(pods[i])
			return err
		})
		return err != nil, err
	}
	for _, p := range pods {
		if wait, err := do(p); wait || err != nil {
			return true, err
		}
	}
	return false, nil
}

// keep makes a Pod that is missing, and one that is over goes; a living one is
// put right.
func (m *members) keep(ctx context.Context, p *corev1.Pod, ordered bool) (wait bool, err error) {
	switch {
	case pod.Terminal(p) && !ending(p):
		return true, m.delete(ctx, p)
	case pod.Terminal(p):
		return true, nil // its name is free when it is gone
	case !made(p):
		if stale, err := m.staleClaim(ctx, p); stale || err != nil {
			return true, err
		}
		return ordered, m.make(ctx, p)
	}
	if p.Status.Phase == corev1.PodPending {
		if err := m.makeClaims(ctx, p); err != nil {
			return true, err
		}
		if err := m.ownClaims(ctx, p); err != nil {
			m.tell("update", p, err)
			return true, err
		}
	}
	if ordered && (m.unavailable(p) || p.Status.Phase != corev1.PodRunning) {
		return true, nil
	}
	owned, err := m.claimsOwned(ctx, p)
	if err != nil {
		owned = true
	}
	if p.Labels[appsv1.StatefulSetPodNameLabel] == p.Name && m.hasVolumes(p) && owned {
		return false, nil
	}
	return false, m.mend(ctx, p)
}

// keepClaims gives the claims of a Pod that has to go to whom they belong.
func (m *members) keepClaims(ctx context.Context, p *corev1.Pod, _ bool) (bool, error) {
	return false, m.ownClaims(ctx, p)
}

// dismiss deletes a Pod that is too much. In order, those before it have to be
// well, but for the first that is not, which may be this one.
func (m *members) dismiss(ctx context.Context, p *corev1.Pod, ordered bool) (wait bool, err error) {
	if ending(p) {
		return ordered, nil
	}
	if ordered && (!m.available(p) || p.Status.Phase != corev1.PodRunning) && p != m.firstUnavailable() {
		return true, nil
	}
	return true, m.delete(ctx, p)
}

func (m *members) firstUnavailable() *corev1.Pod {
	for _, p := range m.wanted {
		if m.unavailable(p) {
			return p
		}
	}
	for _, p := range slices.Backward(m.surplus) {
		if m.unavailable(p) {
			return p
		}
	}
	return nil
}

// replace deletes Pods of older revisions from the highest ordinal down to the
// partition, as many as may be missing.
func (m *members) replace(ctx context.Context, ordered bool) error {
	least, most := 0, 1
	if u := m.set.Spec.UpdateStrategy.RollingUpdate; u != nil {
		least = int(*u.Partition)
		n := *intstr.ValueOrDefault(u.MaxUnavailable, intstr.FromInt32(1))
		most = max(int(scaled(&n, *m.set.Spec.Replicas, false)), 1)
	}
	old := func(p *corev1.Pod) bool { return revisionLabel(p) != m.target.Name && !ending(p) }
	missing, idle := 0, 0
	for _, p := range m.wanted {
		if m.unavailable(p) {
			missing++
			if !ordered && old(p) {
				idle++
			}
		}
	}
	if missing >= most && idle == 0 {
		return nil
	}
	left := most - missing
	// Without an order, those that serve nobody anyway go first, and cost nothing.
	for i := len(m.wanted) - 1; i >= least && !ordered; i-- {
		if p := m.wanted[i]; old(p) && !m.available(p) {
			if err := m.leave(ctx, p); err != nil {
				return err
			}
		}
	}
	for i := len(m.wanted) - 1; i >= least && left > 0; i-- {
		if p := m.wanted[i]; old(p) && (ordered || m.available(p)) {
			if err := m.leave(ctx, p); err != nil {
				return err
			}
			left--
		}
	}
	return nil
}

func (m *members) leave(ctx context.Context, p *corev1.Pod) error {
	if err := m.delete(ctx, p); err != nil {
		return err
	}
	m.status.CurrentReplicas--
	return nil
}

// delete asks for the end of a Pod, with the time that it has to end.
func (m *members) delete(ctx context.Context, p *corev1.Pod) error {
	m.Expected.Removed(m.set, p)
	err := client.IgnoreNotFound(m.Client.Delete(ctx, p, client.Preconditions{UID: &p.UID}))
	if err != nil {
		m.Expected.Kept(m.set, p)
	}
	m.tell("delete", p, err)
	return err
}

// make makes a Pod and before it its claims.
func (m *members) make(ctx context.Context, p *corev1.Pod) error {
	if err := m.makeClaims(ctx, p); err != nil {
		m.tell("create", p, err)
		return err
	}
	err := m.Client.Create(ctx, p)
	switch {
	case apierrors.IsAlreadyExists(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return loop.IgnoreTerminating(err)
	case err == nil:
		m.Expected.Wrote(m.set, p)
		if err := m.ownClaims(ctx, p); err != nil {
			m.tell("update", p, err)
			return err
		}
	}
	m.tell("create", p, err)
	return err
}

// mend puts a living Pod right.
func (m *members) mend(ctx context.Context, p *corev1.Pod) error {
	p = p.DeepCopy() // it is the cache's
	identify(p)
	if !m.hasVolumes(p) {
		m.giveVolumes(p)
		if err := m.makeClaims(ctx, p); err != nil {
			m.tell("update", p, err)
			return err
		}
	}
	if err := m.ownClaims(ctx, p); err != nil {
		m.tell("update", p, err)
		return err
	}
	err := m.Client.Update(ctx, p)
	m.tell("update", p, err)
	return err
}

// tell records an event about a Pod.
func (m *members) tell(verb string, p *corev1.Pod, err error) {
	verb = strings.ToUpper(verb[:1]) + verb[1:]
	if err == nil {
		m.Events.Eventf(m.set, corev1.EventTypeNormal, "Successful"+verb, "%s Pod %s in StatefulSet %s successful", verb, p.Name, m.set.Name)
		return
	}
	m.Events.Eventf(m.set, corev1.EventTypeWarning, "Failed"+verb, "%s Pod %s in StatefulSet %s failed error: %s", verb, p.Name, m.set.Name, err)
}

// forget deletes the oldest revisions that no Pod has and that are more than
// the limit.
func (m *members) forget(ctx context.Context) (err error) {
	live := map[string]bool{m.current.Name: true, m.target.Name: true}
	for _, p := range slices.Concat(m.wanted, m.surplus) {
		live[revisionLabel(p)] = true
	}
	var idle []*appsv1.ControllerRevision
	for _, r := range m.past {
		if !live[r.Name] {
			idle = append(idle, r)
		}
	}
	limit := int(*m.set.Spec.RevisionHistoryLimit)
	if limit < 0 || len(idle) <= limit {
		return nil
	}
	for _, r := range idle[:len(idle)-limit] {
		err = errors.Join(err, client.IgnoreNotFound(m.Client.Delete(ctx, r)))
	}
	return err
}
