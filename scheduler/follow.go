// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/api/pod"
)

// follow takes in Pods and nodes from the informers. Each channel closes when
// all that was there at the beginning has come: a choice before would count
// Pods as absent that take room.
func (s *Scheduler) follow() (synced []<-chan struct{}, err error) {
	pods, err := s.cfg.Pods.AddEventHandler(handler(s.podCame, s.podGone, func(p *corev1.Pod) types.UID { return p.UID }))
	if err != nil {
		return nil, err
	}
	nodes, err := s.cfg.Nodes.AddEventHandler(handler(s.nodeCame, s.nodeGone, func(n *corev1.Node) types.UID { return n.UID }))
	if err != nil {
		return nil, err
	}
	return []<-chan struct{}{pods.HasSyncedChecker().Done(), nodes.HasSyncedChecker().Done()}, nil
}

// handler turns an informer's words into objects that came, in what version
// ever, and objects that are gone. A watch that broke off can tell of a removal
// and a new object of the same name as one change.
func handler[T any](came, gone func(*T), uid func(*T) types.UID) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { came(o.(*T)) },
		UpdateFunc: func(old, o any) {
			if uid(old.(*T)) != uid(o.(*T)) {
				gone(old.(*T))
			}
			came(o.(*T))
		},
		DeleteFunc: func(o any) {
			if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			if x, ok := o.(*T); ok {
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
		s.nodeOf(e.promised).promised[e.pod.UID] = e.wish().load
	}
}

// placed takes in a Pod that has a node, whoever chose it.
func (s *Scheduler) placed(e *entry) {
	if e.node != "" && e.node != e.pod.Spec.NodeName {
		s.free(e)
	}
	s.queue.remove(e)
	e.node, e.assumed = e.pod.Spec.NodeName, false
	s.promise(e, "")
	i, now := s.nodeOf(e.node), newLoad(e.pod)
	was := i.pods[e.pod.UID]
	i.add(now)
	if was != nil && !maps.Equal(was.wants, now.wants) {
		s.changed(podShrank{was, now})
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
	if l != nil {
		s.changed(podLeft{l})
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
	if was != nil && sameForPods(was, n) {
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
	s.nodeOf(n.Name).set(nil)
	s.sweep(n.Name)
}

// nodeOf finds or makes what is known of a node.
func (s *Scheduler) nodeOf(name string) *nodeInfo {
	i := s.nodes[name]
	if i == nil {
		i = newNodeInfo(nil)
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
