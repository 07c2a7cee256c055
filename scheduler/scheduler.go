// SPDX-License-Identifier: Apache-2.0

// Package scheduler owns the choice of a node for each Pod: a queue of Pods
// that wait, a snapshot of the nodes, one file per rule, and the binding. It
// acts on Pods whose schedulerName is default-scheduler and leaves others
// alone. Nothing is polled: a Pod that found no place waits for a change that
// could give it one.
package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/peapod/peapod/api/pod"
)

// Config is what a scheduler is made from.
type Config struct {
	Client kubernetes.Interface
	// Pods and Nodes are shared informers; the caller starts them.
	Pods, Nodes Informer
	Log         *slog.Logger
}

// Informer is what the scheduler needs of a shared informer.
type Informer interface {
	AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error)
}

// bindsAtOnce bounds how many bindings are being written.
const bindsAtOnce = 16

// Scheduler places Pods.
type Scheduler struct {
	cfg    Config
	events record.EventRecorder

	mu      sync.Mutex // guards the fields below
	pods    map[types.UID]*corev1.Pod
	nodes   map[string]*nodeInfo
	active  []types.UID                 // to be looked at, by priority when taken
	waiting map[types.UID]string        // found no place: what was said of it
	assumed map[types.UID]string        // chosen, not yet bound in the API
	failed  map[types.UID]time.Duration // back-off of bindings that failed
	bell    chan struct{}
}

// New makes a scheduler; Run lets it work.
func New(cfg Config) *Scheduler {
	return &Scheduler{
		cfg: cfg, pods: map[types.UID]*corev1.Pod{}, nodes: map[string]*nodeInfo{},
		waiting: map[types.UID]string{}, assumed: map[types.UID]string{}, failed: map[types.UID]time.Duration{}, bell: make(chan struct{}, 1),
	}
}

// Run places Pods until ctx ends.
func (s *Scheduler) Run(ctx context.Context) error {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: s.cfg.Client.CoreV1().Events("")})
	s.events = broadcaster.NewRecorder(clientscheme.Scheme, corev1.EventSource{Component: corev1.DefaultSchedulerName})
	synced, err := s.follow()
	if err != nil {
		return fmt.Errorf("cannot follow the cluster: %w", err)
	}
	for _, done := range synced {
		select {
		case <-done:
		case <-ctx.Done():
			return nil
		}
	}
	var binds sync.WaitGroup
	defer binds.Wait()
	slots := make(chan struct{}, bindsAtOnce)
	for {
		select {
		case <-s.bell:
		case <-ctx.Done():
			return nil
		}
		for p := s.next(); p != nil; p = s.next() {
			node, said, err := s.choose(p)
			if err != nil {
				if said != err.Error() {
					s.unschedulable(ctx, p, err)
				}
				continue
			}
			slots <- struct{}{}
			binds.Go(func() {
				again := s.bind(ctx, p, node)
				<-slots
				s.later(ctx, p.UID, again)
			})
		}
	}
}

