// SPDX-License-Identifier: Apache-2.0

package defaults

import (
	"fmt"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/resource"
)

// PreparePod is what the API makes of a Pod between admission and validation,
// beside its status. old is nil for a new Pod. It returns warnings about what
// it rewrote.
func PreparePod(p, old *corev1.Pod) []string {
	dropAlpha(&p.Spec)
	DropInitAnnotations(p.Annotations)
	if old != nil {
		if p.Spec.Resources == nil {
			// From a client that does not know the field.
			p.Spec.Resources = old.Spec.Resources.DeepCopy()
		}
		return nil
	}
	mergeLabelKeys(p)
	podResources(&p.Spec)
	return appArmorFields(p)
}

// PreparePodTemplate is what the API makes of a template.
func PreparePodTemplate(t *corev1.PodTemplateSpec) {
	dropAlpha(&t.Spec)
	DropInitAnnotations(t.Annotations)
}

// DropInitAnnotations takes away the annotations that held init containers
// before they were fields, up to Kubernetes 1.5: nothing reads them, and a
// server keeps none.
func DropInitAnnotations(annotations map[string]string) {
	for _, version := range []string{"alpha", "beta"} {
		delete(annotations, "pod."+version+".kubernetes.io/init-containers")
		delete(annotations, "pod."+version+".kubernetes.io/init-container-statuses")
	}
}

// PreparePodStatus is a write of pods/status: what it may not touch is put
// back, and what an older client leaves away stays.
func PreparePodStatus(p, old *corev1.Pod) {
	p.Spec = *old.Spec.DeepCopy()
	DropInitAnnotations(p.Annotations)
	p.DeletionTimestamp, p.OwnerReferences = nil, old.OwnerReferences
	now, was := &p.Status, &old.Status
	zero(&now.QOSClass, was.QOSClass)
	if now.ResourceClaimStatuses == nil {
		now.ResourceClaimStatuses = was.ResourceClaimStatuses
	}
	if now.ExtendedResourceClaimStatus == nil {
		now.ExtendedResourceClaimStatus = was.ExtendedResourceClaimStatus
	}
	zero(&now.ObservedGeneration, was.ObservedGeneration)
	generations := map[corev1.PodConditionType][]int64{}
	for _, c := range was.Conditions {
		generations[c.Type] = append(generations[c.Type], c.ObservedGeneration)
	}
	for i := range now.Conditions {
		c := &now.Conditions[i]
		if known := generations[c.Type]; len(known) > 0 {
			zero(&c.ObservedGeneration, known[0])
			generations[c.Type] = known[1:]
		}
	}
}

// PreparePodEphemeralContainers is a write of pods/ephemeralcontainers:
// nothing else changes.
func PreparePodEphemeralContainers(p, old *corev1.Pod) {
	added := p.Spec.EphemeralContainers
	p.Spec, p.Status = *old.Spec.DeepCopy(), *old.Status.DeepCopy()
	metav1.ResetObjectMetaForStatus(p, old)
	p.Spec.EphemeralContainers = added
	dropAlpha(&p.Spec)
}

// PreparePodResize is a write of pods/resize: only resources and resize
// policies change. Lists of containers that do not fit are left to validation.
func PreparePodResize(p, old *corev1.Pod) {
	if len(p.Spec.Containers) == len(old.Spec.Containers) && len(p.Spec.InitContainers) == len(old.Spec.InitContainers) {
		containers, inits := resized(p.Spec.Containers, old.Spec.Containers), resized(p.Spec.InitContainers, old.Spec.InitContainers)
		whole := p.Spec.Resources
		p.Spec, p.Status = *old.Spec.DeepCopy(), *old.Status.DeepCopy()
		metav1.ResetObjectMetaForStatus(p, old)
		p.Spec.Resources, p.Spec.Containers, p.Spec.InitContainers = whole, containers, inits
	}
	if p.Spec.Resources == nil {
		p.Spec.Resources = old.Spec.Resources.DeepCopy()
	}
	podResources(&p.Spec)
	dropAlpha(&p.Spec)
}

// resized are the old containers with the new resources, or the new ones when
// they are not the same.
func resized(now, was []corev1.Container) []corev1.Container {
	out := make([]corev1.Container, 0, len(was))
	for i := range now {
		if now[i].Name != was[i].Name {
			return now
		}
		c := *was[i].DeepCopy()
		c.Resources, c.ResizePolicy = now[i].Resources, now[i].ResizePolicy
		out = append(out, c)
	}
	return out
}

