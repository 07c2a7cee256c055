// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/peapod/peapod/cri"
	"github.com/peapod/peapod/volume"
)

// world is a node in memory under virtual time: the real agent between an API
// and a runtime that behave. Its diary has everything worth a test, with the
// milliseconds since the beginning.
type world struct {
	t     *testing.T
	begun time.Time
	dir   string
	cri   *fakeCRI
	node  *corev1.Node // as the agent finds it, or nil

	mu      sync.Mutex // guards the fields below
	diary   []string
	pods    map[types.UID]*corev1.Pod
	version int
	apiDown bool
	patches int
	states  []string // of each status written
	agent   *Agent
	stop    context.CancelFunc
	desire  func(p *corev1.Pod)
}

// inWorld runs f in virtual time with a fresh node.
func inWorld(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, begun: time.Now(), dir: t.TempDir(), pods: map[types.UID]*corev1.Pod{}}
		w.cri = newFakeCRI(w)
		w.start()
		defer w.kill()
		f(w)
	})
}

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := time.Since(w.begun).Round(time.Millisecond).Milliseconds()
	w.diary = append(w.diary, fmt.Sprintf("%d ", at)+fmt.Sprintf(format, args...))
}

// start makes an agent, as after a restart of the program.
func (w *world) start() {
	client := fake.NewClientset()
	client.PrependReactor("patch", "pods", w.patch)
	client.PrependReactor("delete", "pods", w.delete)
	a := &Agent{
		cfg: Config{
			NodeName: "n", Client: client, CRI: cri.Direct(func() cri.Server { return w.cri }), Dir: filepath.Join(w.dir, "node"), LogDir: filepath.Join(w.dir, "logs"),
			CgroupRoot: "test", IP: net.IPv4(192, 0, 2, 1), APIHost: "10.96.0.1", APIPort: "443", ClusterDNS: "10.96.0.10", ClusterDomain: "cluster.local", Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		},
		actors: map[types.UID]*actor{}, cgroups: &cgroups{root: "test"}, objects: newObjects(client), events: recorder{w},
	}
	a.node.runtime = "fake"
	if w.node != nil {
		a.node.learn(w.node)
	}
	a.rotator = newRotator(a.reopenLog, a.cfg.Now, a.cfg.Log)
	a.volumes = &volume.Mounter{Root: a.cfg.Dir, Sources: a.objects, Allocatable: a.node.allocatable}
	ctx, cancel := context.WithCancel(context.Background())
	w.agent, w.stop = a, cancel
	w.desire = func(p *corev1.Pod) { a.desire(ctx, p) }
	a.work.Go(func() {
		if err := a.followRuntime(ctx); err != nil {
			w.t.Error(err)
		}
	})
	w.mu.Lock()
	pods := slices.Collect(maps.Values(w.pods))
	w.mu.Unlock()
	for _, p := range pods {
		a.desire(ctx, p)
	}
	if err := a.adoptOrphans(ctx); err != nil {
		w.t.Fatal(err)
	}
}

// kill ends the agent as a crash does: everything runs on without it.
func (w *world) kill() {
	w.stop()
	w.agent.work.Wait()
}

func (w *world) restart() {
	w.kill()
	w.start()
}

// pass lets virtual time go on.
func (w *world) pass(d time.Duration) {
	clock := time.NewTimer(d)
	<-clock.C
	synctest.Wait()
}

// create puts a Pod into the API.
func (w *world) create(p *corev1.Pod) *corev1.Pod {
	p = p.DeepCopy()
	if p.Namespace == "" {
		p.Namespace = "default"
	}
	if p.UID == "" {
		p.UID = types.UID("uid-" + p.Name)
	}
	p.Generation = 1
	p.CreationTimestamp = metav1.Now()
	if p.Spec.RestartPolicy == "" {
		p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			c := &list[i]
			if c.Image == "" {
				c.Image = "peapod.dev/test:1"
			}
			if c.ImagePullPolicy == "" {
				c.ImagePullPolicy = corev1.PullIfNotPresent
			}
			c.TerminationMessagePath = "/dev/termination-log"
		}
	}
	p.Status.Phase = corev1.PodPending
	w.change(p)
	return p
}

// change stores a Pod and tells the agent.
func (w *world) change(p *corev1.Pod) {
	w.mu.Lock()
	w.version++
	p.ResourceVersion = strconv.Itoa(w.version)
	w.pods[p.UID] = p
	w.mu.Unlock()
	w.desire(p)
}

func (w *world) get(uid types.UID) *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.pods[uid]; p != nil {
		return p.DeepCopy()
	}
	return nil
}

// update changes a Pod as a client does.
func (w *world) update(uid types.UID, change func(p *corev1.Pod)) {
	p := w.get(uid)
	change(p)
	w.change(p)
}

