// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"container/heap"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
)

// Times of kube-scheduler's queue.
const (
	firstBackOff = time.Second
	mostBackOff  = 10 * time.Second
	// mostPatience is how long a Pod waits for a change that could help before
	// it is looked at all the same.
	mostPatience = 5 * time.Minute
)

// entry is a Pod as the scheduler knows it. Its room is in the queue, or on a
// node, or nowhere.
type entry struct {
	pod     *corev1.Pod
	node    string // where it takes room
	assumed bool   // the API does not know of the node yet

	// The queue's:
	line     *line // where it stands; nil: nowhere
	index    int
	asked    *wish     // made of pod when needed
	since    time.Time // when it came, or was tried last
	number   uint64    // orders what came at one moment
	tries    int       // without finding a place
	failures int       // of the API, one after another
	refused  []*rule   // what a change must cure before it is tried again
	due      time.Time // when it is tried without one
	again    bool      // cured while it was held

	supplying *supplying // waits for its volumes
	promised  string     // the node whose Pods leave for it

	written // what is to be written of it
}

func (e *entry) wish() *wish {
	if e.asked == nil {
		e.asked = newWish(e.pod)
	}
	return e.asked
}

// backOff doubles from a second to ten.
func backOff(n int) time.Duration {
	return min(firstBackOff<<min(max(n-1, 0), 8), mostBackOff)
}

// rested is when a refused Pod may be tried again though others wait. It is a
// whole second, so that of those that rest together the highest priority goes
// first.
func (e *entry) rested() time.Time {
	return e.since.Add(backOff(e.tries)).Truncate(time.Second).Add(time.Second)
}

// line is Pods in an order.
type line struct {
	entries []*entry
	less    func(a, b *entry) bool
}

func (l *line) Len() int           { return len(l.entries) }
func (l *line) Less(i, j int) bool { return l.less(l.entries[i], l.entries[j]) }
func (l *line) Swap(i, j int) {
	l.entries[i], l.entries[j] = l.entries[j], l.entries[i]
	l.entries[i].index, l.entries[j].index = i, j
}
func (l *line) Push(x any) {
	e := x.(*entry)
	e.line, e.index = l, len(l.entries)
	l.entries = append(l.entries, e)
}
func (l *line) Pop() any {
	last := len(l.entries) - 1
	e := l.entries[last]
	e.line, l.entries[last], l.entries = nil, nil, l.entries[:last]
	return e
}

func (l *line) first() *entry {
	if len(l.entries) == 0 {
		return nil
	}
	return l.entries[0]
}

// queue holds the Pods without a node.
//
//	add ──▶ active ──next──▶ the look over the nodes ──▶ a node
//	          ▲  ▲                 │ refused, failed
//	   rested │  └─────due──────┐  ▼
//	        resting ◀───cured── parked ◀──release── held
//
// Who is first of those that rest does not rest while nobody else is active.
type queue struct {
	active, resting, parked line
	held                    line // parked, and not to be tried yet
	count                   uint64
}

func newQueue() *queue {
	return &queue{
		active: line{less: before}, held: line{less: before},
		parked: line{less: func(a, b *entry) bool { return a.due.Before(b.due) }},
		resting: line{less: func(a, b *entry) bool {
			if x, y := a.rested(), b.rested(); !x.Equal(y) {
				return x.Before(y)
			}
			return before(a, b)
		}},
	}
}

// before: the higher priority first, of equals who waits longer.
func before(a, b *entry) bool {
	if x, y := schedulinghelper.PodPriority(a.pod), schedulinghelper.PodPriority(b.pod); x != y {
		return x > y
	}
	if !a.since.Equal(b.since) {
		return a.since.Before(b.since)
	}
	return a.number < b.number
}

// put moves a Pod to the end that it has in a line.
func (q *queue) put(e *entry, l *line) {
	q.remove(e)
	heap.Push(l, e)
}

// stamp says that a Pod came or was tried now.
func (q *queue) stamp(e *entry) {
	q.remove(e)
	q.count++
	e.since, e.number = time.Now(), q.count
}

// add takes a Pod in that was not looked at yet.
func (q *queue) add(e *entry) {
	q.stamp(e)
	q.put(e, &q.active)
}

// remove forgets a Pod.
func (q *queue) remove(e *entry) {
	if e.line != nil {
		heap.Remove(e.line, e.index)
	}
}

// refuse lets a Pod wait for a change that cures one of the rules.
func (q *queue) refuse(e *entry, by []*rule) {
	q.stamp(e)
	e.tries++
	e.failures, e.refused, e.due = 0, by, e.since.Add(mostPatience)
	q.put(e, &q.parked)
}

// fail lets a Pod wait that the API would not have on its node: no change is
// known to help, but time.
func (q *queue) fail(e *entry) {
	q.stamp(e)
	e.failures++
	e.refused, e.due = nil, e.since.Add(backOff(e.failures))
	q.put(e, &q.parked)
}

// hold keeps a parked Pod from being tried, until release.
func (q *queue) hold(e *entry) {
	e.again = false
	q.put(e, &q.held)
}

// release lets a Pod that was held wait as others do; in vain held, it is tried
// again soon.
func (q *queue) release(e *entry, vain bool) {
	if e.line != &q.held {
		return // it has gone, or has a node
	}
	if vain {
		e.due = time.Now().Add(firstBackOff)
	}
	q.put(e, &q.parked)
	if e.again {
		q.wake(e)
	}
}

// changed tells a change that could help Pods that wait. It says whether it
// helps one.
func (q *queue) changed(c any) (some bool) {
	for _, e := range q.held.entries {
		e.again = e.again || e.cured(c)
	}
	var cured []*entry
	for _, e := range q.parked.entries {
		if e.cured(c) {
			cured = append(cured, e)
		}
	}
	for _, e := range cured {
		q.wake(e)
	}
	return len(cured) > 0
}

func (e *entry) cured(c any) bool {
	for _, r := range e.refused {
		if r.cures(e.wish(), c) {
			return true
		}
	}
	return false
}

func (q *queue) wake(e *entry) {
	if time.Now().Before(e.rested()) {
		q.put(e, &q.resting)
	} else {
		q.put(e, &q.active)
	}
}

// next takes the Pod whose turn it is; nil if there is none now.
func (q *queue) next() *entry {
	now := time.Now()
	for e := q.parked.first(); e != nil && !now.Before(e.due); e = q.parked.first() {
		q.put(e, &q.active)
	}
	for e := q.resting.first(); e != nil && !now.Before(e.rested()); e = q.resting.first() {
		q.put(e, &q.active)
	}
	for _, l := range []*line{&q.active, &q.resting} {
		if e := l.first(); e != nil {
			q.remove(e)
			return e
		}
	}
	return nil
}

// due is when the next Pod is tried without a change; zero: never.
func (q *queue) due() time.Time {
	if e := q.parked.first(); e != nil {
		return e.due
	}
	return time.Time{}
}

// edited tells that a Pod that waits is not what it was. It says whether that
// gives it another look.
func (q *queue) edited(e *entry, c podEdited) bool {
	if e.line != &q.parked || !e.cured(c) {
		return false
	}
	q.wake(e)
	return true
}