// PrepareLease drops the fields of coordinated leader election, which is off
// in Kubernetes 1.37; old is nil for a new lease.
func PrepareLease(l, old *coordinationv1.Lease) {
	if old == nil || old.Spec.Strategy == nil {
		l.Spec.Strategy = nil
	}
	if old == nil || old.Spec.PreferredHolder == nil {
		l.Spec.PreferredHolder = nil
	}
}

// PrepareNamespace gives a new namespace the finalizer that its controller
// takes away when it is empty; later only the finalize subresource changes it.
func PrepareNamespace(n, old *corev1.Namespace) {
	if old != nil {
		n.Spec.Finalizers, n.Status = old.Spec.Finalizers, old.Status
		return
	}
	n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
		n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

// PrepareEndpointSlice drops the topology of the first versions, which may
// only stay where it was; the node's name moves to its field.
func PrepareEndpointSlice(s, old *discoveryv1.EndpointSlice) {
	known := map[string]bool{}
	if old != nil {
		if equality.Semantic.DeepEqual(old.Endpoints, s.Endpoints) {
			return
		}
		for _, e := range old.Endpoints {
			if n := e.DeprecatedTopology[corev1.LabelHostname]; n != "" {
				known[n] = true
			}
		}
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if n := e.DeprecatedTopology[corev1.LabelHostname]; e.NodeName == nil && known[n] {
			e.NodeName = &n
		}
		e.DeprecatedTopology = nil
	}
}

// dropAlpha takes away fields whose features are alpha in Kubernetes 1.37, or
// off for another reason: a server without the feature does not keep them.
func dropAlpha(s *corev1.PodSpec) {
	s.SchedulingGroup, s.EvictionResponders = nil, nil
	eachContainer(s, dropAlphaOf)
	for i := range s.Volumes {
		dropVolumeAlpha(&s.Volumes[i].VolumeSource)
	}
}

func dropAlphaOf(c *corev1.Container) {
	get := func(a *corev1.HTTPGetAction) {
		if a != nil {
			a.Protocol = nil
		}
	}
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p == nil {
			continue
		}
		get(p.HTTPGet)
		if p.GRPC != nil {
			p.GRPC.Mode = nil
		}
	}
	if l := c.Lifecycle; l != nil {
		if l.StopSignal != nil && l.PostStart == nil && l.PreStop == nil {
			c.Lifecycle = nil
		}
		l.StopSignal = nil
		for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
			if h != nil {
				get(h.HTTPGet)
			}
		}
	}
	for i := range c.VolumeMounts {
		c.VolumeMounts[i].BindMountOptions = nil
	}
}

// dropVolumeAlpha: modes of emptyDirs and owners of written files.
func dropVolumeAlpha(v *corev1.VolumeSource) {
	keys := func(list []corev1.KeyToPath) {
		for i := range list {
			list[i].User = nil
		}
	}
	files := func(list []corev1.DownwardAPIVolumeFile) {
		for i := range list {
			list[i].User = nil
		}
	}
	switch {
	case v.EmptyDir != nil:
		v.EmptyDir.Mode = nil
	case v.Secret != nil:
		v.Secret.DefaultUser = nil
		keys(v.Secret.Items)
	case v.ConfigMap != nil:
		v.ConfigMap.DefaultUser = nil
		keys(v.ConfigMap.Items)
	case v.DownwardAPI != nil:
		v.DownwardAPI.DefaultUser = nil
		files(v.DownwardAPI.Items)
	}
	if v.Projected == nil {
		return
	}
	v.Projected.DefaultUser = nil
	for _, s := range v.Projected.Sources {
		if s.Secret != nil {
			keys(s.Secret.Items)
		}
		if s.ConfigMap != nil {
			keys(s.ConfigMap.Items)
		}
		if s.DownwardAPI != nil {
			files(s.DownwardAPI.Items)
		}
		if s.ServiceAccountToken != nil {
			s.ServiceAccountToken.User = nil
		}
		if s.ClusterTrustBundle != nil {
			s.ClusterTrustBundle.User = nil
		}
		if s.PodCertificate != nil {
			s.PodCertificate.User = nil
		}
	}
}

