// SPDX-License-Identifier: Apache-2.0

// Package node is the node agent: it makes the Pods that the API assigns to
// this node real, keeps them true, and reports. Downwards it speaks CRI alone,
// so any runtime will do; upwards it is a client of the API like any other.
//
// One actor per Pod (actor.go) holds the newest Pod, observes what the runtime
// has, plans (plan.go, terminate.go: pure), acts, and writes the status
// (status.go: pure) where it differs. Nothing is polled: an actor wakes for a
// new Pod, an event of the runtime, a finished job, a probe, or its one timer.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	watchapi "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/cri"
	"github.com/peapod/peapod/volume"
)

// Config is what a node agent is made from.
type Config struct {
	NodeName string
	Client   kubernetes.Interface
	CRI      cri.Client
	// Dir holds volumes and the small files of Pods.
	Dir    string
	LogDir string
	// Seccomp holds the profiles of type Localhost.
	Seccomp string
	// CgroupRoot is the parent of all Pods' cgroups.
	CgroupRoot string
	// IP is the node's own address; PodCIDR its range, where it is not the
	// cluster that gives it one (AwaitRange).
	IP      net.IP
	PodCIDR string
	// Untaint has the agent take away the taint that a new Node begins with.
	Untaint bool
	// Listen serves logs, exec and the like over TLS; TLS asks for client
	// certificates of the cluster.
	Listen net.Listener
	Serve  func(ctx context.Context, l net.Listener, h http.Handler) error
	// APIServer is where Pods find the API: the environment of every
	// container names it.
	APIHost, APIPort string
	// ClusterDNS is the address of the cluster's name server; empty where there
	// is none. ClusterDomain is what its names end with.
	ClusterDNS, ClusterDomain string
	Version                   string
	// Services are those of a namespace, for the environment of containers.
	// Without it the API is asked.
	Services func(ctx context.Context, namespace string) ([]corev1.Service, error)
	// Reach returns when the API can be reached; it is asked before Pods are
	// listed or watched anew. May be nil.
	Reach func(ctx context.Context) error
	// Drained returns when no new connection reaches the Pod any more; it is
	// awaited, for a moment, before a Pod that is being deleted is asked to
	// end. May be nil.
	Drained func(ctx context.Context, uid types.UID) error
	Log     *slog.Logger
	Now     func() time.Time
}

// Agent is one node agent.
type Agent struct {
	cfg     Config
	volumes *volume.Mounter
	objects *objects
	events  record.EventRecorder
	cgroups *cgroups
	node    nodeState
	pulls   pullQueue
	// appArmor says whether the kernel enforces profiles.
	appArmor bool
	rotator  *rotator

	// admission is held while a Pod is admitted beside those admitted before,
	// and guards the actors' accepted. It is taken before mu.
	admission sync.Mutex

	mu     sync.Mutex // guards actors and ends
	actors map[types.UID]*actor
	ends   map[string]map[*func()]bool // by container ID: called at its end
	work   sync.WaitGroup
}

// New prepares an agent; nothing happens before Run.
func New(cfg Config) (*Agent, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	groups, err := newCgroups(cfg.CgroupRoot)
	if err != nil {
		return nil, fmt.Errorf("cannot start node agent: %w", err)
	}
	a := &Agent{cfg: cfg, actors: map[types.UID]*actor{}, cgroups: groups, appArmor: appArmorEnabled()}
	a.objects = newObjects(cfg.Client)
	a.rotator = newRotator(a.reopenLog, cfg.Now, cfg.Log)
	a.volumes = &volume.Mounter{Root: cfg.Dir, Sources: a.objects, Allocatable: a.node.allocatable, Due: func(uid types.UID) {
		if x := a.actor(uid); x != nil {
			x.refresh()
		}
	}}
	return a, nil
}

// Run works until ctx ends and leaves the Pods running. ready is called when
// the Node object says so.
func (a *Agent) Run(ctx context.Context, ready func()) error {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(a.eventSink())
	a.events = broadcaster.NewRecorder(eventScheme(), corev1.EventSource{Component: "kubelet", Host: a.cfg.NodeName})
	defer a.work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 3)
	run := func(what string, f func(context.Context) error) {
		a.work.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				failed <- fmt.Errorf("cannot %s: %w", what, err)
			}
		})
	}
	a.events.Event(a.nodeReference(), corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	if err := a.register(ctx); err != nil {
		return err
	}
	run("serve the node's endpoint", func(ctx context.Context) error { return a.cfg.Serve(ctx, a.cfg.Listen, a.handler()) })
	run("follow the runtime", a.followRuntime)
	run("follow the API", a.followPods)
	run("renew the node's lease", a.renewLease)
	run("follow the node", a.followNode)
	run("rotate logs", a.rotator.run)
	ready()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// followPods hands each change of a Pod of this node to its actor, after it
// has found what is here of Pods that the API no longer has.
func (a *Agent) followPods(ctx context.Context) error {
	lw := cache.NewListWatchFromClient(a.cfg.Client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll, fields.OneTermEqualSelector("spec.nodeName", a.cfg.NodeName))
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: a.follow(lw), ObjectType: &corev1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { a.desire(ctx, o.(*corev1.Pod)) },
			UpdateFunc: func(_, o any) { a.desire(ctx, o.(*corev1.Pod)) },
			DeleteFunc: func(o any) {
				if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = gone.Obj
				}
				if p, ok := o.(*corev1.Pod); ok {
					a.forget(p.UID)
				}
			},
		},
	})
	a.work.Go(func() { controller.RunWithContext(ctx) })
	if !cache.WaitForCacheSync(ctx.Done(), controller.HasSynced) {
		return nil
	}
	return a.adoptOrphans(ctx)
}

