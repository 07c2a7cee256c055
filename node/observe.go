// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"iter"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels and annotations that kubelets put on sandboxes and containers; tools
// read them, and after a restart they are all that is known.
const (
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"

	annotationHash     = "io.kubernetes.container.hash"
	annotationRestarts = "io.kubernetes.container.restartCount"
	annotationMessage  = "io.kubernetes.container.terminationMessagePath"
	annotationPolicy   = "io.kubernetes.container.terminationMessagePolicy"
	annotationPorts    = "io.kubernetes.container.ports"
	annotationGrace    = "io.kubernetes.pod.terminationGracePeriod"
	// The grace of a Pod that is being deleted while the container is made.
	annotationDeletionGrace = "io.kubernetes.pod.deletionGracePeriod"
	annotationPreStop       = "io.kubernetes.container.preStopHandler"
	annotationMessageDir    = "peapod.dev/termination-log"
	annotationOrder         = "peapod.dev/stop-order"
	// The resources the container was made with, as JSON.
	annotationResources = "peapod.dev/resources"
)

// instance is one container the runtime has.
type instance struct {
	id       string
	name     string
	sandbox  string
	attempt  int
	hash     string
	state    runtimeapi.ContainerState
	image    string // as the Pod named it
	imageID  string
	created  time.Time
	started  time.Time
	finished time.Time
	exitCode int
	reason   string
	message  string
	logPath  string
	user     *runtimeapi.ContainerUser
	// resources are those it was made with, or nil if that is not known.
	resources *corev1.ResourceRequirements
	images    map[string]string // that it mounts, by path
	// annotations as this agent wrote them.
	annotations map[string]string
}

func (i *instance) running() bool { return i.state == runtimeapi.ContainerState_CONTAINER_RUNNING }
func (i *instance) exited() bool  { return i.state == runtimeapi.ContainerState_CONTAINER_EXITED }

// podSandbox is one sandbox the runtime has.
type podSandbox struct {
	id      string
	attempt int
	ready   bool
	ips     []string
	created time.Time
}

// observed is what the runtime has of one Pod, newest first.
type observed struct {
	sandboxes  []podSandbox
	containers map[string][]*instance
}

// nothing says whether the runtime has nothing of the Pod.
func (o *observed) nothing() bool { return len(o.sandboxes) == 0 && len(o.containers) == 0 }

// sandbox is the newest sandbox if it is ready.
func (o *observed) sandbox() *podSandbox {
	if len(o.sandboxes) > 0 && o.sandboxes[0].ready {
		return &o.sandboxes[0]
	}
	return nil
}

// current is the newest instance of a container in the sandbox there is, or
// nil.
func (o *observed) current(name string) *instance {
	at, sb := o.latest(name), o.sandbox()
	if at == nil || sb == nil || at.sandbox != sb.id {
		return nil
	}
	return at
}

// latest is the newest instance of a container, or nil.
func (o *observed) latest(name string) *instance {
	if list := o.containers[name]; len(list) > 0 {
		return list[0]
	}
	return nil
}

func (o *observed) runningAny() bool {
	for range o.live() {
		return true
	}
	return false
}

func (o *observed) runningIn(sandbox string) bool {
	for i := range o.live() {
		if i.sandbox == sandbox {
			return true
		}
	}
	return false
}

// live goes through the instances that run.
func (o *observed) live() iter.Seq[*instance] {
	return func(yield func(*instance) bool) {
		for _, list := range o.containers {
			for _, i := range list {
				if i.running() && !yield(i) {
					return
				}
			}
		}
	}
}

// observe asks the runtime for everything it has of a Pod.
func (a *Agent) observe(ctx context.Context, uid types.UID) (*observed, error) {
	selector := map[string]string{labelPodUID: string(uid)}
	pods, err := a.cfg.CRI.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: selector}})
	if err != nil {
		return nil, err
	}
	out := &observed{containers: map[string][]*instance{}}
	for _, s := range pods.Items {
		st, err := a.cfg.CRI.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.Id})
		if grpcstatus.Code(err) == codes.NotFound {
			continue // removed in between
		} else if err != nil {
			return nil, err
		}
		sb := podSandbox{id: s.Id, attempt: int(s.Metadata.Attempt), ready: s.State == runtimeapi.PodSandboxState_SANDBOX_READY, created: time.Unix(0, s.CreatedAt)}
		if n := st.GetStatus().GetNetwork(); n.GetIp() != "" {
			sb.ips = append(sb.ips, n.Ip)
			for _, more := range n.AdditionalIps {
				sb.ips = append(sb.ips, more.Ip)
			}
		}
		out.sandboxes = append(out.sandboxes, sb)
	}
	slices.SortFunc(out.sandboxes, func(a, b podSandbox) int { return b.attempt - a.attempt })
	return out, a.observeContainers(ctx, selector, out)
}

func (a *Agent) observeContainers(ctx context.Context, selector map[string]string, out *observed) error {
	list, err := a.cfg.CRI.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: selector}})
	if err != nil {
		return err
	}
	for _, c := range list.Containers {
		r, err := a.cfg.CRI.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
		if grpcstatus.Code(err) == codes.NotFound {
			continue // removed in between
		} else if err != nil {
			return err // not to be taken for gone: it would be started twice
		}
		i := instanceOf(r.Status, c.PodSandboxId)
		out.containers[i.name] = append(out.containers[i.name], i)
	}
	for _, l := range out.containers {
		slices.SortFunc(l, func(a, b *instance) int {
			if a.attempt != b.attempt {
				return b.attempt - a.attempt
			}
			return b.created.Compare(a.created)
		})
	}
	return nil
}

func instanceOf(s *runtimeapi.ContainerStatus, sandbox string) *instance {
	at := func(n int64) time.Time {
		if n == 0 {
			return time.Time{}
		}
		return time.Unix(0, n)
	}
	i := &instance{
		id: s.Id, name: s.Labels[labelContainerName], sandbox: sandbox, hash: s.Annotations[annotationHash], state: s.State,
		image: s.Image.GetUserSpecifiedImage(), user: s.User, imageID: s.ImageRef, created: at(s.CreatedAt), started: at(s.StartedAt), finished: at(s.FinishedAt),
		exitCode: int(s.ExitCode), reason: s.Reason, message: s.Message, logPath: s.LogPath, annotations: s.Annotations, resources: madeWith(s.Annotations),
	}
	for _, m := range s.Mounts {
		if m.GetImage() == nil {
			continue
		}
		if i.images == nil {
			i.images = map[string]string{}
		}
		i.images[m.ContainerPath] = m.Image.Image
	}
	i.attempt = int(s.GetMetadata().GetAttempt())
	if n, err := strconv.Atoi(s.Annotations[annotationRestarts]); err == nil {
		i.attempt = n
	}
	return i
}

// has says whether the runtime has an instance.
func (o *observed) has(id string) bool {
	for _, list := range o.containers {
		if slices.ContainsFunc(list, func(i *instance) bool { return i.id == id }) {
			return true
		}
	}
	return false
}

// madeWith are the resources an instance was made with, or nil.
func madeWith(annotations map[string]string) *corev1.ResourceRequirements {
	var r corev1.ResourceRequirements
	if json.Unmarshal([]byte(annotations[annotationResources]), &r) != nil {
		return nil // by another agent
	}
	return &r
}
