// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

const (
	// leaseDuration and leaseRenewal are a kubelet's: renewed at a quarter.
	leaseDuration = 40 * time.Second
	leaseRenewal  = 10 * time.Second
	// maxPods is what this agent accepts; its cost per Pod is small.
	maxPods = 1000
)

// nodeState is what the agent tells of its machine.
type nodeState struct {
	mu         sync.Mutex   // guards the fields below
	self       *corev1.Node // as the API has it
	capacity   corev1.ResourceList
	runtime    string
	conditions []corev1.NodeCondition // as last told
	outdated   chan struct{}          // of one: what was told is not so any more
}

func (s *nodeState) allocatable() corev1.ResourceList {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.capacity
}

// object is the node as the API has it, or nil before it was registered.
func (s *nodeState) object() *corev1.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.self
}

func (s *nodeState) learn(n *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.self = n
}

func (s *nodeState) runtimeName() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runtime
}

func (s *nodeState) memory() int64 {
	q := s.allocatable()[corev1.ResourceMemory]
	return q.Value()
}

// retell asks for the node's status to be told anew.
func (s *nodeState) retell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outdated != nil {
		select {
		case s.outdated <- struct{}{}:
		default:
		}
	}
}

// contradicts says whether others say something else of the node.
func (s *nodeState) contradicts(n *corev1.Node) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.conditions, func(told corev1.NodeCondition) bool {
		return !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == told.Type && c.Status == told.Status })
	})
}

// register makes or renews the Node object and says that it is Ready.
func (a *Agent) register(ctx context.Context) error {
	st, err := a.nodeStatus(ctx)
	if err != nil {
		return fmt.Errorf("cannot register node %s: %w", a.cfg.NodeName, err)
	}
	a.node.mu.Lock()
	a.node.capacity = st.Allocatable
	a.node.runtime, _, _ = strings.Cut(st.NodeInfo.ContainerRuntimeVersion, "://")
	a.node.conditions = slices.Clone(st.Conditions)
	if a.node.outdated == nil {
		a.node.outdated = make(chan struct{}, 1)
	}
	a.node.mu.Unlock()
	// Controllers write to the Node as well.
	if err := retry.RetryOnConflict(retry.DefaultRetry, func() error { return a.post(ctx, st) }); err != nil {
		return fmt.Errorf("cannot register node %s: %w", a.cfg.NodeName, err)
	}
	return nil
}

func (a *Agent) post(ctx context.Context, st corev1.NodeStatus) error {
	nodes := a.cfg.Client.CoreV1().Nodes()
	n, err := nodes.Get(ctx, a.cfg.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		n, err = nodes.Create(ctx, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: a.cfg.NodeName, Labels: nodeLabels(a.cfg.NodeName)},
			Spec:       corev1.NodeSpec{PodCIDR: a.cfg.PodCIDR},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return err
	}
	was := n.Status
	if n, err = a.patchNode(ctx, n, st); err != nil {
		return err
	}
	a.node.learn(n)
	a.tellConditions(was.Conditions, st.Conditions)
	if boot := was.NodeInfo.BootID; boot != "" && boot != st.NodeInfo.BootID {
		a.events.Eventf(a.nodeReference(), corev1.EventTypeWarning, "Rebooted", "Node %s has been rebooted, boot id: %s", a.cfg.NodeName, st.NodeInfo.BootID)
	}
	return nil
}

// nodeReference is the Node in events, by its name alone, as kubelets have it:
// they tell of a node that the API may not know yet.
func (a *Agent) nodeReference() *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", Name: a.cfg.NodeName, UID: types.UID(a.cfg.NodeName)}
}

// tellSchedulable tells that somebody has closed the node to new Pods, or opened
// it again.
func (a *Agent) tellSchedulable(was, now *corev1.Node) {
	if was == nil || was.Spec.Unschedulable == now.Spec.Unschedulable {
		return
	}
	word := "NodeSchedulable"
	if now.Spec.Unschedulable {
		word = "NodeNotSchedulable"
	}
	a.tellNode(word)
}

