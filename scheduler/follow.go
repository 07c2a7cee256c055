// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/api/pod"
)

// follow takes in Pods and nodes from the informers. Each channel closes when
// all that was there at the beginning has come: a choice before would count
// Pods as absent that take room.
func (s *Scheduler) follow() (synced []<-chan struct{}, err error) {
	for _, x := range []struct {
		informer Informer
		h        cache.ResourceEventHandler
	}{
		{s.cfg.Pods, handler(s.podCame, s.podGone)},
		{s.cfg.Nodes, handler(s.nodeCame, s.nodeGone)},
		{s.cfg.Namespaces, handler(s.namespaceCame, s.namespaceGone)},
		{s.cfg.Services, keep(s, s.services)},
		{s.cfg.ReplicationControllers, keep(s, s.replicationControllers)},
		{s.cfg.ReplicaSets, keep(s, s.replicaSets)},
		{s.cfg.StatefulSets, keep(s, s.statefulSets)},
		{s.cfg.Budgets, keep(s, s.budgets)},
		{s.cfg.Claims, handler(s.claimCame, s.claimGone)},
		{s.cfg.Volumes, keep(s, s.stock.volumes, storageChange{})},
		{s.cfg.StorageClasses, keep(s, s.stock.classes, storageChange{})},
	} {
		r, err := x.informer.AddEventHandler(x.h)
		if err != nil {
			return nil, err
		}
		synced = append(synced, r.HasSyncedChecker().Done())
	}
	return synced, nil
}

// keep has a shelf hold what there is, and tells the queue what each change is
// to it.
func keep[T any, P object[T]](s *Scheduler, on shelf[T], changes ...any) cache.ResourceEventHandler {
	tell := func() {
		for _, c := range changes {
			s.changed(c)
		}
	}
	return handler(func(o P) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gathered(on[nameOf(o)], o)
		on[nameOf(o)] = o
		tell()
	}, func(o P) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gathered(o, nil)
		delete(on, nameOf(o))
		tell()
	})
}

// gathered lets the board be made again if other Pods belong together than
// before, and victims be chosen anew if budgets keep others.
func (s *Scheduler) gathered(was, now any) {
	if _, ok := was.(*policyv1.PodDisruptionBudget); ok {
		s.budgetsChanged()
	}
	if !equality.Semantic.DeepEqual(gathers(was), gathers(now)) {
		s.anew()
	}
}

// gathers is the selector of what Pods belong together by.
func gathers(o any) any {
	switch o := o.(type) {
	case *corev1.Service:
		if o != nil {
			return o.Spec.Selector
		}
	case *corev1.ReplicationController:
		if o != nil {
			return o.Spec.Selector
		}
	case *appsv1.ReplicaSet:
		if o != nil {
			return o.Spec.Selector
		}
	case *appsv1.StatefulSet:
		if o != nil {
			return o.Spec.Selector
		}
	}
	return nil
}

// object is a pointer to an object of the API.
type object[T any] interface {
	*T
	metav1.Object
}

// handler turns an informer's words into objects that came, in what version
// ever, and objects that are gone. A watch that broke off can tell of a removal
// and a new object of the same name as one change.
func handler[T any, P object[T]](came, gone func(P)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { came(o.(P)) },
		UpdateFunc: func(old, o any) {
			if old.(P).GetUID() != o.(P).GetUID() {
				gone(old.(P))
			}
			came(o.(P))
		},
		DeleteFunc: func(o any) {
			if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			if x, ok := o.(P); ok {
				gone(x)
			}
		},
	}
}

// ours says whether the Pod asks this scheduler for a node, and may.
func ours(p *corev1.Pod) bool {
	return p.Spec.SchedulerName == corev1.DefaultSchedulerName && len(p.Spec.SchedulingGates) == 0
}

