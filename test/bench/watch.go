// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
	"k8s.io/utils/ptr"
)

// namespace of all measured Pods.
const namespace = "default"

// patience bounds the wait for any one change.
const patience = 3 * time.Minute

// seen is one change of a Pod and the moment the watch brought it.
type seen struct {
	at   time.Time
	pod  *corev1.Pod
	gone bool
}

// watcher hands out the changes of all Pods, by name.
type watcher struct {
	w watch.Interface

	mu   sync.Mutex // guards the fields below
	pods map[string][]seen
	news chan struct{} // closed and replaced at each change
}

func (v *visit) watch(ctx context.Context) (*watcher, error) {
	pods := v.Client.CoreV1().Pods(namespace)
	list, err := pods.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	// A watcher that falls behind is closed by the server: go on from there.
	w, err := toolswatch.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{WatchFuncWithContext: pods.Watch})
	if err != nil {
		return nil, err
	}
	x := &watcher{w: w, pods: map[string][]seen{}, news: make(chan struct{})}
	go x.run()
	return x, nil
}

func (x *watcher) run() {
	for e := range x.w.ResultChan() {
		now := time.Now()
		p, ok := e.Object.(*corev1.Pod)
		if !ok {
			continue
		}
		x.mu.Lock()
		x.pods[p.Name] = append(x.pods[p.Name], seen{now, p, e.Type == watch.Deleted})
		close(x.news)
		x.news = make(chan struct{})
		x.mu.Unlock()
	}
}

func (x *watcher) stop() { x.w.Stop() }

// until returns the moment a Pod was first seen as wanted.
func (x *watcher) until(ctx context.Context, name string, wanted func(seen) bool) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		x.mu.Lock()
		list, news := x.pods[name], x.news
		x.mu.Unlock()
		for _, s := range list {
			if wanted(s) {
				return s.at, nil
			}
		}
		select {
		case <-news:
		case <-ctx.Done():
			phase := corev1.PodPhase("never seen")
			if len(list) > 0 {
				phase = list[len(list)-1].pod.Status.Phase
			}
			return time.Time{}, fmt.Errorf("pod %s is not as awaited but %s: %w", name, phase, ctx.Err())
		}
	}
}

func scheduled(s seen) bool { return s.pod.Spec.NodeName != "" }
func running(s seen) bool   { return s.pod.Status.Phase == corev1.PodRunning }
func deleted(s seen) bool   { return s.gone }
func ended(s seen) bool {
	return len(s.pod.Status.ContainerStatuses) == 1 && s.pod.Status.ContainerStatuses[0].State.Terminated != nil
}
func ready(s seen) bool {
	for _, c := range s.pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// pod runs one shell command and ends on TERM at once.
func (v *visit) pod(name, command string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](5), RestartPolicy: corev1.RestartPolicyNever,
			Containers: []corev1.Container{{Name: "c", Image: v.image, Command: []string{"sh", "-c", "trap 'exit 0' TERM; " + command + " & wait"}}},
		},
	}
}

// sleeper is a Pod that does nothing.
func (v *visit) sleeper(name string) *corev1.Pod { return v.pod(name, "sleep 3600") }

// create creates a Pod and returns when, and when it was seen as wanted.
func (v *visit) create(ctx context.Context, w *watcher, p *corev1.Pod, wanted func(seen) bool) (begun, at time.Time, err error) {
	begun = time.Now()
	if _, err := v.Client.CoreV1().Pods(namespace).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		return begun, at, err
	}
	at, err = w.until(ctx, p.Name, wanted)
	return begun, at, err
}

// delete deletes a Pod and returns when, and when it was seen to be gone.
func (v *visit) delete(ctx context.Context, w *watcher, name string) (begun, at time.Time, err error) {
	begun = time.Now()
	if err := v.Client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return begun, at, err
	}
	at, err = w.until(ctx, name, deleted)
	return begun, at, err
}