// follow waits for the API before it is asked: a reflector that was refused for
// long would come back up to a minute after it is there again, and what this
// node should have ended meanwhile would go on as long.
func (a *Agent) follow(lw *cache.ListWatch) cache.ListerWatcher {
	if reach := a.cfg.Reach; reach != nil {
		list, watch := lw.ListWithContextFunc, lw.WatchFuncWithContext
		lw.ListWithContextFunc = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			if err := reach(ctx); err != nil {
				return nil, err
			}
			return list(ctx, o)
		}
		lw.WatchFuncWithContext = func(ctx context.Context, o metav1.ListOptions) (watchapi.Interface, error) {
			if err := reach(ctx); err != nil {
				return nil, err
			}
			return watch(ctx, o)
		}
	}
	return cache.ToListWatcherWithWatchListSemantics(lw, a.cfg.Client)
}

// desire gives an actor its newest Pod, and makes the actor if need be.
func (a *Agent) desire(ctx context.Context, p *corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if x := a.actors[p.UID]; x != nil {
		x.want(p)
		return
	}
	// Of a deletion and a creation in one, a watch that was interrupted tells
	// an update alone: the name's earlier owners are gone.
	for _, x := range a.actors {
		if old := x.pod(); old.Name == p.Name && old.Namespace == p.Namespace && !x.isGone() {
			x.gone()
		}
	}
	a.begin(ctx, newActor(a, p, false))
}

// begin lets an actor work; the caller holds mu.
func (a *Agent) begin(ctx context.Context, x *actor) {
	a.actors[x.pod().UID] = x
	a.work.Go(func() { x.run(ctx) })
}

// forget tells an actor that the API has let go of its Pod.
func (a *Agent) forget(uid types.UID) {
	a.mu.Lock()
	x := a.actors[uid]
	a.mu.Unlock()
	if x != nil {
		x.gone()
	}
}

func (a *Agent) remove(uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.actors, uid)
}

func (a *Agent) find(namespace, name string) *actor {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found *actor
	for _, x := range a.actors {
		// A Pod that is still dying may have a successor of the same name.
		if p := x.pod(); p.Namespace == namespace && p.Name == name && (found == nil || !x.isGone()) {
			found = x
		}
	}
	return found
}

func (a *Agent) actor(uid types.UID) *actor {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.actors[uid]
}

// mostPause is the longest wait for a runtime that does not answer.
const mostPause = 10 * time.Second

// relistPeriod is how often a runtime without events is asked: as kubelets do
// (genericPlegRelistPeriod).
const relistPeriod = time.Second

// followRuntime wakes the actor of each event. When the stream breaks, all
// actors look anew as soon as the runtime answers again.
func (a *Agent) followRuntime(ctx context.Context) error {
	pause := firstRetry
	for {
		began := a.cfg.Now()
		err := a.followEvents(ctx)
		if ctx.Err() != nil {
			return nil
		}
		a.cfg.Log.Info("events of the runtime were interrupted", "op", "events", "err", err)
		switch {
		case grpcstatus.Code(err) == codes.Unimplemented:
			// It is from before CRI had events; containerd 1.6 is.
			pause = relistPeriod
		case a.cfg.Now().Sub(began) > mostPause:
			pause = firstRetry
		}
		clock := time.NewTimer(pause)
		select {
		case <-clock.C:
		case <-ctx.Done():
			clock.Stop()
			return nil
		}
		pause = min(2*pause, mostPause)
	}
}

func (a *Agent) followEvents(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.cfg.CRI.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return err
	}
	a.wakeAll()
	for {
		e, err := stream.Recv()
		if err != nil {
			return err
		}
		if e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
			a.containerEnded(e.ContainerId)
		}
		if x := a.actor(types.UID(e.GetPodSandboxStatus().GetLabels()[labelPodUID])); x != nil {
			x.wake()
		}
	}
}

// whenEnded calls f when the container ends, until cancelled.
func (a *Agent) whenEnded(id string, f func()) (cancel func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ends == nil {
		a.ends = map[string]map[*func()]bool{}
	}
	if a.ends[id] == nil {
		a.ends[id] = map[*func()]bool{}
	}
	a.ends[id][&f] = true
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.ends[id], &f)
		if len(a.ends[id]) == 0 {
			delete(a.ends, id)
		}
	}
}

func (a *Agent) containerEnded(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for f := range a.ends[id] {
		(*f)()
	}
}

// wakeAll makes everybody look anew: events may have been lost.
func (a *Agent) wakeAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range a.actors {
		x.wake()
	}
	for _, followers := range a.ends {
		for f := range followers {
			(*f)()
		}
	}
}

// TerminateAll ends every Pod the runtime has, each within its grace period
// but at most limit (0: no limit). It needs no API.
func (a *Agent) TerminateAll(ctx context.Context, limit time.Duration) error {
	list, err := a.cfg.CRI.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("cannot end pods: %w", err)
	}
	var all sync.WaitGroup
	errs := make([]error, len(list.Items))
	for i, s := range list.Items {
		all.Go(func() { errs[i] = a.endSandbox(ctx, s, limit) })
	}
	all.Wait()
	return errors.Join(append(errs, a.unmountRemnants())...)
}
