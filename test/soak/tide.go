// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/test/machine"
)

const (
	// settleTime is how long it may take until nothing is left.
	settleTime = 90 * time.Second
	// Of so many tides the first are wild.
	cycle, wildTides = 8, 3
)

// flow is one tide: a storm, then calm.
func (x *soak) flow(ctx context.Context, n int) error {
	wild := n%cycle < wildTides
	x.story.say("tide %d begins, wild: %v", n, wild)
	keeper := x.life(ctx, fmt.Sprintf("resident-%d", n))
	homes, err := keeper.settleIn()
	if err != nil {
		return err
	}
	s := &storm{soak: x, Context: ctx, r: x.drawn(fmt.Sprintf("storm-%d", n)), wild: wild, lossless: true}
	end := time.Now().Add(min(x.tide, max(0, x.duration-time.Since(x.story.begun))))
	stop, raged := make(chan struct{}), make(chan error, 1)
	go func() { raged <- s.rage(stop) }()
	x.work(ctx, n, end, sync.OnceFunc(func() { close(stop) }))
	if err := <-raged; err != nil {
		return err
	}
	if err := keeper.moveOut(homes, s.lossless); err != nil {
		return err
	}
	return x.calm(ctx)
}

// work lives lives until the end of a tide, when calm is called; those that
// are under way then come to their end.
func (x *soak) work(ctx context.Context, tide int, end time.Time, calm func()) {
	var workers sync.WaitGroup
	for w := range x.workers {
		workers.Go(func() {
			for i := 0; time.Now().Before(end) && ctx.Err() == nil; i++ {
				x.liveOne(ctx, fmt.Sprintf("t%d-w%d-%d", tide, w, i))
			}
			calm()
		})
	}
	workers.Wait()
}

// liveOne draws a life and lives it.
func (x *soak) liveOne(ctx context.Context, name string) {
	l := x.life(ctx, name)
	sum := 0
	for _, k := range lives {
		sum += k.weight
	}
	n := l.r.IntN(sum)
	for _, k := range lives {
		if n -= k.weight; n >= 0 {
			continue
		}
		l.name = k.name + "-" + name
		err := k.live(l)
		x.mu.Lock()
		x.lived[k.name]++
		x.failed = x.failed || err != nil
		x.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			x.story.breach("%s: %v", l.name, err)
			x.evidence(ctx, l.name)
		}
		return
	}
}

// evidence keeps what may tell why a life was broken off: its events and what
// the program is at.
func (x *soak) evidence(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	events, err := x.truth.client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		x.story.note("no events of %s: %v", name, err)
		return
	}
	for _, e := range events.Items {
		if strings.HasPrefix(e.InvolvedObject.Name, name) {
			x.story.note("EVENT %s %s %s: %s (%d)", e.LastTimestamp.Format(time.TimeOnly), e.InvolvedObject.Name, e.Reason, e.Message, e.Count)
		}
	}
	stacks, err := x.truth.client.CoreV1().RESTClient().Get().AbsPath("/debug/pprof/goroutine").Param("debug", "2").DoRaw(ctx)
	if err == nil {
		err = os.WriteFile(x.storyFile+".goroutines", stacks, 0o644)
	}
	if err != nil {
		x.story.note("no goroutines of when %s was broken off: %v", name, err)
	}
}

// calm: after a storm all is as before, and the ledger is right.
func (x *soak) calm(ctx context.Context) error {
	if err := x.sweep(ctx); err != nil {
		return err
	}
	if odd := x.odd(x.settled(ctx)); len(odd) > 0 && ctx.Err() == nil {
		x.story.breach("the machine is not as it was:\n%s", strings.Join(odd, "\n"))
		x.known = append(x.known, odd...) // told once
	}
	if left, err := x.left(ctx); err != nil {
		return err
	} else if len(left) > 0 {
		x.story.breach("the API is not as it was: %s", strings.Join(left, ", "))
	}
	if err := x.compare(ctx); err != nil {
		return err
	}
	s, err := x.measure(ctx)
	if err != nil {
		return err
	}
	x.mu.Lock()
	x.samples = append(x.samples, s)
	x.mu.Unlock()
	x.story.say("calm: live heap %.0f MB, RSS %.0f MB, %.0f goroutines, %.0f files, keeper %.0f MB", s.heap, s.rss, s.goroutines, s.files, s.keeperRSS)
	return nil
}

// sweep removes what a life that did not come to its end has left.
func (x *soak) sweep(ctx context.Context) error {
	x.mu.Lock()
	failed := x.failed
	x.failed = false
	x.mu.Unlock()
	if !failed {
		return nil
	}
	x.ledger.forget()
	for _, kind := range x.ledger.kinds() {
		r := x.metadata.Resource(kind).Namespace(namespace)
		if err := r.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0), PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}, metav1.ListOptions{LabelSelector: mark}); err != nil {
			return err
		}
	}
	return nil
}

// settled waits until the machine is as before and nothing is left in the API,
// and returns what is on the machine.
func (x *soak) settled(ctx context.Context) (now []string) {
	for end := time.Now().Add(settleTime); time.Now().Before(end) && ctx.Err() == nil; {
		now = machine.Belongings(x.node.dir, "")
		left, err := x.left(ctx)
		if err == nil && len(left) == 0 && len(x.odd(now)) == 0 {
			return now
		}
		x.life(ctx, "").pause(500 * time.Millisecond)
	}
	return now
}

// odd is what is there and was not before, or the other way round. Before the
// first storm only what goes with a Pod is odd.
func (x *soak) odd(now []string) (out []string) {
	if x.baseline == nil {
		return slices.DeleteFunc(slices.Clone(now), func(s string) bool { return !ofPod(s) })
	}
	for _, s := range now {
		if !slices.Contains(x.baseline, s) && !slices.Contains(x.known, "+ "+s) {
			out = append(out, "+ "+s)
		}
	}
	for _, s := range x.baseline {
		if !slices.Contains(now, s) && !slices.Contains(x.known, "- "+s) {
			out = append(out, "- "+s)
		}
	}
	return out
}

// ofPod: it goes with a Pod.
func ofPod(belonging string) bool {
	return strings.Contains(belonging, "/pod") || strings.HasPrefix(belonging, "link ") || strings.HasPrefix(belonging, "record /runtime/sandboxes")
}

// left is what lives have left in the API.
func (x *soak) left(ctx context.Context) (out []string, err error) {
	for _, kind := range []schema.GroupVersionResource{pods, services, claims, deployments, statefulSets, jobs, configMaps,
		corev1.SchemeGroupVersion.WithResource("persistentvolumes"), corev1.SchemeGroupVersion.WithResource("endpoints"),
		appsv1.SchemeGroupVersion.WithResource("replicasets"), appsv1.SchemeGroupVersion.WithResource("controllerrevisions"),
		discoveryv1.SchemeGroupVersion.WithResource("endpointslices")} {
		within := namespace
		if kind.Resource == "persistentvolumes" {
			within = metav1.NamespaceNone
		}
		list, err := x.metadata.Resource(kind).Namespace(within).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for _, o := range list.Items {
			if o.Name != "kube-root-ca.crt" {
				out = append(out, kind.Resource+" "+o.Name)
			}
		}
	}
	return out, nil
}