func (a *Agent) tellNode(word string) {
	a.events.Eventf(a.nodeReference(), corev1.EventTypeNormal, word, "Node %s status is now: %s", a.cfg.NodeName, word)
}

// tellConditions tells what has changed, in a kubelet's words.
func (a *Agent) tellConditions(was, now []corev1.NodeCondition) {
	words := map[corev1.NodeConditionType][2]string{ // true, false
		corev1.NodeMemoryPressure: {"NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
		corev1.NodeDiskPressure:   {"NodeHasDiskPressure", "NodeHasNoDiskPressure"},
		corev1.NodePIDPressure:    {"NodeHasInsufficientPID", "NodeHasSufficientPID"},
		corev1.NodeReady:          {"NodeReady", "NodeNotReady"},
	}
	for _, c := range now {
		same := func(o corev1.NodeCondition) bool { return o.Type == c.Type && o.Status == c.Status }
		if slices.ContainsFunc(was, same) {
			continue
		}
		word := words[c.Type][1]
		if c.Status == corev1.ConditionTrue {
			word = words[c.Type][0]
		}
		a.tellNode(word)
	}
}

// followNode keeps what others write to the Node object: labels and taints. Its
// conditions are put right: who has not heard of a node for a while says that
// nothing is known.
func (a *Agent) followNode(ctx context.Context) error {
	lw := cache.NewListWatchFromClient(a.cfg.Client.CoreV1().RESTClient(), "nodes", "", fields.OneTermEqualSelector(metav1.ObjectNameField, a.cfg.NodeName))
	look := func(o any) {
		n := o.(*corev1.Node)
		a.tellSchedulable(a.node.object(), n)
		a.node.learn(n)
		a.retryResizes()
		if a.node.contradicts(n) {
			a.node.retell()
		}
	}
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: a.follow(lw), ObjectType: &corev1.Node{},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, o any) { look(o) }},
	})
	controller.RunWithContext(ctx)
	return nil
}

func nodeLabels(name string) map[string]string {
	return map[string]string{
		corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": runtime.GOARCH,
	}
}

// patchNode writes status and labels. Taints are the business of the node
// controller, which goes by the status, but for the one that every new Node
// begins with: the controllers start beside this agent and come to it a few
// tenths of a second later, and until then no Pod could be placed. Where they do
// not start with it, they do it: a node may not change its taints
// (NodeRestriction).
func (a *Agent) patchNode(ctx context.Context, n *corev1.Node, st corev1.NodeStatus) (*corev1.Node, error) {
	for i, c := range st.Conditions {
		for _, was := range n.Status.Conditions {
			if was.Type == c.Type && was.Status == c.Status {
				st.Conditions[i].LastTransitionTime = was.LastTransitionTime
			}
		}
	}
	n = n.DeepCopy()
	n.Status = st
	up, err := a.cfg.Client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	taints := slices.DeleteFunc(slices.Clone(up.Spec.Taints), func(t corev1.Taint) bool {
		return a.cfg.Untaint && t.Key == corev1.TaintNodeNotReady && t.Effect == corev1.TaintEffectNoSchedule
	})
	patch := map[string]any{"metadata": map[string]any{"labels": nodeLabels(a.cfg.NodeName)}}
	if len(taints) < len(up.Spec.Taints) {
		patch["spec"] = map[string]any{"taints": taints}
		patch["metadata"].(map[string]any)["resourceVersion"] = up.ResourceVersion // nobody else's taint is lost
	}
	b, err := json.Marshal(patch)
	if err != nil {
		return nil, err
	}
	return a.cfg.Client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, b, metav1.PatchOptions{})
}