// follow takes in Pods and nodes from the informers. Each channel closes when
// all that was there at the beginning has come: a choice before would count
// Pods as absent that take room.
func (s *Scheduler) follow() (synced []<-chan struct{}, err error) {
	pods, err := s.cfg.Pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { s.podChanged(o.(*corev1.Pod)) },
		UpdateFunc: func(old, o any) {
			// A watch that broke off can tell of a removal and a Pod of the same
			// name as one change.
			if was, p := old.(*corev1.Pod), o.(*corev1.Pod); was.UID != p.UID {
				s.podGone(was)
			}
			s.podChanged(o.(*corev1.Pod))
		},
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if p, ok := o.(*corev1.Pod); ok {
				s.podGone(p)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	nodes, err := s.cfg.Nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { s.nodeChanged(nil, o.(*corev1.Node)) },
		UpdateFunc: func(old, o any) { s.nodeChanged(old.(*corev1.Node), o.(*corev1.Node)) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if n, ok := o.(*corev1.Node); ok {
				// Its Pods are still bound to the name: a node that comes back
				// under it has their load.
				s.mu.Lock()
				s.node(n.Name).node = nil
				s.mu.Unlock()
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return []<-chan struct{}{pods.HasSyncedChecker().Done(), nodes.HasSyncedChecker().Done()}, nil
}

func ours(p *corev1.Pod) bool {
	return p.Spec.SchedulerName == corev1.DefaultSchedulerName && len(p.Spec.SchedulingGates) == 0 && p.DeletionTimestamp == nil && !pod.Terminal(p)
}

func (s *Scheduler) podChanged(p *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.pods[p.UID]
	s.pods[p.UID] = p
	switch {
	case p.Spec.NodeName != "" && !pod.Terminal(p):
		if was := s.assumed[p.UID]; was != "" && was != p.Spec.NodeName {
			s.node(was).remove(p) // somebody else has bound it elsewhere
		}
		delete(s.assumed, p.UID)
		delete(s.waiting, p.UID)
		delete(s.failed, p.UID)
		s.node(p.Spec.NodeName).add(p)
	case p.Spec.NodeName != "":
		s.node(p.Spec.NodeName).remove(p)
		s.reconsider() // room has become free
	case ours(p) && s.assumed[p.UID] == "":
		// A status the scheduler itself wrote is no reason to look again.
		if old == nil || old.Generation != p.Generation || len(old.Spec.SchedulingGates) > 0 {
			delete(s.waiting, p.UID)
			s.enqueue(p.UID)
		}
	}
}

func (s *Scheduler) podGone(p *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, p.UID)
	delete(s.waiting, p.UID)
	delete(s.failed, p.UID)
	for _, name := range []string{p.Spec.NodeName, s.assumed[p.UID]} {
		if name != "" {
			s.node(name).remove(p)
		}
	}
	delete(s.assumed, p.UID)
	s.reconsider()
}

func (s *Scheduler) nodeChanged(old, n *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node(n.Name).node = n
	if old == nil || !sameForPods(old, n) {
		s.reconsider()
	}
}

// node finds or makes what is known of a node; a Pod may be seen before it.
func (s *Scheduler) node(name string) *nodeInfo {
	i := s.nodes[name]
	if i == nil {
		i = newNodeInfo()
		s.nodes[name] = i
	}
	return i
}

func (s *Scheduler) enqueue(uid types.UID) {
	if !slices.Contains(s.active, uid) {
		s.active = append(s.active, uid)
	}
	select {
	case s.bell <- struct{}{}:
	default:
	}
}

// reconsider gives every waiting Pod another look.
func (s *Scheduler) reconsider() {
	for uid := range s.waiting {
		s.enqueue(uid)
	}
}

// next takes the Pod of the highest priority, the oldest of equals.
func (s *Scheduler) next() *corev1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	best := -1
	for i, uid := range s.active {
		p := s.pods[uid]
		if p != nil && (best < 0 || before(p, s.pods[s.active[best]])) {
			best = i
		}
	}
	if best < 0 {
		s.active = nil
		return nil
	}
	p := s.pods[s.active[best]]
	s.active = slices.Delete(s.active, best, best+1)
	if p.Spec.NodeName != "" || !ours(p) || s.assumed[p.UID] != "" {
		return s.nextLocked()
	}
	return p
}

// nextLocked skips an entry that has become void.
func (s *Scheduler) nextLocked() *corev1.Pod {
	s.mu.Unlock()
	defer s.mu.Lock()
	return s.next()
}

func before(a, b *corev1.Pod) bool {
	if b == nil {
		return true
	}
	pa, pb := priority(a), priority(b)
	if pa != pb {
		return pa > pb
	}
	return a.CreationTimestamp.Before(&b.CreationTimestamp)
}

func priority(p *corev1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

// choose finds the best node and takes its room at once, before the API knows.
// A Pod that fits nowhere waits from the same moment, so that no change after
// the look is missed; said is what was said of it before.
func (s *Scheduler) choose(p *corev1.Pod) (name, said string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, err = pick(p, s.nodes)
	if err != nil {
		said = s.waiting[p.UID]
		s.waiting[p.UID] = err.Error()
		return "", said, err
	}
	s.assumed[p.UID] = name
	s.nodes[name].add(p)
	return name, "", nil
}

// Back-off of a binding that the API refused, as kube-scheduler's.
const (
	firstBackOff = time.Second
	mostBackOff  = 10 * time.Second
)

// bind writes the choice. When that fails the room is given back, and again
// says when to try anew; zero is never.
func (s *Scheduler) bind(ctx context.Context, p *corev1.Pod, node string) (again time.Duration) {
	err := s.cfg.Client.CoreV1().Pods(p.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, UID: p.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err == nil {
		s.events.Eventf(p, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", p.Namespace, p.Name, node)
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.assumed, p.UID)
	if i := s.nodes[node]; i != nil {
		i.remove(p)
	}
	now := s.pods[p.UID]
	if now == nil || now.Spec.NodeName != "" || apierrors.IsNotFound(err) || ctx.Err() != nil {
		return 0
	}
	s.waiting[p.UID] = err.Error()
	s.failed[p.UID] = min(max(2*s.failed[p.UID], firstBackOff), mostBackOff)
	s.cfg.Log.Warn("cannot bind pod", "pod", p.Namespace+"/"+p.Name, "op", "bind", "err", err)
	s.events.Eventf(p, corev1.EventTypeWarning, "FailedScheduling", "binding rejected: %v", err)
	return s.failed[p.UID]
}

// later gives a Pod another look after a while.
func (s *Scheduler) later(ctx context.Context, uid types.UID, after time.Duration) {
	if after == 0 {
		return
	}
	t := time.NewTimer(after)
	defer t.Stop()
	select {
	case <-t.C:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.enqueue(uid)
	case <-ctx.Done():
	}
}

// unschedulable says why a Pod waits.
func (s *Scheduler) unschedulable(ctx context.Context, p *corev1.Pod, why error) {
	s.events.Eventf(p, corev1.EventTypeWarning, "FailedScheduling", "%s", why)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID}, "status": map[string]any{"conditions": []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: why.Error(),
		ObservedGeneration: p.Generation, LastTransitionTime: metav1.Now(),
	}}}})
	if err == nil {
		_, err = s.cfg.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		s.cfg.Log.Warn("cannot tell why pod waits", "pod", p.Namespace+"/"+p.Name, "err", err)
	}
}
