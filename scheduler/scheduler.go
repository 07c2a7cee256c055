// SPDX-License-Identifier: Apache-2.0

// Package scheduler owns the choice of a node for each Pod: a queue of Pods
// that wait (queue.go), what is known of the nodes (node.go) and counted around
// them (around.go), what is kept of both for Pods that ask for the same
// (class.go), one file per rule, scores, who gives way to whom
// (preempt.go), and what is written of a Pod: its binding, or why it has none
// (write.go). It acts on Pods whose schedulerName is default-scheduler and
// leaves others alone. Nothing is polled: a Pod that found no place waits for a
// change that could give it one, and each rule says which those are.
package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
)

// Config is what a scheduler is made from.
type Config struct {
	Client kubernetes.Interface
	Informers
	Log *slog.Logger
}

// Informers are those that are shared with the controllers; the caller starts
// them.
type Informers struct {
	Pods, Nodes, Namespaces, Services, ReplicationControllers, ReplicaSets Informer
	StatefulSets, Budgets                                                  Informer
	Claims, Volumes, StorageClasses                                        Informer
}

// Informer is what the scheduler needs of a shared informer.
type Informer interface {
	AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error)
}

// writesAtOnce bounds how many Pods are being written.
const writesAtOnce = 16

// Scheduler places Pods.
type Scheduler struct {
	cfg     Config
	events  events.EventRecorder
	writers sync.WaitGroup
	slots   chan struct{}
	bell    chan struct{} // the queue is not as it was

	mu   sync.Mutex // guards the fields below
	pods map[types.UID]*entry
	*known
	queue *queue
}

// New makes a scheduler; Run lets it work.
func New(cfg Config) *Scheduler {
	return &Scheduler{
		cfg: cfg, slots: make(chan struct{}, writesAtOnce), bell: make(chan struct{}, 1),
		pods: map[types.UID]*entry{}, known: newKnown(), queue: newQueue(),
	}
}

// Run places Pods until ctx ends.
func (s *Scheduler) Run(ctx context.Context) error {
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: s.cfg.Client.EventsV1()})
	defer broadcaster.Shutdown()
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("cannot record events: %w", err)
	}
	s.events = broadcaster.NewRecorder(clientscheme.Scheme, corev1.DefaultSchedulerName)
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
	defer s.writers.Wait()
	for ctx.Err() == nil {
		if s.place(ctx) {
			continue
		}
		select {
		case <-s.bell:
		case <-s.due():
		case <-ctx.Done():
		}
	}
	return nil
}

// place looks for a node for the Pod whose turn it is; false if there is none.
// A node's room is taken at once, before the API knows, and a Pod that fits
// nowhere waits from the same moment, so that no change after the look is
// missed.
func (s *Scheduler) place(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.queue.next()
	if e == nil {
		return false
	}
	if e.pod.DeletionTimestamp != nil {
		s.events.Eventf(e.pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "skip schedule deleting pod: %v/%v", e.pod.Namespace, e.pod.Name)
		return true
	}
	w := e.wish()
	c := s.class(w)
	if i := s.find(e, c); i != nil {
		s.settle(ctx, e, i, delivery{})
		return true
	}
	var v *verdict
	if c != nil {
		v = c.verdict(w, e.promised)
	}
	if v == nil {
		v = look(w, s.known)
	}
	if len(v.fit) == 0 {
		s.refuse(ctx, e, v)
		return true
	}
	i := best(w, v)
	if k := slices.IndexFunc(v.fit, func(i *nodeInfo) bool { return i.node.Name == e.promised }); k >= 0 {
		i = v.fit[k] // what was made free for it
	}
	d, _ := s.stock.supply(&v.around.luggage, i.node)
	s.settle(ctx, e, i, d)
	return true
}

// find is the short way to a node: the one that was made free for the Pod, or
// the best by what is known for Pods that ask for the same. Nil is that every
// node must be looked at, to find one or to say why there is none.
func (s *Scheduler) find(e *entry, c *class) *nodeInfo {
	if c == nil {
		return nil
	}
	i := s.nodes[e.promised]
	if i == nil || i.node == nil {
		return c.best()
	}
	// A class does not know whom a node is promised to.
	w := e.wish()
	c.ask()
	around := c.nothingAround()
	if !c.plain() {
		around = newAround(w, s.known, luggage{})
	}
	if by, _ := refusal(w, &place{i, around, w}, rules); by != nil {
		return nil
	}
	return i
}

// settle takes the room of a node for a Pod, and lets that be written.
func (s *Scheduler) settle(ctx context.Context, e *entry, i *nodeInfo, d delivery) {
	i.add(e.wish().load)
	e.node, e.assumed = i.node.Name, true
	s.promise(e, "")
	if len(d.bind)+len(d.make) > 0 {
		s.supply(ctx, e, d)
	} else {
		s.bind(ctx, e)
	}
}

// refuse lets a Pod wait that fits nowhere, or others go for it.
func (s *Scheduler) refuse(ctx context.Context, e *entry, v *verdict) {
	c, words, keep := preemption(e.wish(), v, e.promised)
	s.queue.refuse(e, v.refused)
	switch {
	case c != nil:
		s.preempt(ctx, e, c)
	case !keep:
		s.promise(e, "")
	}
	s.failed(ctx, e, corev1.PodReasonUnschedulable, explain(v, words))
}

// due fires when a Pod is to be tried again though nothing happened.
func (s *Scheduler) due() <-chan time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.queue.due()
	if at.IsZero() {
		return nil
	}
	return time.After(time.Until(at))
}

// ring lets the queue be looked at.
func (s *Scheduler) ring() {
	select {
	case s.bell <- struct{}{}:
	default:
	}
}

// changed tells the queue what happened.
func (s *Scheduler) changed(c any) {
	if s.queue.changed(c) {
		s.ring()
	}
}
