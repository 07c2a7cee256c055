// SPDX-License-Identifier: Apache-2.0

// Package defaults owns the values that Kubernetes 1.37 fills in where a
// manifest is silent. Each function changes the object it is given and may be
// applied twice. It does not own what admission adds (ServiceAccount,
// priority, tolerations).
package defaults

import (
	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// set fills a pointer that is nil.
func set[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// zero fills a value that is empty.
func zero[T comparable](p *T, v T) {
	var empty T
	if *p == empty {
		*p = v
	}
}

// Pod fills in a Pod: the spec's defaults, and what holds for Pods alone.
func Pod(p *corev1.Pod) {
	PodSpec(&p.Spec)
	if g := p.Spec.TerminationGracePeriodSeconds; *g < 0 {
		*g = 1
	}
	set(&p.Spec.EnableServiceLinks, true)
	if p.Spec.HostNetwork {
		hostPorts(p.Spec.Containers)
		hostPorts(p.Spec.InitContainers)
	}
	for i := range p.Spec.Containers {
		requestsFromLimits(&p.Spec.Containers[i].Resources)
	}
	for i := range p.Spec.InitContainers {
		requestsFromLimits(&p.Spec.InitContainers[i].Resources)
	}
	podIPs(&p.Status)
}

// podIPs keeps the address and the list of addresses in step; the address
// decides.
func podIPs(s *corev1.PodStatus) {
	if s.PodIP == "" && len(s.PodIPs) > 0 {
		s.PodIP = s.PodIPs[0].IP
	} else if s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP) {
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	}
}

// PodTemplateSpec fills in the template of a workload. Requests and host
// ports are left to the Pods made from it.
func PodTemplateSpec(t *corev1.PodTemplateSpec) { PodSpec(&t.Spec) }

// PodSpec fills in what Pods and templates share.
func PodSpec(s *corev1.PodSpec) {
	zero(&s.DNSPolicy, corev1.DNSClusterFirst)
	zero(&s.RestartPolicy, corev1.RestartPolicyAlways)
	zero(&s.SchedulerName, corev1.DefaultSchedulerName)
	set(&s.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	if s.SecurityContext == nil {
		s.SecurityContext = &corev1.PodSecurityContext{}
	}
	zero(&s.ServiceAccountName, s.DeprecatedServiceAccount)
	s.DeprecatedServiceAccount = s.ServiceAccountName
	eachContainer(s, container)
	for i := range s.Volumes {
		volume(&s.Volumes[i])
	}
	limits(s.Overhead)
	if s.Resources != nil {
		limits(s.Resources.Limits)
		limits(s.Resources.Requests)
	}
}

// eachContainer changes containers of all kinds.
func eachContainer(s *corev1.PodSpec, change func(*corev1.Container)) {
	for i := range s.InitContainers {
		change(&s.InitContainers[i])
	}
	for i := range s.Containers {
		change(&s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		// The two types differ in their tags alone.
		change((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

// hostPorts: on the node's network a container port is a host port.
func hostPorts(list []corev1.Container) {
	for i := range list {
		for j := range list[i].Ports {
			zero(&list[i].Ports[j].HostPort, list[i].Ports[j].ContainerPort)
		}
	}
}

func container(c *corev1.Container) {
	zero(&c.ImagePullPolicy, pullPolicy(c.Image))
	zero(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	zero(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		zero(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if f := c.Env[i].ValueFrom; f != nil {
			if f.FieldRef != nil {
				zero(&f.FieldRef.APIVersion, "v1")
			}
			if f.FileKeyRef != nil {
				set(&f.FileKeyRef.Optional, false)
			}
		}
	}
	limits(c.Resources.Limits)
	limits(c.Resources.Requests)
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		probe(p)
	}
	if c.Lifecycle != nil {
		handler(c.Lifecycle.PostStart)
		handler(c.Lifecycle.PreStop)
	}
}

// pullPolicy: a tag of latest is pulled each time, anything else once.
func pullPolicy(image string) corev1.PullPolicy {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return corev1.PullIfNotPresent
	}
	if _, ok := named.(reference.Digested); ok {
		if _, tagged := named.(reference.Tagged); !tagged {
			return corev1.PullIfNotPresent
		}
	}
	tagged, ok := reference.TagNameOnly(named).(reference.Tagged)
	if ok && tagged.Tag() == "latest" {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

func probe(p *corev1.Probe) {
	if p == nil {
		return
	}
	zero(&p.TimeoutSeconds, 1)
	zero(&p.PeriodSeconds, 10)
	zero(&p.SuccessThreshold, 1)
	zero(&p.FailureThreshold, 3)
	httpGet(p.HTTPGet)
	if p.GRPC != nil {
		set(&p.GRPC.Service, "")
	}
}

func handler(h *corev1.LifecycleHandler) {
	if h != nil {
		httpGet(h.HTTPGet)
	}
}

func httpGet(g *corev1.HTTPGetAction) {
	if g != nil {
		zero(&g.Path, "/")
		zero(&g.Scheme, corev1.URISchemeHTTP)
	}
}

// limits rounds quantities up to milli units, the finest the API keeps.
func limits(list corev1.ResourceList) {
	for name, q := range list {
		q.RoundUp(resource.Milli)
		list[name] = q
	}
}

// requestsFromLimits: a limit without a request is the request.
func requestsFromLimits(r *corev1.ResourceRequirements) {
	if r.Limits == nil {
		return
	}
	if r.Requests == nil {
		r.Requests = corev1.ResourceList{}
	}
	for name, q := range r.Limits {
		if _, ok := r.Requests[name]; !ok {
			r.Requests[name] = q.DeepCopy()
		}
	}
}