// deletePod is the API's answer to a DELETE with this grace.
func (w *world) deletePod(uid types.UID, grace int64) {
	w.note("DELETE grace=%d", grace)
	p := w.get(uid)
	if grace == 0 {
		w.update(uid, func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now()}, &grace
		})
		w.remove(p)
		return
	}
	at := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
	if d := p.DeletionTimestamp; d != nil {
		at = metav1.NewTime(d.Add(time.Duration(grace-*p.DeletionGracePeriodSeconds) * time.Second))
	}
	w.update(uid, func(p *corev1.Pod) { p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, &grace })
}

func (w *world) remove(p *corev1.Pod) {
	w.mu.Lock()
	delete(w.pods, p.UID)
	w.mu.Unlock()
	w.agent.forget(p.UID)
}

func (w *world) patch(a clienttesting.Action) (bool, runtime.Object, error) {
	q := a.(clienttesting.PatchAction)
	w.mu.Lock()
	w.patches++
	down := w.apiDown
	var found *corev1.Pod
	for _, p := range w.pods {
		if p.Namespace == q.GetNamespace() && p.Name == q.GetName() {
			found = p
		}
	}
	w.mu.Unlock()
	if down {
		return true, nil, apierrors.NewServiceUnavailable("down")
	}
	if found == nil {
		return true, nil, apierrors.NewNotFound(corev1.Resource("pods"), q.GetName())
	}
	old, err := json.Marshal(found)
	if err != nil {
		return true, nil, err
	}
	b, err := strategicpatch.StrategicMergePatch(old, q.GetPatch(), corev1.Pod{})
	if err != nil {
		return true, nil, err
	}
	now := &corev1.Pod{}
	if err := json.Unmarshal(b, now); err != nil {
		return true, nil, err
	}
	if now.UID != found.UID {
		return true, nil, apierrors.NewConflict(corev1.Resource("pods"), q.GetName(), fmt.Errorf("uid"))
	}
	w.noteStates(now)
	w.change(now)
	return true, now, nil
}

func (w *world) delete(a clienttesting.Action) (bool, runtime.Object, error) {
	q := a.(clienttesting.DeleteActionImpl)
	w.mu.Lock()
	down := w.apiDown
	w.mu.Unlock()
	if down {
		return true, nil, apierrors.NewServiceUnavailable("down")
	}
	p := w.get(*q.DeleteOptions.Preconditions.UID)
	if p == nil {
		return true, nil, apierrors.NewNotFound(corev1.Resource("pods"), q.Name)
	}
	if *q.DeleteOptions.GracePeriodSeconds != 0 || !terminal(p.Status.Phase) {
		w.t.Errorf("pod %s is deleted with grace %d in phase %s", p.Name, *q.DeleteOptions.GracePeriodSeconds, p.Status.Phase)
	}
	if len(p.Finalizers) > 0 {
		w.update(p.UID, func(p *corev1.Pod) { p.DeletionGracePeriodSeconds = new(int64) })
		return true, nil, nil
	}
	w.note("gone %s", p.Name)
	w.remove(p)
	return true, nil, nil
}

// noteStates remembers the states of the containers, each once in a row.
func (w *world) noteStates(p *corev1.Pod) {
	var parts []string
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		text := s.Name + "="
		switch st := s.State; {
		case st.Running != nil:
			text += "Running"
		case st.Waiting != nil:
			text += st.Waiting.Reason
		case st.Terminated != nil:
			text += fmt.Sprintf("%s(%d)", st.Terminated.Reason, st.Terminated.ExitCode)
		}
		if s.Ready {
			text += "+"
		}
		parts = append(parts, text)
	}
	line := string(p.Status.Phase) + " " + strings.Join(parts, " ")
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.states); n == 0 || w.states[n-1] != line {
		w.states = append(w.states, line)
	}
}

// about are the lines of the diary that have one of the words.
func (w *world) about(words ...string) (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.diary {
		if slices.ContainsFunc(words, func(word string) bool { return strings.Contains(l, word) }) {
			out = append(out, l)
		}
	}
	return out
}

// want compares lines of the diary with what shall be there.
func (w *world) want(got []string, want ...string) {
	w.t.Helper()
	if !slices.Equal(got, want) {
		w.t.Errorf("got:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// wantTimes is want for what happens side by side: lines of one moment may come
// in any order.
func (w *world) wantTimes(got []string, want ...string) {
	w.t.Helper()
	order := func(a, b string) int {
		x, err := strconv.Atoi(strings.Fields(a)[0])
		y, err2 := strconv.Atoi(strings.Fields(b)[0])
		if err != nil || err2 != nil {
			w.t.Fatal(err, err2)
		}
		return cmp.Or(x-y, strings.Compare(a, b))
	}
	got, want = slices.SortedFunc(slices.Values(got), order), slices.SortedFunc(slices.Values(want), order)
	w.want(got, want...)
}

// recorder notes events.
type recorder struct{ w *world }

func (r recorder) Event(o runtime.Object, kind, reason, message string) {
	r.w.note("event %s %s: %s", kind, reason, message)
}
func (r recorder) Eventf(o runtime.Object, kind, reason, format string, args ...any) {
	r.Event(o, kind, reason, fmt.Sprintf(format, args...))
}
func (r recorder) AnnotatedEventf(o runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	r.Eventf(o, kind, reason, format, args...)
}
