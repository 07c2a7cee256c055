// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/peapod/peapod/api/pod"
)

const podCount corev1.ResourceName = "count/pods"

// podResources are the names that Pods are charged under.
func podResources(n corev1.ResourceName) bool {
	switch n {
	case podCount, corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage:
		return true
	}
	s := string(n)
	if strings.HasPrefix(s, corev1.ResourceHugePagesPrefix) || strings.HasPrefix(s, corev1.ResourceRequestsHugePagesPrefix) {
		return true
	}
	asked, requests := strings.CutPrefix(s, corev1.DefaultResourceRequestsPrefix)
	return requests && (!native(n) || strings.HasPrefix(asked, resourcev1.ResourceDeviceClassPrefix))
}

func native(n corev1.ResourceName) bool {
	return !strings.Contains(string(n), "/") || strings.Contains(string(n), corev1.ResourceDefaultNamespacePrefix)
}

// podHandled: a Pod is charged when it is made, when it is resized, and when a
// deadline brings it into another scope.
func podHandled(a admission.Attributes, p, old *corev1.Pod) bool {
	switch a.GetSubresource() {
	case "":
		return a.GetOperation() == admission.Create || p != nil && old != nil && terminating(p) != terminating(old)
	case "resize":
		return a.GetOperation() == admission.Update
	}
	return false
}

func terminating(p *corev1.Pod) bool {
	return p.Spec.ActiveDeadlineSeconds != nil && *p.Spec.ActiveDeadlineSeconds >= 0
}

// podRequired: where CPU or memory have a quota, each container says what it
// takes, unless the Pod does.
func podRequired(required []corev1.ResourceName, p *corev1.Pod) error {
	if resourcehelper.IsPodLevelResourcesSet(p) {
		return nil
	}
	missing := map[corev1.ResourceName][]string{}
	for _, c := range slices.Concat(p.Spec.Containers, p.Spec.InitContainers) {
		says := computeUsage(c.Resources.Requests, c.Resources.Limits)
		for _, n := range required {
			switch n {
			case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory:
				if _, ok := says[n]; !ok {
					missing[n] = append(missing[n], c.Name)
				}
			}
		}
	}
	var texts []string
	for _, n := range slices.Sorted(maps.Keys(missing)) {
		slices.Sort(missing[n])
		texts = append(texts, string(n)+" for: "+strings.Join(slices.Compact(missing[n]), ","))
	}
	if texts == nil {
		return nil
	}
	return errors.New("must specify " + strings.Join(texts, "; "))
}

// podUsage is what a Pod is charged: one object always, the rest until it has
// ended or should have.
func podUsage(p *corev1.Pod) corev1.ResourceList {
	used := corev1.ResourceList{podCount: one()}
	if !Charged(p) {
		return used
	}
	o := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	return quota.Add(used, computeUsage(resourcehelper.PodRequests(p, o), resourcehelper.PodLimits(p, o)))
}

// Charged says whether a Pod still costs what it takes.
func Charged(p *corev1.Pod) bool {
	if pod.Terminal(p) {
		return false
	}
	if p.DeletionTimestamp == nil || p.DeletionGracePeriodSeconds == nil {
		return true
	}
	grace := time.Duration(*p.DeletionGracePeriodSeconds) * time.Second
	return !time.Now().After(p.DeletionTimestamp.Add(grace))
}

func computeUsage(requests, limits corev1.ResourceList) corev1.ResourceList {
	used := corev1.ResourceList{corev1.ResourcePods: one()}
	for _, n := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := requests[n]; ok {
			used[n], used[corev1.DefaultResourceRequestsPrefix+n] = q, q
		}
		if q, ok := limits[n]; ok {
			used["limits."+n] = q
		}
	}
	for n, q := range requests {
		switch {
		case strings.HasPrefix(string(n), corev1.ResourceHugePagesPrefix):
			used[n], used[corev1.DefaultResourceRequestsPrefix+n] = q, q
		case !native(n) && !strings.HasPrefix(string(n), corev1.DefaultResourceRequestsPrefix), strings.HasPrefix(string(n), resourcev1.ResourceDeviceClassPrefix):
			used[corev1.DefaultResourceRequestsPrefix+n] = q
		}
	}
	return used
}

func podInScope(r corev1.ScopedResourceSelectorRequirement, p *corev1.Pod) (bool, error) {
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating(p), nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating(p), nil
	case corev1.ResourceQuotaScopeBestEffort:
		return pod.QOS(p) == corev1.PodQOSBestEffort, nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return pod.QOS(p) != corev1.PodQOSBestEffort, nil
	case corev1.ResourceQuotaScopePriorityClass:
		if p.Spec.PriorityClassName == "" {
			return named(r)
		}
		return named(r, p.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return looksElsewhere(p.Spec.Affinity), nil
	}
	return false, nil
}

// looksElsewhere says whether a Pod chooses by Pods of other namespaces.
func looksElsewhere(a *corev1.Affinity) bool {
	if a == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	add := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		terms = append(terms, required...)
		for _, w := range preferred {
			terms = append(terms, w.PodAffinityTerm)
		}
	}
	if p := a.PodAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}
