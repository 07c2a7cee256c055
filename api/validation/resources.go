// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"
)

func (c *context) containerResources(r *corev1.ResourceRequirements, at *field.Path) field.ErrorList {
	return c.requirements(r, containerResource, at)
}

// requirements checks names, amounts, and requests against limits.
func (c *context) requirements(r *corev1.ResourceRequirements, nameCheck func(corev1.ResourceName, *field.Path) field.ErrorList, at *field.Path) (errs field.ErrorList) {
	plain, pages := false, false
	one := func(name corev1.ResourceName, q resource.Quantity, at *field.Path) {
		errs = append(errs, nameCheck(name, at)...)
		errs = append(errs, amount(name, q, at)...)
		plain = plain || name == corev1.ResourceCPU || name == corev1.ResourceMemory
		pages = pages || hugePages(name)
	}
	wholePages := func(name corev1.ResourceName, q resource.Quantity, at *field.Path) {
		if hugePages(name) && (c.old == nil || !brokenPages(c.old)) && !divisible(name, q) {
			errs = append(errs, field.Invalid(at, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name)))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Limits)) {
		p := at.Child("limits").Key(string(name))
		one(name, r.Limits[name], p)
		wholePages(name, r.Limits[name], p)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Requests)) {
		q, p := r.Requests[name], at.Child("requests").Key(string(name))
		one(name, q, p)
		limit, limited := r.Limits[name]
		switch {
		case !limited && !overcommit(name):
			errs = append(errs, field.Required(at.Child("limits"), "Limit must be set for non overcommitable resources"))
		case limited && q.Cmp(limit) != 0 && !overcommit(name):
			errs = append(errs, field.Invalid(at.Child("requests"), q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case limited && q.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(at.Child("requests"), q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		}
		wholePages(name, q, p)
	}
	if pages && !plain {
		errs = append(errs, field.Forbidden(at, "HugePages require cpu or memory"))
	}
	return append(errs, claimRefs(r.Claims, c.spec.ResourceClaims, at.Child("claims"))...)
}

func hugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// divisible says whether an amount of huge pages is whole pages.
func divisible(name corev1.ResourceName, q resource.Quantity) bool {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	return err == nil && size.Sign() > 0 && size.MilliValue()%1000 == 0 && q.Value()%size.Value() == 0
}

// brokenPages: the Pod was accepted when the API did not ask for whole pages.
func brokenPages(s *corev1.PodSpec) (found bool) {
	eachContainer(s, nil, func(k *corev1.Container, _ *field.Path) {
		for _, list := range []corev1.ResourceList{k.Resources.Limits, k.Resources.Requests} {
			for name, q := range list {
				found = found || hugePages(name) && !divisible(name, q)
			}
		}
	})
	return found
}

// native are resources without a domain, or of Kubernetes itself.
func native(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// overcommit says whether a request may be lower than its limit.
func overcommit(name corev1.ResourceName) bool { return native(name) && !hugePages(name) }

// standard are the resource names without a domain that Kubernetes knows.
var standard = sets.New[corev1.ResourceName](
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
	corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
	corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceStorage, corev1.ResourceRequestsStorage,
	corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
)

func resourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := invalidAll(at, name, validation.IsQualifiedName(string(name)))
	if len(errs) == 0 && !strings.Contains(string(name), "/") && !standard.Has(name) && !hugePages(name) && !strings.HasPrefix(string(name), "requests.hugepages-") {
		errs = append(errs, field.Invalid(at, name, "must be a standard resource type or fully qualified"))
	}
	return errs
}

func containerResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := resourceName(name, at)
	if !strings.Contains(string(name), "/") {
		if name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage && !hugePages(name) {
			errs = append(errs, field.Invalid(at, name, "must be a standard resource for containers"))
		}
	} else if !native(name) && !extended(name) {
		errs = append(errs, field.Invalid(at, name, "doesn't follow extended resource name standard"))
	}
	return errs
}

// extended resources may be counted in a quota, under "requests.".
func extended(name corev1.ResourceName) bool {
	return !native(name) && !strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// podResource are the resources that a Pod as a whole may have (KEP-2837).
func podResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := resourceName(name, at)
	if len(errs) == 0 && !resourcehelper.IsSupportedPodLevelResource(name) {
		errs = append(errs, field.NotSupported(at, name, sets.List(resourcehelper.SupportedPodLevelResources())))
	}
	return errs
}

func amount(name corev1.ResourceName, q resource.Quantity, at *field.Path) (errs field.ErrorList) {
	if q.Sign() < 0 {
		errs = append(errs, field.Invalid(at, q.String(), apivalidation.IsNegativeErrorMsg))
	}
	if (countedWhole.Has(name) || extended(name)) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(at, q, "must be an integer"))
	}
	return errs
}

// countedWhole are things, not amounts.
var countedWhole = sets.New(
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
	corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
)

