// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"

	"github.com/peapod/peapod/api/pod"
)

const (
	noVictims   = "No preemption victims found for incoming pod"
	notHelpful  = "Preemption is not helpful for scheduling"
	never       = "not eligible due to preemptionPolicy=Never."
	terminating = "not eligible due to a terminating pod on the nominated node."
)

// candidate is a node on which a Pod would fit if the victims were gone.
type candidate struct {
	node       *nodeInfo
	victims    []*load // the most important first
	violations int     // how many of them a PodDisruptionBudget would keep
}

// preemption looks for Pods of lower priority that could make room for one that
// fits nowhere, as kube-scheduler's DefaultPreemption does. Without a candidate
// the words say why; keep is that the node the Pod waits for stays promised.
func preemption(w *wish, v *verdict, promised string) (c *candidate, words string, keep bool) {
	if p := w.pod.Spec.PreemptionPolicy; p != nil && *p == corev1.PreemptNever {
		return nil, never, true
	}
	for _, i := range v.empty {
		if i.node.Name == promised && slices.ContainsFunc(slices.Collect(maps.Values(i.pods)), func(l *load) bool { return leaves(l.pod) && lower(l, w) }) {
			return nil, terminating, true
		}
	}
	reasons := map[string]int{}
	var found []*candidate
	harmless := false
	for _, i := range fromAnywhere(v.empty) {
		if harmless && len(found) >= enough(len(v.empty)) {
			break
		}
		o := v.victims(w, i, promised)
		if o.candidate != nil {
			found = append(found, o.candidate)
			harmless = harmless || o.candidate.violations == 0
		}
		if o.by != nil {
			v.add(o.by) // what cures it makes room, too
		}
		for _, x := range o.why {
			reasons[x.text]++
		}
	}
	if len(found) > 0 {
		c = leastHarm(found)
		return c, fmt.Sprintf("found a potential placement for pod on node %v, preempting %d victims", c.node.node.Name, len(c.victims)), false
	}
	if n := v.total - len(v.empty); n > 0 {
		reasons[notHelpful] = n
	}
	return nil, available(v.total) + histogram(reasons) + ".", false
}

// victims are those of a node. What is promised to the Pod itself no class knows.
func (v *verdict) victims(w *wish, i *nodeInfo, promised string) *outcome {
	if v.class != nil && i.node.Name != promised {
		return v.class.victims(i)
	}
	o := victimsOn(w, &place{i, v.around, w}, v.known.budgets)
	return &o
}

// enough is how many candidates are compared, of which one must violate no
// budget: a tenth of the nodes, but a hundred (minCandidateNodesPercentage and
// minCandidateNodesAbsolute).
func enough(nodes int) int { return max(nodes/10, 100) }

// fromAnywhere begins at a random node, so that not always the same ones are
// compared.
func fromAnywhere(list []*nodeInfo) []*nodeInfo {
	if len(list) == 0 {
		return nil
	}
	k := rand.IntN(len(list))
	return slices.Concat(list[k:], list[:k])
}

func lower(l *load, w *wish) bool {
	return schedulinghelper.PodPriority(l.pod) < schedulinghelper.PodPriority(w.pod)
}

// leaves: the Pod is ending to make room for another.
func leaves(p *corev1.Pod) bool {
	c := pod.Condition(&p.Status, corev1.DisruptionTarget)
	return p.DeletionTimestamp != nil && c != nil && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
}

// victimsOn takes all Pods of lower priority from a node, and puts back what the
// Pod can do with, those first that a budget would keep, and of these and the
// others the most important first. If it does not fit even on what is left, it
// says which rule refused, and why.
func victimsOn(w *wish, p *place, budgets shelf[policyv1.PodDisruptionBudget]) outcome {
	rest := p.copy()
	var less []*load
	for _, l := range p.pods {
		if lower(l, w) {
			less = append(less, l)
			rest.remove(l)
		}
	}
	if len(less) == 0 {
		return outcome{why: []reason{{text: noVictims}}}
	}
	if by, why := refusal(w, rest, rules); by != nil {
		return outcome{by: by, why: why}
	}
	sortByImportance(less)
	kept, others := protected(less, budgets)
	c := &candidate{node: p.nodeInfo}
	for k, l := range slices.Concat(kept, others) {
		rest.add(l)
		if by, _ := refusal(w, rest, rules); by == nil {
			continue
		}
		rest.remove(l)
		c.victims = append(c.victims, l)
		if k < len(kept) {
			c.violations++
		}
	}
	if len(c.victims) == 0 {
		return outcome{} // it fits beside all of them: what is promised has changed
	}
	sortByImportance(c.victims)
	return outcome{candidate: c}
}

// sortByImportance: the higher priority first, of equals who runs longer.
func sortByImportance(list []*load) {
	now := time.Now()
	slices.SortStableFunc(list, func(a, b *load) int {
		return cmp.Or(cmp.Compare(schedulinghelper.PodPriority(b.pod), schedulinghelper.PodPriority(a.pod)), started(a, now).Compare(started(b, now)))
	})
}

