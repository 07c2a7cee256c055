// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// soak is one run.
type soak struct {
	options
	node    *node
	disk    *disk
	story   *story
	proxy   *proxy
	weather *weather
	ledger  *ledger
	truth   *truth

	config   *rest.Config // by way of the proxy, as all of the lives
	typed    kubernetes.Interface
	objects  dynamic.Interface
	metadata metadata.Interface // not by way of the proxy
	baseline []string           // what is on the machine when nothing runs
	known    []string           // how it has come to differ, as was told

	mu      sync.Mutex // guards the fields below
	lived   map[string]int
	failed  bool // a life has not come to its end in this tide
	spared  map[types.UID]bool
	samples []sample
}

func newSoak(ctx context.Context, o options, n *node, s *story) (*soak, error) {
	direct, err := clientcmd.BuildConfigFromFlags("", filepath.Join(n.dir, "admin.kubeconfig"))
	if err != nil {
		return nil, err
	}
	direct.QPS = -1
	direct.WarningHandler = rest.NoWarnings{}
	x := &soak{options: o, node: n, disk: n.disk, story: s, weather: &weather{}, ledger: &ledger{},
		lived: map[string]int{}, spared: map[types.UID]bool{}}
	if x.proxy, err = newProxy(o.listen); err != nil {
		return nil, err
	}
	x.config = rest.CopyConfig(direct)
	x.config.Host = "https://" + x.proxy.address()
	client, err1 := kubernetes.NewForConfig(direct)
	var err2, err3, err4 error
	x.typed, err2 = kubernetes.NewForConfig(x.config)
	x.objects, err3 = dynamic.NewForConfig(x.config)
	x.metadata, err4 = metadata.NewForConfig(direct)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		x.close()
		return nil, err
	}
	x.truth = newTruth(n, x.weather, client)
	_, err = client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		x.close()
		return nil, err
	}
	return x, nil
}

func (x *soak) close() { x.proxy.close() }

// drawn is what a name draws from the seed, whenever it is asked.
func (x *soak) drawn(name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(x.seed, h.Sum64()))
}

func (x *soak) life(ctx context.Context, name string) *life {
	return &life{soak: x, Context: ctx, name: name, r: x.drawn(name)}
}

// run goes through the tides.
func (x *soak) run(ctx context.Context) {
	if err := x.warmUp(ctx); err != nil {
		x.story.breach("the first Pods: %v", err)
		return
	}
	x.baseline = x.settled(ctx)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchers.Go(func() { x.truth.run(ctx) })
	watchers.Go(func() { x.audit(ctx) })
	watchers.Go(func() { x.progress(ctx) })
	for n := 0; ctx.Err() == nil && time.Since(x.story.begun) < x.duration; n++ {
		if err := x.flow(ctx, n); err != nil && ctx.Err() == nil {
			x.story.breach("tide %d: %v", n, err)
			return
		}
		if x.story.broken() >= mostBreaches {
			return
		}
	}
}

// warmUp makes what stays, such as the parents of cgroups, by a Pod of each
// class.
func (x *soak) warmUp(ctx context.Context) error {
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		l := x.life(ctx, "first-"+strings.ToLower(string(class)))
		p := shell(l.name, stay)
		memory := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
		switch class {
		case corev1.PodQOSGuaranteed:
			memory[corev1.ResourceCPU] = resource.MustParse("100m")
			p.Spec.Containers[0].Resources.Limits = memory
		case corev1.PodQOSBurstable:
			p.Spec.Containers[0].Resources.Requests = memory
		}
		e, err := l.create(pods, p)
		if err != nil {
			return err
		}
		if _, err := l.pod(l.name, "runs", running); err != nil {
			return err
		}
		if err := l.remove(e, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// audit compares the ledger with the API, all the time.
func (x *soak) audit(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Second):
		}
		_ = x.compare(ctx) // the API may be away; at the end of a tide it may not
	}
}

// compare compares the ledger with the API once.
func (x *soak) compare(ctx context.Context) error {
	for _, kind := range x.ledger.kinds() {
		before := x.ledger.quiet(kind)
		list, err := x.metadata.Resource(kind).Namespace(namespace).List(ctx, metav1.ListOptions{LabelSelector: mark})
		if err != nil {
			return err
		}
		for _, text := range compare(before, x.ledger.quiet(kind), list.Items) {
			x.truth.tell(text)
		}
	}
	return nil
}

func (x *soak) progress(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(30 * time.Second):
		}
		memory := "down"
		if pid := x.node.pid.Load(); pid != 0 {
			if mb, err := rss(int(pid)); err == nil {
				memory = fmt.Sprintf("%.0f MB", mb)
			}
		}
		x.story.say("%d lives, %d writes acknowledged, peapod %s, %d breaches; %s", x.lifeCount(), x.ledger.acknowledged(), memory, x.story.broken(), x.story.counts())
	}
}

func (x *soak) lifeCount() (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, k := range x.lived {
		n += k
	}
	return n
}

// summary prints what was seen, and is the run's error.
func (x *soak) summary() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "\nseed %d, %s, launcher %s\n", x.seed, x.story.age(), x.launcher)
	fmt.Fprintf(&b, "lives: ")
	for _, k := range slices.Sorted(maps.Keys(x.lived)) {
		fmt.Fprintf(&b, "%d %s, ", x.lived[k], k)
	}
	fmt.Fprintf(&b, "%d writes acknowledged\nfaults: %s\n", x.ledger.acknowledged(), x.story.counts())
	for _, list := range sampleLives(x.samples) {
		if len(list) < 2 {
			continue
		}
		fmt.Fprintf(&b, "memory, one process, %d samples in %v, each with nothing running:\n", len(list), list[len(list)-1].at.Sub(list[0].at).Round(time.Second))
		for _, m := range measures {
			fmt.Fprintf(&b, "  %-22s", m.name)
			for _, s := range list {
				fmt.Fprintf(&b, " %.0f", m.of(s))
			}
			fmt.Fprintf(&b, " (%+.1f an hour)\n", slope(list, m.of))
			if leaks(list, m.of, m.most) {
				x.story.breach("%s grows with every tide: from %.0f to %.0f", m.name, m.of(list[0]), m.of(list[len(list)-1]))
			}
		}
	}
	x.story.note("%s", b.String())
	fmt.Fprint(os.Stdout, b.String())
	if n := x.story.broken(); n > 0 {
		x.story.mu.Lock()
		defer x.story.mu.Unlock()
		return fmt.Errorf("%d breaches with -seed %d (all that happened is in %s):\n%s", n, x.seed, x.storyFile, strings.Join(x.story.breaches, "\n"))
	}
	fmt.Println("no breach")
	return nil
}
