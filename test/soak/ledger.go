// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strconv"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// mark is the label of all that is in the ledger.
	mark = "soak"
	// counter is the annotation that each write of an object raises.
	counter = "soak/writes"
)

// standing is what the ledger knows of an object's being there.
type standing int

const (
	unsure  standing = iota // it is being made, or asked to go
	present                 // it was acknowledged, and nobody asked it to go
	gone                    // its end was seen
)

// entry is what was acknowledged of one object.
type entry struct {
	kind      schema.GroupVersionResource
	name      string
	uid       types.UID
	standing  standing
	writes    int  // the last acknowledged
	attempted int  // the last that was sent
	turn      int  // changes with each change here
	busy      bool // a call is under way
}

// ledger is the log of what the API server has acknowledged.
type ledger struct {
	mu      sync.Mutex // guards the fields below
	entries []*entry
	acks    int
}

func (l *ledger) add(kind schema.GroupVersionResource, name string) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &entry{kind: kind, name: name}
	l.entries = append(l.entries, e)
	return e
}

// change notes something about an entry.
func (l *ledger) change(e *entry, f func(*entry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(e)
	e.turn++
}

// acknowledge notes an answer.
func (l *ledger) acknowledge(e *entry, f func(*entry)) {
	l.change(e, func(e *entry) {
		f(e)
		e.busy = false
		l.acks++
	})
}

func (l *ledger) acknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acks
}

// forget drops what the ledger expects to be there.
func (l *ledger) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		if e.standing == present {
			e.standing = unsure
			e.turn++
		}
	}
}

// kinds are those of which the ledger has something.
func (l *ledger) kinds() (out []schema.GroupVersionResource) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		if !slices.Contains(out, e.kind) {
			out = append(out, e.kind)
		}
	}
	return out
}

// quiet copies the entries of a kind of which no call is under way.
func (l *ledger) quiet(kind schema.GroupVersionResource) (out []entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		if e.kind == kind && !e.busy {
			out = append(out, *e)
		}
	}
	return out
}

// compare says what is not as acknowledged: the entries of before and after
// the list was asked for, and what it had. Of those that changed meanwhile
// nothing is known.
func compare(before, after []entry, listed []metav1.PartialObjectMetadata) (out []string) {
	byUID := map[types.UID]*metav1.PartialObjectMetadata{}
	byName := map[string]*metav1.PartialObjectMetadata{}
	for i := range listed {
		byUID[listed[i].UID], byName[listed[i].Name] = &listed[i], &listed[i]
	}
	turns := map[types.UID]int{}
	for _, e := range after {
		turns[e.uid] = e.turn
	}
	for _, e := range before {
		if turn, ok := turns[e.uid]; !ok || turn != e.turn {
			continue
		}
		if text := judge(e, byUID[e.uid], byName[e.name]); text != "" {
			out = append(out, e.kind.Resource+" "+e.name+": "+text)
		}
	}
	return out
}

// judge compares one entry with the object of its UID and that of its name.
func judge(e entry, same, named *metav1.PartialObjectMetadata) string {
	switch {
	case e.standing == gone && same != nil:
		return "it has ended, and is there again"
	case e.standing != present:
		return ""
	case same == nil && named != nil:
		return fmt.Sprintf("acknowledged as %s, it is another one: %s", e.uid, named.UID)
	case same == nil:
		return "it was acknowledged, and is not there"
	}
	switch n, err := strconv.Atoi(same.Annotations[counter]); {
	case err != nil:
		return fmt.Sprintf("it has lost its count of writes: %v", same.Annotations)
	case n < e.writes:
		return fmt.Sprintf("%d writes were acknowledged, it has %d", e.writes, n)
	case n > e.attempted:
		return fmt.Sprintf("%d writes were sent, it has %d", e.attempted, n)
	}
	return ""
}
