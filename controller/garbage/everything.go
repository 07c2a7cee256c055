// SPDX-License-Identifier: Apache-2.0

package garbage

import (
	"context"
	"errors"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/peapod/peapod/controller/loop"
)

// Everything is the source of the garbage collector: it keeps the graph of all
// objects that are served and can be deleted, and wakes whom a change concerns.
// Events own nothing and are owned by nobody, as upstream has it. Others hear
// from it when a namespace holds less than before.
type Everything struct {
	cache     cache.Cache
	discovery discovery.DiscoveryInterface
	graph     *graph
	events    record.EventRecorder

	mu       sync.Mutex // guards the fields below
	queue    workqueue.TypedRateLimitingInterface[types.UID]
	kinds    map[schema.GroupKind]client.Object // an example of each that is watched
	handlers []toolscache.ResourceEventHandlerRegistration
	less     []func(namespace string)

	started chan struct{} // closed when the queue is known
}

func newEverything(m manager.Manager, c loop.Config) *Everything {
	return &Everything{
		cache: m.GetCache(), discovery: c.Client.Discovery(), graph: newGraph(), kinds: map[schema.GroupKind]client.Object{}, started: make(chan struct{}),
		events: m.GetEventRecorderFor("garbage-collector-controller"),
	}
}

// WhenLess has f called when an object or a finalizer of one goes from a
// namespace.
func (e *Everything) WhenLess(f func(namespace string)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.less = append(e.less, f)
}

func (e *Everything) tellLess(namespace string) {
	e.mu.Lock()
	all := e.less
	e.mu.Unlock()
	for _, f := range all {
		f(namespace)
	}
}

// Awaited says whether the end of an object will be heard of.
func (e *Everything) Awaited(uid types.UID) bool {
	_, _, known := e.graph.look(uid)
	return known
}

// whole are the kinds that the cache holds for other controllers anyway; of
// all others only the metadata is kept.
func whole(kind schema.GroupVersionKind) bool {
	switch kind {
	case corev1.SchemeGroupVersion.WithKind("Pod"), corev1.SchemeGroupVersion.WithKind("Node"), corev1.SchemeGroupVersion.WithKind("Namespace"),
		corev1.SchemeGroupVersion.WithKind("Service"), corev1.SchemeGroupVersion.WithKind("Endpoints"), corev1.SchemeGroupVersion.WithKind("ServiceAccount"),
		corev1.SchemeGroupVersion.WithKind("ConfigMap"), corev1.SchemeGroupVersion.WithKind("ReplicationController"),
		appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"),
		coordinationv1.SchemeGroupVersion.WithKind("Lease"):
		return true
	}
	return false
}

// Start begins to watch all kinds that are served now. Those of custom
// resources come and go later, see follow and forget.
func (e *Everything) Start(ctx context.Context, queue workqueue.TypedRateLimitingInterface[types.UID]) error {
	lists, err := e.discovery.ServerPreferredResources()
	if err != nil {
		return fmt.Errorf("cannot find out what may be garbage: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue = queue
	close(e.started)
	for _, l := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"delete", "list", "watch"}}, lists) {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			return fmt.Errorf("cannot find out what may be garbage: %w", err)
		}
		for _, r := range l.APIResources {
			if r.Name == "events" && (gv.Group == corev1.GroupName || gv.Group == eventsv1.GroupName) {
				continue
			}
			if err := e.watch(ctx, gv.WithKind(r.Kind)); err != nil {
				return fmt.Errorf("cannot watch %s: %w", r.Name, err)
			}
		}
	}
	return nil
}

// watch begins to follow one kind. The lock is held.
func (e *Everything) watch(ctx context.Context, kind schema.GroupVersionKind) error {
	if e.kinds[kind.GroupKind()] != nil {
		return nil
	}
	var example client.Object
	if whole(kind) {
		o, err := clientscheme.Scheme.New(kind)
		if err != nil {
			return err
		}
		example = o.(client.Object)
	} else {
		o := &metav1.PartialObjectMetadata{}
		o.SetGroupVersionKind(kind)
		example = o
	}
	informer, err := e.cache.GetInformer(ctx, example, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	apiVersion, name := kind.ToAPIVersionAndKind()
	observe := func(o any) {
		wake, strays := e.graph.observe(newVertex(apiVersion, name, o.(client.Object)))
		for _, s := range strays {
			e.tell(s)
		}
		for _, uid := range wake {
			e.queue.Add(uid)
		}
	}
	remove := func(o any) {
		if last, unknown := o.(toolscache.DeletedFinalStateUnknown); unknown {
			o = last.Obj
		}
		for _, uid := range e.graph.remove(o.(client.Object).GetUID()) {
			e.queue.Add(uid)
		}
		if ns := o.(client.Object).GetNamespace(); ns != "" {
			e.tellLess(ns)
		}
	}
	handler, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: observe, DeleteFunc: remove,
		UpdateFunc: func(old, o any) {
			if old.(client.Object).GetUID() != o.(client.Object).GetUID() {
				remove(old) // the watch was broken meanwhile
			}
			observe(o)
			if ns := o.(client.Object).GetNamespace(); ns != "" && len(o.(client.Object).GetFinalizers()) < len(old.(client.Object).GetFinalizers()) {
				e.tellLess(ns)
			}
		},
	})
	e.kinds[kind.GroupKind()], e.handlers = example, append(e.handlers, handler)
	return err
}

// tell says that an object names an owner that it cannot have.
func (e *Everything) tell(s stray) {
	ref := &corev1.ObjectReference{APIVersion: s.from.APIVersion, Kind: s.from.Kind, Namespace: s.from.Namespace, Name: s.from.Name, UID: s.from.UID}
	e.events.Eventf(ref, corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef %s does not exist in namespace %q", s.to, s.from.Namespace)
}

// WaitForSync waits until the graph is whole: before that, a dependent that has
// not been seen would be taken for none.
func (e *Everything) WaitForSync(ctx context.Context) error {
	e.mu.Lock()
	handlers := e.handlers
	e.mu.Unlock()
	for _, h := range handlers {
		select {
		case <-h.HasSyncedChecker().Done():
		case <-ctx.Done():
			return errors.New("cannot see all that may be garbage in time")
		}
	}
	return nil
}

// watches says whether a kind comes into the graph.
func (e *Everything) watches(kind schema.GroupKind) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.kinds[kind] != nil
}