func (a *Agent) nodeStatus(ctx context.Context) (corev1.NodeStatus, error) {
	var st corev1.NodeStatus
	v, err := a.cfg.CRI.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return st, err
	}
	st.Capacity, err = machine(a.cfg.Dir)
	if err != nil {
		return st, err
	}
	st.Allocatable = st.Capacity.DeepCopy()
	st.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: a.cfg.IP.String()}, {Type: corev1.NodeHostName, Address: a.cfg.NodeName}}
	port := a.cfg.Listen.Addr().String()
	if i := strings.LastIndexByte(port, ':'); i >= 0 {
		n, err := strconv.Atoi(port[i+1:])
		if err != nil {
			return st, err
		}
		st.DaemonEndpoints.KubeletEndpoint.Port = int32(n)
	}
	st.NodeInfo = a.systemInfo(v)
	if err := a.runtimeFeatures(ctx, &st); err != nil {
		return st, err
	}
	st.Images, err = a.nodeImages(ctx)
	if err != nil {
		return st, err
	}
	now := metav1.NewTime(a.cfg.Now().Truncate(time.Second))
	cond := func(t corev1.NodeConditionType, s corev1.ConditionStatus, reason, message string) {
		st.Conditions = append(st.Conditions, corev1.NodeCondition{Type: t, Status: s, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now})
	}
	cond(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available")
	cond(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
	cond(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available")
	cond(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status")
	return st, nil
}

// machine is what the node has to give.
func machine(dir string) (corev1.ResourceList, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Statfs(dir, &fs); err != nil {
		return nil, err
	}
	return corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(int64(info.Totalram)*int64(info.Unit), resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(int64(fs.Blocks)*fs.Bsize, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(maxPods, resource.DecimalSI),
	}, nil
}

func (a *Agent) systemInfo(v *runtimeapi.VersionResponse) corev1.NodeSystemInfo {
	read := func(path string) string {
		b, _ := os.ReadFile(path) // absent on some machines
		return strings.TrimSpace(string(b))
	}
	info := corev1.NodeSystemInfo{
		MachineID: read("/etc/machine-id"), SystemUUID: read("/sys/class/dmi/id/product_uuid"), BootID: read("/proc/sys/kernel/random/boot_id"),
		KernelVersion: read("/proc/sys/kernel/osrelease"), OSImage: "Linux", ContainerRuntimeVersion: v.RuntimeName + "://" + v.RuntimeVersion,
		KubeletVersion: a.cfg.Version, OperatingSystem: "linux", Architecture: runtime.GOARCH,
	}
	for line := range strings.Lines(read("/etc/os-release")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			info.OSImage = strings.Trim(name, `"`)
		}
	}
	return info
}

// runtimeFeatures tells what the runtime offers, and each of its handlers.
func (a *Agent) runtimeFeatures(ctx context.Context, st *corev1.NodeStatus) error {
	r, err := a.cfg.CRI.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return err
	}
	if f := r.GetFeatures(); f != nil {
		st.Features = &corev1.NodeFeatures{SupplementalGroupsPolicy: ptr.To(f.SupplementalGroupsPolicy)}
	}
	for _, h := range r.GetRuntimeHandlers() {
		told := corev1.NodeRuntimeHandler{Name: h.Name}
		if f := h.GetFeatures(); f != nil {
			told.Features = &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: ptr.To(f.RecursiveReadOnlyMounts), UserNamespaces: ptr.To(f.UserNamespaces)}
		}
		st.RuntimeHandlers = append(st.RuntimeHandlers, told)
	}
	slices.SortFunc(st.RuntimeHandlers, func(a, b corev1.NodeRuntimeHandler) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// imagesTold is how many images the Node object lists, the largest first.
const imagesTold = 50

func (a *Agent) nodeImages(ctx context.Context) ([]corev1.ContainerImage, error) {
	list, err := a.cfg.CRI.Image.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, err
	}
	var out []corev1.ContainerImage
	for _, i := range list.Images {
		if len(out) == imagesTold {
			break
		}
		if names := append(i.RepoDigests, i.RepoTags...); len(names) > 0 {
			out = append(out, corev1.ContainerImage{Names: names, SizeBytes: int64(i.Size)})
		}
	}
	return out, nil
}
