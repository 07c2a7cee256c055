// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
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
	"k8s.io/apiserver/pkg/warning"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

func (s *Server) podRow() *row {
	return resource[corev1.Pod, corev1.PodList](corev1.SchemeGroupVersion, "Pod", "pods", "pod", hooks[corev1.Pod]{
		Defaults:       defaults.Pod,
		Prepare:        preparePod,
		PrepareStatus:  defaults.PreparePodStatus,
		Validate:       validation.Pod,
		ValidateUpdate: validation.PodUpdate,
		ValidateStatus: validation.PodStatusUpdate,
		Warn:           func(_ context.Context, p, old *corev1.Pod) []string { return validation.PodWarnings(p, old) },
		WarnStatus:     validation.PodStatusWarnings,
		Selectable:     podFields,
		Graceful:       podGrace,
		Columns:        table.Pod(),
		Extend:         s.podSubresources,
	}, shortNames("po"), inAll, echoDeleted, indexedBy("spec.nodeName"), func(r *row) { r.notByStatus = []string{"deletionTimestamp", "ownerReferences"} })
}

func preparePod(ctx context.Context, p, old *corev1.Pod) {
	for _, w := range defaults.PreparePod(p, old) {
		warning.AddWarning(ctx, "", w)
	}
	if old != nil {
		return
	}
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: pod.QOS(p)}
	if len(p.Spec.SchedulingGates) > 0 {
		pod.SetCondition(&p.Status, corev1.PodCondition{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		})
	}
}

func podFields(p *corev1.Pod) fields.Set {
	ip := ""
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	return fields.Set{
		"spec.nodeName": p.Spec.NodeName, "spec.restartPolicy": string(p.Spec.RestartPolicy), "spec.schedulerName": p.Spec.SchedulerName,
		"spec.serviceAccountName": p.Spec.ServiceAccountName, "spec.hostNetwork": strconv.FormatBool(p.Spec.HostNetwork),
		"status.phase": string(p.Status.Phase), "status.podIP": ip, "status.podIPs": "" /* known, and never set */, "status.nominatedNodeName": p.Status.NominatedNodeName,
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
	half := func(keep func(p, old *corev1.Pod), check func(p, old *corev1.Pod) field.ErrorList, owned ...*fieldpath.SetMatcher) rest.Storage {
		part := *main
		u := halfStrategy{
			strategy: strategy{s.scheme, names.SimpleNameGenerator, s.rowOf("pods")},
			keep:     func(o, old runtime.Object) { keep(o.(*corev1.Pod), old.(*corev1.Pod)) },
			check:    func(o, old runtime.Object) field.ErrorList { return check(o.(*corev1.Pod), old.(*corev1.Pod)) },
		}
		part.UpdateStrategy, part.ResetFieldsStrategy = u, nil
		return fieldsStore{&partStore{&part}, fieldpath.NewIncludeMatcherFilter(owned...)}
	}
	owned := fieldpath.MakePrefixMatcherOrDie
	each := fieldpath.MatchAnyPathElement()
	return map[string]rest.Storage{
		"binding":             podBinding{st},
		"eviction":            eviction{main, st},
		"ephemeralcontainers": half(defaults.PreparePodEphemeralContainers, validation.PodEphemeralContainersUpdate, owned("spec", "ephemeralContainers")),
		"resize": half(defaults.PreparePodResize, validation.PodResize,
			owned("spec", "containers", each, "resources"), owned("spec", "containers", each, "resizePolicy"),
			owned("spec", "initContainers", each, "resources"), owned("spec", "initContainers", each, "resizePolicy")),
		"log":         podLog{s},
		"exec":        s.podStream(&corev1.PodExecOptions{}, http.MethodGet, http.MethodPost),
		"attach":      s.podStream(&corev1.PodAttachOptions{}, http.MethodGet, http.MethodPost),
		"portforward": s.podStream(&corev1.PodPortForwardOptions{}, http.MethodGet, http.MethodPost),
		"proxy":       s.podProxy(),
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
		return nil, errs.ToAggregate()
	}
	if validate != nil {
		if err := validate(ctx, binding.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	var conditions metav1.Preconditions
	if binding.UID != "" {
		conditions.UID = &binding.UID
	}
	if binding.ResourceVersion != "" {
		conditions.ResourceVersion = &binding.ResourceVersion
	}
	store := b.stores.main[schema.GroupResource{Resource: "pods"}]
	err := update(ctx, store, name, &conditions, opts.DryRun, &corev1.Pod{}, func(p *corev1.Pod) error { return assignPod(p, binding) })
	if err != nil {
		var status apierrors.APIStatus
		if !errors.As(err, &status) {
			err = apierrors.NewConflict(corev1.Resource("pods/binding"), name, err)
		}
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps the UID and
// resourceVersion of a Binding, which are preconditions here.
func (podBinding) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

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
	p.Status.NominatedNodeName = "" // a hint that has served
	add := func(to *map[string]string, from map[string]string) {
		if *to == nil && len(from) > 0 {
			*to = map[string]string{}
		}
		maps.Copy(*to, from)
	}
	add(&p.Annotations, b.Annotations)
	defaults.DropInitAnnotations(p.Annotations)
	add(&p.Labels, b.Labels)
	pod.SetCondition(&p.Status, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
	return nil
}

// namespaceOf is the namespace of a request.
func namespaceOf(ctx context.Context) string { return genericapirequest.NamespaceValue(ctx) }
