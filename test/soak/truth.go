// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/test/machine"
)

const (
	// lookEvery is how often the machine is compared with the API.
	lookEvery = 2 * time.Second
	// newsTime is how long a status may take to follow the machine, faults not
	// counted, when many wait for two cores.
	newsTime = 20 * time.Second
	// pardonTime is how long the processes of a Pod whose deletion was forced may
	// live beside the next of its name.
	pardonTime = 15 * time.Second
)

// named is a container as people know it.
type named struct {
	uid       types.UID
	pod, name string // the Pod with its namespace
}

// truth compares what lives on the machine with what the API says.
type truth struct {
	dir     string
	story   *story
	weather *weather
	client  kubernetes.Interface // not by way of the proxy

	mu      sync.Mutex // guards the fields below
	names   map[string]named
	pardons map[string]time.Time // by name of the Pod
	kills   map[types.UID]bool   // Pods that a fault has killed a container of
	seen    map[string]time.Time // suspicions, since when
	told    map[string]bool
}

func newTruth(n *node, w *weather, client kubernetes.Interface) *truth {
	return &truth{dir: n.dir, story: n.story, weather: w, client: client,
		names: map[string]named{}, pardons: map[string]time.Time{}, kills: map[types.UID]bool{}, seen: map[string]time.Time{}, told: map[string]bool{}}
}

func (t *truth) pardon(pod string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pardons[pod] = time.Now()
}

func (t *truth) kill(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kills[uid] = true
}

func (t *truth) killed(uid types.UID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kills[uid]
}

// dead: a Pod that is gone from the API has no process.
func (t *truth) dead(name string, uid types.UID) {
	for _, m := range machine.Members(t.dir) {
		if types.UID(m.UID) == uid {
			t.story.breach("pod %s (%s) is gone from the API, and process %d of its container %s lives", name, uid, m.Pid, m.Container)
		}
	}
}

// run looks until the end.
func (t *truth) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookEvery):
		}
		t.look(ctx)
	}
}

func (t *truth) look(ctx context.Context) {
	first := machine.Members(t.dir)
	if t.doubled(first) != nil {
		// One may have ended while the other was found: both have to live still.
		second := machine.Members(t.dir)
		both := slices.DeleteFunc(first, func(m machine.Member) bool { return !slices.Contains(second, m) })
		for _, text := range t.doubled(both) {
			t.tell(text)
		}
	}
	if !t.weather.calm() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	list, err := t.client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return // the node is going down
	}
	for _, text := range t.suspect(untrue(list.Items, machine.Members(t.dir)), time.Now()) {
		t.tell(text)
	}
}

// tell makes each breach known once.
func (t *truth) tell(text string) {
	t.mu.Lock()
	told := t.told[text]
	t.told[text] = true
	t.mu.Unlock()
	if !told {
		t.story.breach("%s", text)
	}
}

// suspect returns what has been so for too long without a fault.
func (t *truth) suspect(found []string, now time.Time) (out []string) {
	cleared, calm := t.weather.calmSince()
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := map[string]time.Time{}
	for _, text := range found {
		since, ok := t.seen[text]
		if !ok || !calm || since.Before(cleared) {
			since = now
		}
		seen[text] = since
		if now.Sub(since) > newsTime {
			out = append(out, text)
		}
	}
	t.seen = seen
	return out
}

// doubled says which identities more than one has.
func (t *truth) doubled(members []machine.Member) (out []string) {
	containers, pods := map[[2]string]string{}, map[string]named{}
	for _, m := range members {
		n, ok := t.nameOf(m.Container)
		if !ok {
			continue
		}
		key := [2]string{string(n.uid), n.name}
		if other, ok := containers[key]; ok && other != m.Container {
			out = append(out, fmt.Sprintf("container %s of pod %s (%s) lives twice: %s and %s", n.name, n.pod, n.uid, min(other, m.Container), max(other, m.Container)))
		}
		containers[key] = m.Container
		if other, ok := pods[n.pod]; ok && other.uid != n.uid && !t.pardoned(n.pod) {
			out = append(out, fmt.Sprintf("pod %s lives twice: %s and %s", n.pod, min(other.uid, n.uid), max(other.uid, n.uid)))
		}
		pods[n.pod] = n
	}
	return out
}

func (t *truth) pardoned(pod string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.pardons[pod]) < pardonTime
}

// nameOf reads the record of a container, which may be gone before its name
// was asked for.
func (t *truth) nameOf(id string) (named, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.names[id]; ok {
		return n, true
	}
	b, err := os.ReadFile(filepath.Join(t.dir, "runtime", "containers", id, "container.json"))
	if err != nil {
		return named{}, false
	}
	var record struct {
		Config struct {
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
			Labels map[string]string `json:"labels"`
		} `json:"config"`
	}
	if err := json.Unmarshal(b, &record); err != nil {
		return named{}, false
	}
	labels := record.Config.Labels
	n := named{
		uid: types.UID(labels["io.kubernetes.pod.uid"]), pod: labels["io.kubernetes.pod.namespace"] + "/" + labels["io.kubernetes.pod.name"],
		name: record.Config.Metadata.Name,
	}
	t.names[id] = n
	return n, true
}

// untrue says where the API and the machine differ.
func untrue(list []corev1.Pod, members []machine.Member) (out []string) {
	lives, owners := map[string]bool{}, map[string]bool{}
	for _, m := range members {
		lives[m.Container], owners[m.UID] = true, true
	}
	for _, p := range list {
		delete(owners, string(p.UID))
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses) {
			_, id, _ := strings.Cut(s.ContainerID, "://")
			who := fmt.Sprintf("container %s of pod %s/%s (%s), %s,", s.Name, p.Namespace, p.Name, p.UID, id)
			switch {
			case s.State.Running != nil && !lives[id]:
				out = append(out, who+" runs by the API, and has no process")
			case s.State.Running == nil && lives[id]:
				out = append(out, who+" does not run by the API, and has a process")
			}
		}
	}
	for uid := range owners {
		out = append(out, "a process of pod "+uid+" lives, which the API does not have")
	}
	return out
}