// protected are the Pods that budgets would keep if all of them went, in their
// order. What is in DisruptedPods has been allowed already.
func protected(list []*load, budgets shelf[policyv1.PodDisruptionBudget]) (kept, others []*load) {
	names := slices.SortedFunc(maps.Keys(budgets), func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	left := map[types.NamespacedName]int32{}
	for _, name := range names {
		left[name] = budgets[name].Status.DisruptionsAllowed
	}
	keeps := func(p *corev1.Pod) bool {
		for _, name := range names {
			b := budgets[name]
			s := selectorOf(b.Spec.Selector)
			_, allowed := b.Status.DisruptedPods[p.Name]
			if b.Namespace != p.Namespace || len(p.Labels) == 0 || s.Empty() || !s.Matches(labels.Set(p.Labels)) || allowed {
				continue
			}
			if left[name]--; left[name] < 0 {
				return true
			}
		}
		return false
	}
	for _, l := range list {
		if keeps(l.pod) {
			kept = append(kept, l)
		} else {
			others = append(others, l)
		}
	}
	return kept, others
}

// started: a Pod that has not started yet is the youngest.
func started(l *load, now time.Time) time.Time {
	if t := l.pod.Status.StartTime; t != nil {
		return t.Time
	}
	return now
}

// leastHarm compares candidates: by how many victims a budget would keep, the
// highest priority among the victims, the sum of their priorities, their number,
// and then whose most important victims have run the shortest; what is still
// equal, by name.
func leastHarm(list []*candidate) *candidate {
	now := time.Now()
	harm := func(c *candidate) (h [5]int64) {
		top := schedulinghelper.PodPriority(c.victims[0].pod)
		first := now
		for _, l := range c.victims {
			p := schedulinghelper.PodPriority(l.pod)
			// Shifted, so that each victim counts, also one of negative priority.
			h[2] += int64(p) + math.MaxInt32 + 1
			if t := started(l, now); p == top && t.Before(first) {
				first = t
			}
		}
		h[0], h[1], h[3], h[4] = int64(c.violations), int64(top), int64(len(c.victims)), -first.UnixNano()
		return h
	}
	return slices.MinFunc(list, func(a, b *candidate) int {
		x, y := harm(a), harm(b)
		if c := slices.Compare(x[:], y[:]); c != 0 {
			return c
		}
		if a.node.node.Name < b.node.node.Name {
			return -1
		}
		return 1
	})
}

// promise keeps the room of a node for a Pod that waits for it, from others of
// no higher priority; no node takes the promise back.
func (s *Scheduler) promise(e *entry, node string) {
	if e.promised == node {
		return
	}
	was := e.promised
	if e.promised = node; node != "" {
		i := s.nodeOf(node)
		i.promised[e.pod.UID] = e.wish().load
		s.promisedChanged(i)
	}
	if was == "" {
		return
	}
	i := s.nodeOf(was)
	l := i.promised[e.pod.UID]
	delete(i.promised, e.pod.UID)
	s.promisedChanged(i)
	s.sweep(was)
	if l != nil && e.node != was {
		s.changed(podLeft{l, s.namespaces})
	}
}

// preempt ends the victims. Until that is written the Pod is not looked at, lest
// it chooses others besides; what happens in the meantime is not forgotten.
func (s *Scheduler) preempt(ctx context.Context, e *entry, c *candidate) {
	node := c.node.node.Name
	for uid, l := range c.node.promised {
		if other := s.pods[uid]; other != nil && other != e && lower(l, e.wish()) {
			s.promise(other, "")
			s.write(ctx, other, func(ctx context.Context) error { return s.tell(ctx, other, nil) })
		}
	}
	s.promise(e, node)
	s.queue.hold(e)
	by, victims := e.pod, c.victims
	s.writers.Go(func() {
		err := s.endAll(ctx, by, node, victims)
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("cannot preempt", "pod", by.Namespace+"/"+by.Name, "err", err)
		}
		s.queue.release(e, err != nil)
		s.ring()
	})
}

func (s *Scheduler) endAll(ctx context.Context, by *corev1.Pod, node string, victims []*load) error {
	s.slots <- struct{}{}
	defer func() { <-s.slots }()
	for _, l := range victims {
		if l.pod.DeletionTimestamp != nil {
			continue
		}
		if err := s.end(ctx, l.pod, by); apierrors.IsNotFound(err) {
			continue // it has gone by itself
		} else if err != nil {
			return fmt.Errorf("cannot end pod %s/%s: %w", l.pod.Namespace, l.pod.Name, err)
		}
		s.events.Eventf(l.pod, by, corev1.EventTypeNormal, "Preempted", "Preempting", "Preempted by pod %v on node %v", by.UID, node)
	}
	return nil
}

// end says why a Pod must go, and lets it go with its own grace.
func (s *Scheduler) end(ctx context.Context, victim, by *corev1.Pod) error {
	p := victim.DeepCopy()
	pod.SetCondition(&p.Status, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler, ObservedGeneration: p.Generation,
		Message: by.Spec.SchedulerName + ": preempting to accommodate a higher priority pod",
	})
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": p.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{*pod.Condition(&p.Status, corev1.DisruptionTarget)}},
	})
	if err != nil {
		return err
	}
	pods := s.cfg.Client.CoreV1().Pods(p.Namespace)
	if _, err := pods.Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return err
	}
	return pods.Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
}
