// SPDX-License-Identifier: Apache-2.0

// Package memory is a Kubernetes API in memory, as far as programs that follow a
// cluster speak it: what the benchmarks give both subjects, so that what they
// compare is not two API servers.
package memory

import (
	"bytes"
	"fmt"
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
)

// Store is a cluster in memory: it keeps what it is given and tells who watches.
// Nothing is checked and nothing is durable.
type Store struct {
	// Seen is told of every change, under the lock; to be set before the first.
	Seen func(watch.EventType, runtime.Object)

	kinds map[schema.GroupVersionResource]schema.GroupVersionKind

	mu      sync.Mutex // guards the fields below
	version uint64
	shelves map[schema.GroupVersionResource]*shelf
}

// shelf is the objects of one resource, and who watches them.
type shelf struct {
	objects  map[types.NamespacedName]runtime.Object
	watchers map[*watcher]bool
}

// watcher has what it was not sent yet.
type watcher struct {
	mu      sync.Mutex
	pending []*event
	bell    chan struct{}
}

func (w *watcher) push(e *event) {
	w.mu.Lock()
	w.pending = append(w.pending, e)
	w.mu.Unlock()
	select {
	case w.bell <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []*event {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.pending
	w.pending = nil
	return list
}

// event is a change in the form of a watch's stream, encoded once per media
// type for all who watch.
type event struct {
	kind   watch.EventType
	object runtime.Object
	mu     sync.Mutex
	frames map[string][]byte
}

func (e *event) frame(m runtime.SerializerInfo, gv schema.GroupVersion) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if b := e.frames[m.MediaType]; b != nil {
		return b, nil
	}
	object, err := runtime.Encode(scheme.Codecs.EncoderForVersion(m.Serializer, gv), e.object)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := m.StreamSerializer.Framer.NewFrameWriter(&b)
	x := &metav1.WatchEvent{Type: string(e.kind), Object: runtime.RawExtension{Raw: object}}
	if err := m.StreamSerializer.Serializer.Encode(x, w); err != nil {
		return nil, err
	}
	e.frames[m.MediaType] = b.Bytes()
	return b.Bytes(), nil
}

// New is an empty cluster.
func New() *Store {
	s := &Store{kinds: map[schema.GroupVersionResource]schema.GroupVersionKind{}, shelves: map[schema.GroupVersionResource]*shelf{}}
	for kind := range scheme.Scheme.AllKnownTypes() {
		resource, _ := meta.UnsafeGuessKindToResource(kind)
		s.kinds[resource] = kind
	}
	return s
}

func (s *Store) shelf(r schema.GroupVersionResource) *shelf {
	x := s.shelves[r]
	if x == nil {
		x = &shelf{map[types.NamespacedName]runtime.Object{}, map[*watcher]bool{}}
		s.shelves[r] = x
	}
	return x
}

func nameOf(o runtime.Object) types.NamespacedName {
	m, _ := meta.Accessor(o)
	return types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}
}

// Put keeps objects in the place of their older versions. They must not be
// changed from then on.
func (s *Store) Put(r schema.GroupVersionResource, list ...runtime.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range list {
		s.write(r, o)
	}
}

func (s *Store) write(r schema.GroupVersionResource, o runtime.Object) {
	x, kind := s.shelf(r), watch.Added
	if x.objects[nameOf(o)] != nil {
		kind = watch.Modified
	}
	s.version++
	m, _ := meta.Accessor(o)
	m.SetResourceVersion(strconv.FormatUint(s.version, 10))
	x.objects[nameOf(o)] = o
	s.tell(x, kind, o)
}

// edit replaces an object by a changed copy of it; it is false if there is none.
func (s *Store) edit(r schema.GroupVersionResource, name types.NamespacedName, change func(runtime.Object) (runtime.Object, error)) (runtime.Object, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.shelf(r).objects[name]
	if o == nil {
		return nil, false, nil
	}
	o, err := change(o.DeepCopyObject())
	if err == nil {
		s.write(r, o)
	}
	return o, true, err
}

// Remove takes an object out; nil is that there is none.
func (s *Store) Remove(r schema.GroupVersionResource, name types.NamespacedName) runtime.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.shelf(r)
	o := x.objects[name]
	if o == nil {
		return nil
	}
	delete(x.objects, name)
	o = o.DeepCopyObject()
	s.version++
	m, _ := meta.Accessor(o)
	m.SetResourceVersion(strconv.FormatUint(s.version, 10))
	s.tell(x, watch.Deleted, o)
	return o
}

func (s *Store) tell(x *shelf, kind watch.EventType, o runtime.Object) {
	if s.Seen != nil {
		s.Seen(kind, o)
	}
	e := &event{kind: kind, object: o, frames: map[string][]byte{}}
	for w := range x.watchers {
		w.push(e)
	}
}

func (s *Store) get(r schema.GroupVersionResource, name types.NamespacedName) runtime.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shelf(r).objects[name]
}

// list is all objects, and what version that is.
func (s *Store) list(r schema.GroupVersionResource) (all []runtime.Object, version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.shelf(r).objects {
		all = append(all, o)
	}
	return all, strconv.FormatUint(s.version, 10)
}

// watch begins with all objects and the bookmark that says they were all, if
// they are asked for. Who does not ask for them has listed before anything
// changed: cases begin to change the cluster when the scheduler has bound a Pod.
func (s *Store) watch(r schema.GroupVersionResource, initial bool) (*watcher, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, x := &watcher{bell: make(chan struct{}, 1)}, s.shelf(r)
	x.watchers[w] = true
	if !initial {
		return w, nil
	}
	for _, o := range x.objects {
		w.push(&event{kind: watch.Added, object: o, frames: map[string][]byte{}})
	}
	o, err := scheme.Scheme.New(s.kinds[r])
	if err != nil {
		return nil, fmt.Errorf("cannot watch %v: %w", r, err)
	}
	m, err := meta.Accessor(o)
	if err != nil {
		return nil, fmt.Errorf("cannot watch %v: %w", r, err)
	}
	m.SetResourceVersion(strconv.FormatUint(s.version, 10))
	m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	w.push(&event{kind: watch.Bookmark, object: o, frames: map[string][]byte{}})
	return w, nil
}

func (s *Store) leave(r schema.GroupVersionResource, w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.shelf(r).watchers, w)
}