// mergeLabelKeys adds the Pod's own values of matchLabelKeys to the selectors
// (KEP-3633, KEP-3243).
func mergeLabelKeys(p *corev1.Pod) {
	merge := func(s *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator) {
		if s == nil {
			return
		}
		for _, k := range keys {
			if v, ok := p.Labels[k]; ok {
				s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
			}
		}
	}
	term := func(t *corev1.PodAffinityTerm) {
		merge(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
		merge(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
	terms := func(must []corev1.PodAffinityTerm, should []corev1.WeightedPodAffinityTerm) {
		for i := range must {
			term(&must[i])
		}
		for i := range should {
			term(&should[i].PodAffinityTerm)
		}
	}
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			terms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if a.PodAntiAffinity != nil {
			terms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	for i := range p.Spec.TopologySpreadConstraints {
		t := &p.Spec.TopologySpreadConstraints[i]
		merge(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
}

// appArmorFields writes the lapsed annotations into the fields that took
// their place, and warns of them.
func appArmorFields(p *corev1.Pod) (warnings []string) {
	if p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows {
		return nil
	}
	var whole *corev1.AppArmorProfile
	if p.Spec.SecurityContext != nil {
		whole = p.Spec.SecurityContext.AppArmorProfile
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			c := &list[i]
			key := corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + c.Name
			value, ok := p.Annotations[key]
			if !ok || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
				continue
			}
			own := appArmorOf(value)
			if own != nil && equality.Semantic.DeepEqual(own, whole) {
				continue
			}
			warnings = append(warnings, fmt.Sprintf(`metadata.annotations[%s]: deprecated since v1.30; use the "appArmorProfile" field instead`, key))
			if own == nil {
				continue
			}
			if c.SecurityContext == nil {
				c.SecurityContext = &corev1.SecurityContext{}
			}
			c.SecurityContext.AppArmorProfile = own
		}
	}
	return warnings
}

func appArmorOf(annotation string) *corev1.AppArmorProfile {
	switch annotation {
	case corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	}
	name, ok := strings.CutPrefix(annotation, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
	if !ok || name == "" || strings.TrimSpace(name) != name {
		return nil
	}
	return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
}

// podResources completes resources of the Pod as a whole from those of its
// containers (KEP-2837).
func podResources(s *corev1.PodSpec) {
	r := s.Resources
	if r == nil || len(r.Limits)+len(r.Requests) == 0 {
		return
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: s.Containers, InitContainers: s.InitContainers}}
	fill := func(list *corev1.ResourceList, name corev1.ResourceName, q corev1.ResourceList) {
		if _, ok := (*list)[name]; ok || !resource.IsSupportedPodLevelResource(name) {
			return
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = q[name].DeepCopy()
	}
	limits := resource.AggregateContainerLimits(pod, resource.PodResourcesOptions{})
	for name := range limits {
		if _, asked := r.Requests[name]; pages(name) && !asked {
			fill(&r.Limits, name, limits)
		}
	}
	requests := resource.AggregateContainerRequests(pod, resource.PodResourcesOptions{})
	for name := range requests {
		if !pages(name) {
			fill(&r.Requests, name, requests)
		}
	}
	for name := range r.Limits {
		fill(&r.Requests, name, r.Limits)
	}
	podLimits(s, limits)
}

// podLimits: where every container has a limit, so has the Pod; never below
// its request.
func podLimits(s *corev1.PodSpec, limits corev1.ResourceList) {
	r := s.Resources
	for name, request := range r.Requests {
		sum, any := limits[name]
		if _, set := r.Limits[name]; set || !any || !resource.IsSupportedPodLevelResource(name) || !limitedEverywhere(s, name) {
			continue
		}
		if request.Cmp(sum) > 0 {
			sum = request
		}
		if r.Limits == nil {
			r.Limits = corev1.ResourceList{}
		}
		r.Limits[name] = sum.DeepCopy()
	}
}

// limitedEverywhere: ephemeral containers have no limits.
func limitedEverywhere(s *corev1.PodSpec, name corev1.ResourceName) bool {
	if len(s.EphemeralContainers) > 0 {
		return false
	}
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for _, c := range list {
			if _, ok := c.Resources.Limits[name]; !ok {
				return false
			}
		}
	}
	return true
}

func pages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// PrepareNode drops the lapsed configuration source, unless the node has it
// already.
func PrepareNode(n, old *corev1.Node) {
	if old == nil {
		n.Spec.ConfigSource, n.Status.Config = nil, nil
	} else if old.Spec.ConfigSource == nil {
		n.Spec.ConfigSource = nil
	}
}

// PrepareNodeStatus does the same for its status.
func PrepareNodeStatus(n, old *corev1.Node) {
	if old.Status.Config == nil {
		n.Status.Config = nil
	}
}
