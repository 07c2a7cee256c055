// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

func (s *Server) podRow() *row {
	return resource[corev1.Pod, corev1.PodList](corev1.SchemeGroupVersion, "Pod", "pods", "pod", hooks[corev1.Pod]{
		Defaults: defaults.Pod,
		Prepare:  preparePod,
		PrepareStatus: func(p, old *corev1.Pod) {
			p.DeletionTimestamp = nil // not the status' to write
			// QOSClass is decided once.
			p.Status.QOSClass = old.Status.QOSClass
		},
		Validate:       validation.Pod,
		ValidateUpdate: validation.PodUpdate,
		ValidateStatus: validation.PodStatusUpdate,
		Warn:           func(_ context.Context, p, old *corev1.Pod) []string { return validation.PodWarnings(p, old) },
		Selectable:     podFields,
		Graceful:       podGrace,
		Columns:        table.Pod(),
		Extend:         s.podSubresources,
	}, shortNames("po"), inAll, indexedBy("spec.nodeName"))
}

func preparePod(_ context.Context, p, old *corev1.Pod) {
	if old != nil {
		return
	}
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: pod.QOS(p)}
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates", ObservedGeneration: 1,
		}}
	}
}

func podFields(p *corev1.Pod) fields.Set {
	ip := p.Status.PodIP
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	return fields.Set{
		"spec.nodeName": p.Spec.NodeName, "spec.restartPolicy": string(p.Spec.RestartPolicy), "spec.schedulerName": p.Spec.SchedulerName,
		"spec.serviceAccountName": p.Spec.ServiceAccountName, "spec.hostNetwork": strconv.FormatBool(p.Spec.HostNetwork),
		"status.phase": string(p.Status.Phase), "status.podIP": ip, "status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}

// podGrace is the first step of termination: how long the Pod may take. A Pod
// that runs nowhere, or no longer, takes no time.
func podGrace(p *corev1.Pod, o *metav1.DeleteOptions) bool {
	period := int64(0)
	switch {
	case o.GracePeriodSeconds != nil:
		period = *o.GracePeriodSeconds
	case p.Spec.TerminationGracePeriodSeconds != nil:
		period = *p.Spec.TerminationGracePeriodSeconds
	}
	if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		period = 0
	}
	if period < 0 {
		period = 1
	}
	o.GracePeriodSeconds = &period
	return true
}

func (s *Server) podSubresources(st *stores, main *registry.Store) map[string]rest.Storage {
	half := func(keep func(p, old *corev1.Pod), check func(p, old *corev1.Pod) field.ErrorList) rest.Storage {
		part := *main
		u := halfStrategy{
			strategy: strategy{s.scheme, names.SimpleNameGenerator, s.rowOf("pods")},
			keep:     func(o, old runtime.Object) { keep(o.(*corev1.Pod), old.(*corev1.Pod)) },
			check:    func(o, old runtime.Object) field.ErrorList { return check(o.(*corev1.Pod), old.(*corev1.Pod)) },
		}
		part.UpdateStrategy, part.ResetFieldsStrategy = u, u
		return partStore{&part}
	}
	return map[string]rest.Storage{
		"binding":  podBinding{st},
		"eviction": eviction{main},
		"ephemeralcontainers": half(func(p, old *corev1.Pod) {
			added := p.Spec.EphemeralContainers
			p.Spec, p.Status = *old.Spec.DeepCopy(), old.Status
			p.Spec.EphemeralContainers = added
		}, validation.PodEphemeralContainersUpdate),
		"resize":      half(keepResize, validation.PodResize),
		"log":         podLog{s},
		"exec":        s.podStream(&corev1.PodExecOptions{}, http.MethodGet, http.MethodPost),
		"attach":      s.podStream(&corev1.PodAttachOptions{}, http.MethodGet, http.MethodPost),
		"portforward": s.podStream(&corev1.PodPortForwardOptions{}, http.MethodGet, http.MethodPost),
		"proxy":       s.podProxy(),
	}
}

// keepResize lets only resources and resize policies through.
func keepResize(p, old *corev1.Pod) {
	asked, askedInit, whole := p.Spec.Containers, p.Spec.InitContainers, p.Spec.Resources
	p.Spec, p.Status = *old.Spec.DeepCopy(), *old.Status.DeepCopy()
	metav1.ResetObjectMetaForStatus(p, old)
	merge := func(into, from []corev1.Container) {
		for i := range into {
			for _, f := range from {
				if f.Name == into[i].Name {
					into[i].Resources, into[i].ResizePolicy = f.Resources, f.ResizePolicy
				}
			}
		}
	}
	merge(p.Spec.Containers, asked)
	merge(p.Spec.InitContainers, askedInit)
	if p.Spec.Resources != nil && whole != nil {
		p.Spec.Resources = whole
	}
}

// podBinding is pods/binding: the scheduler's one write.
type podBinding struct{ stores *stores }

func (podBinding) New() runtime.Object   { return &corev1.Binding{} }
func (podBinding) Destroy()              {}
func (podBinding) NamespaceScoped() bool { return true }

// bindings is the older way to bind, by POST to the collection.
type bindings struct{ podBinding }

func (bindings) GetSingularName() string { return "binding" }

func (b bindings) Create(ctx context.Context, o runtime.Object, v rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	return b.podBinding.Create(ctx, o.(*corev1.Binding).Name, o, v, opts)
}

// Create assigns a Pod to a node once.
func (b podBinding) Create(ctx context.Context, name string, o runtime.Object, validate rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	binding, ok := o.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %#v", o))
	}
	if name != binding.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if errs := validation.Binding(binding); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Binding").GroupKind(), name, errs)
	}
	if validate != nil {
		if err := validate(ctx, binding.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	store := b.stores.main[schema.GroupResource{Resource: "pods"}]
	preconditions := &metav1.Preconditions{}
	if binding.UID != "" {
		preconditions.UID = &binding.UID
	}
	if binding.ResourceVersion != "" {
		preconditions.ResourceVersion = &binding.ResourceVersion
	}
	key, err := store.KeyFunc(ctx, name)
	if err != nil {
		return nil, err
	}
	assign := func(p *corev1.Pod) error { return assignPod(p, binding) }
	err = guaranteedUpdate(ctx, store, key, preconditions, dryrun.IsDryRun(opts.DryRun), assign)
	if err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
			return nil, err
		}
		return nil, apierrors.NewConflict(corev1.Resource("pods/binding"), name, err)
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func assignPod(p *corev1.Pod, b *corev1.Binding) error {
	switch {
	case p.DeletionTimestamp != nil:
		return fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", p.Name)
	case p.Spec.NodeName != "":
		return fmt.Errorf("pod %v is already assigned to node %q", p.Name, p.Spec.NodeName)
	case len(p.Spec.SchedulingGates) != 0:
		return fmt.Errorf("pod %v has non-empty .spec.schedulingGates", p.Name)
	}
	p.Spec.NodeName = b.Target.Name
	if p.Annotations == nil && len(b.Annotations) > 0 {
		p.Annotations = map[string]string{}
	}
	for k, v := range b.Annotations {
		p.Annotations[k] = v
	}
	pod.SetCondition(&p.Status, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, ObservedGeneration: p.Generation})
	return nil
}

