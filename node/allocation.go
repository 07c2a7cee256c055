// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/linux"
)

// allocation is what this node has granted a Pod: the resources with which it
// was admitted or last resized (KEP-1287). What the API asks for beyond it
// waits. It lies in the Pod's folder, and is never changed, only replaced.
type allocation struct {
	Version int `json:"version"`
	// Generation is the Pod's of the last resize that was granted, or 0.
	Generation int64                                  `json:"generation,omitempty"`
	Pod        *corev1.ResourceRequirements           `json:"pod,omitempty"` // KEP-2837
	Containers map[string]corev1.ResourceRequirements `json:"containers"`
	// Limits are what the Pod's cgroup was given last.
	Limits podLimits `json:"limits"`
	// Updated are instances that were given other limits than they were made
	// with, by ID.
	Updated map[string]corev1.ResourceRequirements `json:"updated,omitempty"`
}

const allocationVersion = 1

// allocationOf grants a Pod what it asks for.
func allocationOf(p *corev1.Pod) *allocation {
	l := &allocation{Version: allocationVersion, Limits: limitsOf(p), Pod: p.Spec.Resources.DeepCopy(), Containers: map[string]corev1.ResourceRequirements{}}
	for c := range pod.Containers(p) {
		l.Containers[c.Name] = *c.Resources.DeepCopy()
	}
	return l
}

// of is the Pod with what it was granted: p itself if that is all it asks for.
func (l *allocation) of(p *corev1.Pod) *corev1.Pod {
	if l == nil || l.covers(p) {
		return p
	}
	p = p.DeepCopy()
	p.Spec.Resources = l.Pod.DeepCopy()
	for c := range pod.Containers(p) {
		if r, ok := l.Containers[c.Name]; ok {
			c.Resources = *r.DeepCopy()
		}
	}
	return p
}

func (l *allocation) covers(p *corev1.Pod) bool {
	for c := range pod.Containers(p) {
		if r, ok := l.Containers[c.Name]; ok && !equality.Semantic.DeepEqual(r, c.Resources) {
			return false
		}
	}
	return equality.Semantic.DeepEqual(l.Pod, p.Spec.Resources)
}

func (a *Agent) allocationFile(p *corev1.Pod) string {
	return filepath.Join(a.volumes.PodDir(p.UID), "allocation.json")
}

// readAllocation gives what an earlier agent granted the Pod, or what it asks
// for if that is not known.
func (a *Agent) readAllocation(p *corev1.Pod) *allocation {
	var l allocation
	b, err := os.ReadFile(a.allocationFile(p))
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err == nil && l.Version != allocationVersion {
		err = fmt.Errorf("version %d is not known", l.Version)
	}
	if err == nil {
		return &l
	}
	if !errors.Is(err, os.ErrNotExist) {
		a.cfg.Log.Warn("cannot read what a pod was granted; it is what it asks for", "pod", key(p), "uid", p.UID, "err", err)
	}
	return allocationOf(p)
}

func (a *Agent) writeAllocation(p *corev1.Pod, l *allocation) error {
	b, err := json.Marshal(l)
	if err == nil {
		err = os.MkdirAll(a.volumes.PodDir(p.UID), 0o750)
	}
	if err == nil {
		err = linux.ReplaceFile(a.allocationFile(p), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot keep what pod %s was granted: %w", key(p), err)
	}
	return nil
}

// keepAllocation writes down what the Pod was admitted with: a later change must
// not be taken for it.
func (x *actor) keepAllocation(p *corev1.Pod) error {
	x.agent.admission.Lock()
	defer x.agent.admission.Unlock()
	x.allocated()
	return x.agent.writeAllocation(p, x.grant)
}

// allocated is the actor's newest Pod with what it was granted. The caller
// holds admission.
func (x *actor) allocated() *corev1.Pod {
	p := x.pod()
	if x.grant == nil {
		x.grant = x.agent.readAllocation(p)
	}
	return x.grant.of(p)
}

// resize grants the Pod what it asks for now, if there is room for it beside
// the others; otherwise it says why not. The caller holds admission.
func (x *actor) resize() (*refusal, error) {
	a, p := x.agent, x.pod()
	x.allocated()
	if x.grant.covers(p) {
		x.deferred = time.Time{}
		return nil, nil
	}
	if r := refuse(p, host{node: a.node.object(), others: a.accepted(x), appArmor: a.appArmor}); r != nil {
		if x.deferred.IsZero() {
			x.deferred = a.cfg.Now()
		}
		return r, nil
	}
	l := allocationOf(p)
	l.Generation, l.Limits, l.Updated = p.Generation, x.grant.Limits, x.grant.Updated
	if err := a.writeAllocation(p, l); err != nil {
		return nil, err
	}
	x.grant, x.deferred = l, time.Time{}
	return nil, nil
}

// noteLimits remembers what the Pod's cgroup and running instances were given.
func (x *actor) noteLimits(p *corev1.Pod, have *observed, limits podLimits, given map[string]corev1.ResourceRequirements) error {
	a := x.agent
	a.admission.Lock()
	defer a.admission.Unlock()
	l := *x.grant
	l.Limits, l.Updated = limits, map[string]corev1.ResourceRequirements{}
	for id, r := range x.grant.Updated {
		if have.has(id) {
			l.Updated[id] = r
		}
	}
	maps.Copy(l.Updated, given)
	if err := a.writeAllocation(p, &l); err != nil {
		return err
	}
	x.grant = &l
	return nil
}

// retryResizes gives the room that has come free to the resizes that wait for
// some, in the order of kubelets: first who asks for no more than it has, then by
// priority, class and the time it waits.
func (a *Agent) retryResizes() {
	a.admission.Lock()
	defer a.admission.Unlock()
	a.mu.Lock()
	var waiting []*actor
	for _, x := range a.actors {
		if !x.deferred.IsZero() {
			waiting = append(waiting, x)
		}
	}
	a.mu.Unlock()
	slices.SortFunc(waiting, func(x, y *actor) int {
		p, q := x.pod(), y.pod()
		return cmp.Or(
			before(!asksMore(p, x.allocated()), !asksMore(q, y.allocated())),
			cmp.Compare(priority(q), priority(p)),
			before(pod.QOS(p) == corev1.PodQOSGuaranteed, pod.QOS(q) == corev1.PodQOSGuaranteed),
			x.deferred.Compare(y.deferred),
		)
	})
	for _, x := range waiting {
		p := x.pod()
		if r, err := x.resize(); err == nil {
			x.tell(func() { x.tellPending(p, r) })
		}
	}
}

// before orders those first of whom it is true.
func before(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return -1
	}
	return 1
}

func priority(p *corev1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

// asksMore says whether a Pod asks for more CPU or memory than it had.
func asksMore(p, had *corev1.Pod) bool {
	o := resourcehelper.PodResourcesOptions{}
	now, was := resourcehelper.PodRequests(p, o), resourcehelper.PodRequests(had, o)
	return now.Memory().Cmp(*was.Memory()) > 0 || now.Cpu().Cmp(*was.Cpu()) > 0
}