// podResources checks the resources of the Pod as a whole.
func (c *context) podResources(at *field.Path) (errs field.ErrorList) {
	r := c.spec.Resources
	if r == nil {
		return nil
	}
	if c.spec.OS != nil && c.spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(at, "may not be set for a windows pod")}
	}
	if r.Claims != nil {
		errs = append(errs, field.Forbidden(at.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	errs = append(errs, c.requirements(r, podResource, at)...)
	pod := &corev1.Pod{Spec: *c.spec}
	sum := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range slices.Sorted(maps.Keys(sum)) {
		if have, ok := r.Requests[name]; ok {
			if need := sum[name]; need.Cmp(have) > 0 {
				errs = append(errs, field.Invalid(at.Child("requests").Key(string(name)), have.String(), fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", need.String())))
			}
		}
	}
	sum = resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range slices.Sorted(maps.Keys(sum)) {
		if have, ok := r.Limits[name]; ok && hugePages(name) {
			if need := sum[name]; need.Cmp(have) > 0 {
				errs = append(errs, field.Invalid(at.Child("limits").Key(string(name)), have.String(), fmt.Sprintf("must be greater than or equal to aggregate container limits of %s", need.String())))
			}
		}
	}
	for i, k := range c.spec.Containers {
		for _, name := range slices.Sorted(maps.Keys(k.Resources.Limits)) {
			have, ok := r.Limits[name]
			if need := k.Resources.Limits[name]; ok && need.Cmp(have) > 0 {
				errs = append(errs, field.Invalid(at.Child("containers").Index(i).Key(string(name)).Child("limits"), need.String(), fmt.Sprintf("must be less than or equal to pod limits of %s", have.String())))
			}
		}
	}
	return errs
}

// resourceClaims checks the claims of devices that a Pod names.
func (c *context) resourceClaims(at *field.Path) (errs field.ErrorList) {
	names := &unique{}
	for i, k := range c.spec.ResourceClaims {
		p := at.Index(i)
		if c.pod != nil && isMirror(c.pod.Annotations) {
			errs = append(errs, field.Forbidden(field.NewPath(""), "static pods do not support resource claims"))
			continue
		}
		switch {
		case k.Name == "":
			errs = append(errs, field.Required(p.Child("name"), ""))
		case names.again(k.Name):
			errs = append(errs, field.Duplicate(p.Child("name"), k.Name))
		default:
			errs = append(errs, invalidAll(p.Child("name"), k.Name, validation.IsDNS1123Label(k.Name))...)
		}
		if k.ResourceClaimName != nil && k.ResourceClaimTemplateName != nil {
			errs = append(errs, field.Invalid(p, goFields{k}, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		}
		if k.ResourceClaimName == nil && k.ResourceClaimTemplateName == nil {
			errs = append(errs, field.Invalid(p, goFields{k}, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if n := k.ResourceClaimName; n != nil {
			errs = append(errs, invalidAll(p.Child("resourceClaimName"), *n, apivalidation.NameIsDNSSubdomain(*n, false))...)
		}
		if n := k.ResourceClaimTemplateName; n != nil {
			errs = append(errs, invalidAll(p.Child("resourceClaimTemplateName"), *n, apivalidation.NameIsDNSSubdomain(*n, false))...)
		}
	}
	return errs
}

// claimRefs checks the claims that a container uses: each once, whole or by
// its requests, and one of the Pod's.
func claimRefs(list []corev1.ResourceClaim, claims []corev1.PodResourceClaim, at *field.Path) (errs field.ErrorList) {
	known, used := sets.New[string](), sets.New[string]()
	for _, k := range claims {
		if k.Name != "" {
			known.Insert(k.Name)
		}
	}
	for i, k := range list {
		p, key := at.Index(i), k.Name
		if k.Name == "" {
			errs = append(errs, field.Required(p, ""))
			continue
		}
		if used.Has(k.Name) {
			errs = append(errs, field.Duplicate(p, k.Name))
		} else {
			if k.Request != "" {
				errs = append(errs, invalidAll(p.Child("request"), k.Request, validation.IsDNS1123Label(k.Request))...)
				key += "/" + k.Request
			}
			if used.Has(key) {
				errs = append(errs, field.Duplicate(p, key))
			} else if k.Request == "" {
				for _, u := range sets.List(used) {
					if strings.HasPrefix(u, k.Name+"/") {
						errs = append(errs, field.Duplicate(p, k.Name))
					}
				}
			}
			used.Insert(key)
		}
		if !known.Has(k.Name) {
			missing := field.NotFound(p, k.Name)
			missing.Detail = "must be one of the names in pod.spec.resourceClaims"
			if known.Len() == 0 {
				missing.Detail += " which is empty"
			} else {
				missing.Detail += ": " + strings.Join(sets.List(known), ", ")
			}
			errs = append(errs, missing)
		}
	}
	return errs
}