// eviction is pods/eviction: a delete that asks first. Without disruption
// budgets in the API there is nobody to say no.
type eviction struct{ main *registry.Store }

func (eviction) New() runtime.Object { return &policyv1.Eviction{} }
func (eviction) Destroy()            {}
func (eviction) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

func (e eviction) Create(ctx context.Context, name string, o runtime.Object, validate rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	ask, ok := o.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", o))
	}
	if name != ask.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	options := ask.DeleteOptions
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if dryrun.IsDryRun(opts.DryRun) {
		options.DryRun = opts.DryRun
	}
	if validate != nil {
		if err := validate(ctx, ask.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := e.mark(ctx, name, options); err != nil {
		return nil, err
	}
	if _, _, err := e.main.Delete(ctx, name, rest.ValidateAllObjectFunc, options); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// mark says in the Pod's conditions why it goes (KEP-3329).
func (e eviction) mark(ctx context.Context, name string, o *metav1.DeleteOptions) error {
	key, err := e.main.KeyFunc(ctx, name)
	if err != nil {
		return err
	}
	return guaranteedUpdate(ctx, e.main, key, o.Preconditions, dryrun.IsDryRun(o.DryRun), func(p *corev1.Pod) error {
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			return nil
		}
		pod.SetCondition(&p.Status, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting", ObservedGeneration: p.Generation,
		})
		return nil
	})
}

// guaranteedUpdate changes a Pod in the store, again when another writer came
// in between.
func guaranteedUpdate(ctx context.Context, s *registry.Store, key string, pre *metav1.Preconditions, dry bool, change func(*corev1.Pod) error) error {
	out := &corev1.Pod{}
	return s.Storage.GuaranteedUpdate(ctx, key, out, false, preconditions(pre), simpleUpdate(func(o runtime.Object) (runtime.Object, error) {
		p, ok := o.(*corev1.Pod)
		if !ok {
			return nil, fmt.Errorf("unexpected object: %#v", o)
		}
		was := p.DeepCopy()
		if err := change(p); err != nil {
			return nil, err
		}
		if p.Spec.NodeName != was.Spec.NodeName && !equality.Semantic.DeepEqual(p.Spec, was.Spec) {
			p.Generation = was.Generation // binding is not a change by the user
		}
		return p, nil
	}), dry, nil)
}

// namespaceOf is the namespace of a request.
func namespaceOf(ctx context.Context) string { return genericapirequest.NamespaceValue(ctx) }
