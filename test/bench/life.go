// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
)

// patience bounds the wait for any one change.
const patience = time.Minute

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

func (n *node) watch(ctx context.Context) (*watcher, error) {
	list, err := n.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	// A watcher that falls behind is closed by the server: go on from there.
	w, err := toolswatch.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{WatchFuncWithContext: n.client.CoreV1().Pods(namespace).Watch})
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
			var last any
			if len(list) > 0 {
				last = list[len(list)-1].pod.Status
			}
			return time.Time{}, fmt.Errorf("pod %s is not as awaited after %v: %+v", name, patience, last)
		}
	}
}

func scheduled(s seen) bool { return s.pod.Spec.NodeName != "" }
func running(s seen) bool   { return s.pod.Status.Phase == corev1.PodRunning }
func deleted(s seen) bool   { return s.gone }
func ended(s seen) bool {
	return len(s.pod.Status.ContainerStatuses) == 1 && s.pod.Status.ContainerStatuses[0].State.Terminated != nil
}

// measureLife is P2 and P4: one Pod at a time, created and deleted.
func measureLife(ctx context.Context, o options, n *node, r *report) error {
	w, err := n.watch(ctx)
	if err != nil {
		return err
	}
	defer w.stop()
	for i := range o.pods {
		p := pod("life-"+strconv.Itoa(i), o.image, "sleep 3600")
		begin := time.Now()
		if err := n.create(ctx, p); err != nil {
			return err
		}
		created := time.Now()
		at, err := w.until(ctx, p.Name, running)
		if err != nil {
			return err
		}
		placed, err := w.until(ctx, p.Name, scheduled)
		if err != nil {
			return err
		}
		r.add("P2", "create to answer", created.Sub(begin))
		r.add("P2", "create to scheduled", placed.Sub(begin))
		r.add("P2", "create to Running", at.Sub(begin))
		begin = time.Now()
		if err := n.delete(ctx, p.Name); err != nil {
			return err
		}
		at, err = w.until(ctx, p.Name, deleted)
		if err != nil {
			return err
		}
		r.add("P4", "delete to gone", at.Sub(begin))
	}
	return nil
}

// measureExit is P5: the moment a process wrote before it ended, by the clock
// of the machine, to its status in a watch.
func measureExit(ctx context.Context, o options, n *node, r *report) error {
	w, err := n.watch(ctx)
	if err != nil {
		return err
	}
	defer w.stop()
	shared, err := os.MkdirTemp("", "bench-exit")
	if err != nil {
		return err
	}
	defer os.RemoveAll(shared)
	for i := range o.pods {
		p := pod("exit-"+strconv.Itoa(i), o.image, "")
		// The last thing the process does is to make a file.
		p.Spec.Containers[0].Command = []string{"sh", "-c", "until [ -e /shared/go-" + p.Name + " ]; do usleep 1000; done; exec touch /shared/" + p.Name}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
		p.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: shared}}}}
		if err := n.create(ctx, p); err != nil {
			return err
		}
		if _, err := w.until(ctx, p.Name, running); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(shared, "go-"+p.Name), nil, 0o600); err != nil {
			return err
		}
		at, err := w.until(ctx, p.Name, ended)
		if err != nil {
			return err
		}
		last, err := os.Stat(filepath.Join(shared, p.Name))
		if err != nil {
			return err
		}
		r.add("P5", "container exit to status", at.Sub(last.ModTime()))
		if err := n.delete(ctx, p.Name); err != nil {
			return err
		}
		if _, err := w.until(ctx, p.Name, deleted); err != nil {
			return err
		}
	}
	return nil
}

// measureBurst creates many Pods at once, and deletes them at once (P3).
func measureBurst(ctx context.Context, o options, n *node, r *report) error {
	w, err := n.watch(ctx)
	if err != nil {
		return err
	}
	defer w.stop()
	const many = 50
	name := func(i int) string { return "burst-" + strconv.Itoa(i) }
	all := func(do func(i int) error) error {
		errs := make(chan error, many)
		for i := range many {
			go func() { errs <- do(i) }()
		}
		var first error
		for range many {
			if err := <-errs; err != nil && first == nil {
				first = err
			}
		}
		return first
	}
	begin := time.Now()
	err = all(func(i int) error {
		if err := n.create(ctx, pod(name(i), o.image, "sleep 3600")); err != nil {
			return err
		}
		_, err := w.until(ctx, name(i), running)
		return err
	})
	if err != nil {
		return err
	}
	r.say("P3", "50 Pods at once, Running", perSecond(many, time.Since(begin)))
	begin = time.Now()
	err = all(func(i int) error {
		if err := n.delete(ctx, name(i)); err != nil {
			return err
		}
		_, err := w.until(ctx, name(i), deleted)
		return err
	})
	r.say("P3", "50 Pods at once, gone", perSecond(many, time.Since(begin)))
	return err
}

func perSecond(n int, d time.Duration) string {
	return fmt.Sprintf("%.0f pods/s", float64(n)/d.Seconds())
}