func (s *Scheduler) podCame(p *corev1.Pod) {
	if pod.Terminal(p) {
		s.podGone(p) // what has ended takes no room
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.pods[p.UID]
	if e == nil {
		e = &entry{}
		s.pods[p.UID] = e
	}
	was, before := e.asked, e.pod
	e.pod, e.asked = p, nil
	s.nominated(e, before)
	switch {
	case p.Spec.NodeName != "":
		s.placed(e)
	case e.assumed:
		if p.DeletionTimestamp != nil {
			s.free(e)
		}
	case !ours(p):
	case e.line == nil:
		if p.DeletionTimestamp == nil {
			s.queue.add(e)
			s.ring()
		}
	case was != nil && s.queue.edited(e, podEdited{was, e.wish()}):
		s.ring()
	}
}

// nominated takes in the node that the API says a Pod waits for. What was
// promised here, and is not written yet, stays.
func (s *Scheduler) nominated(e *entry, before *corev1.Pod) {
	node := e.pod.Status.NominatedNodeName
	switch {
	case e.pod.Spec.NodeName != "" || e.assumed || !ours(e.pod):
	case before == nil || before.Status.NominatedNodeName != node:
		s.promise(e, node)
	case e.promised != "":
		i := s.nodeOf(e.promised)
		i.promised[e.pod.UID] = e.wish().load
		s.promisedChanged(i)
	}
}

// placed takes in a Pod that has a node, whoever chose it.
func (s *Scheduler) placed(e *entry) {
	if e.node != "" && e.node != e.pod.Spec.NodeName {
		s.free(e)
	}
	s.queue.remove(e)
	assumed := e.assumed
	e.node, e.assumed = e.pod.Spec.NodeName, false
	s.promise(e, "")
	i, now := s.nodeOf(e.node), newLoad(e.pod)
	was := i.pods[e.pod.UID]
	i.add(now)
	if was == nil || assumed {
		s.changed(podCame{now, s.namespaces})
	}
	if was == nil {
		return
	}
	if !maps.Equal(was.wants, now.wants) {
		s.changed(podShrank{was, now})
	}
	if !maps.Equal(was.pod.Labels, now.pod.Labels) {
		s.changed(podRelabelled{was, now, s.namespaces})
	}
}

// free gives back the room that a Pod takes.
func (s *Scheduler) free(e *entry) {
	if e.node == "" {
		return
	}
	l := s.nodeOf(e.node).remove(e.pod.UID)
	s.sweep(e.node)
	e.node, e.assumed = "", false
	if x := e.supplying; x != nil {
		e.supplying = nil
		x.end(nil)
	}
	if l != nil {
		s.changed(podLeft{l, s.namespaces})
	}
}

func (s *Scheduler) podGone(p *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.pods[p.UID]
	if e == nil {
		return
	}
	delete(s.pods, p.UID)
	s.queue.remove(e)
	s.promise(e, "")
	s.free(e)
}

func (s *Scheduler) nodeCame(n *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.nodeOf(n.Name)
	was := i.node
	i.set(n)
	same := was != nil && sameForPods(was, n)
	if !same || !equality.Semantic.DeepEqual(was.Status.Images, n.Status.Images) {
		s.anew()
	}
	if same {
		return
	}
	c := nodeChange{new: newNodeInfo(n)}
	if was != nil {
		c.old = newNodeInfo(was)
	}
	s.changed(c)
}

// nodeGone leaves the Pods that are bound to the name.
func (s *Scheduler) nodeGone(n *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.anew()
	s.nodeOf(n.Name).set(nil)
	s.sweep(n.Name)
	s.changed(nodeGone{newNodeInfo(n)})
}

func (s *Scheduler) namespaceCame(n *corev1.Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.namespaces[n.Name]
	s.namespaces[n.Name] = n.Labels
	if !maps.Equal(was, n.Labels) {
		s.anew()
		s.changed(namespaceChange{n.Name})
	}
}

func (s *Scheduler) namespaceGone(n *corev1.Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.anew()
	delete(s.namespaces, n.Name)
}

// nodeOf finds or makes what is known of a node.
func (s *Scheduler) nodeOf(name string) *nodeInfo {
	i := s.nodes[name]
	if i == nil {
		i = newNodeInfo(nil)
		i.moved = s.moved
		s.nodes[name] = i
	}
	return i
}

// sweep forgets a node of which nothing is known any more.
func (s *Scheduler) sweep(name string) {
	if i := s.nodes[name]; i != nil && i.node == nil && len(i.pods)+len(i.promised) == 0 {
		delete(s.nodes, name)
	}
}
