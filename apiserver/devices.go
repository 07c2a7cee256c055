// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/device"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// deviceRows are the devices that drivers have, and the claims to them.
func (s *Server) deviceRows() []*row {
	gv := resourcev1.SchemeGroupVersion
	return []*row{
		resource[resourcev1.DeviceClass, resourcev1.DeviceClassList](gv, "DeviceClass", "deviceclasses", "deviceclass", hooks[resourcev1.DeviceClass]{
			Validate: validation.DeviceClass, ValidateUpdate: validation.DeviceClassUpdate, Columns: table.DeviceClass(),
		}, clusterScoped, echoDeleted),
		resource[resourcev1.DeviceTaintRule, resourcev1.DeviceTaintRuleList](gv, "DeviceTaintRule", "devicetaintrules", "devicetaintrule", hooks[resourcev1.DeviceTaintRule]{
			Defaults: defaults.DeviceTaintRule, Validate: validation.DeviceTaintRule, ValidateUpdate: validation.DeviceTaintRuleUpdate, ValidateStatus: validation.DeviceTaintRuleStatusUpdate,
			Prepare: func(_ context.Context, r, old *resourcev1.DeviceTaintRule) { defaults.PrepareDeviceTaintRule(r, old) }, Columns: table.DeviceTaintRule(),
		}, clusterScoped, strictUpdate, metadataKept),
		resource[resourcev1.ResourceClaim, resourcev1.ResourceClaimList](gv, "ResourceClaim", "resourceclaims", "resourceclaim", hooks[resourcev1.ResourceClaim]{
			Defaults: defaults.ResourceClaim, Validate: validation.ResourceClaim, ValidateUpdate: validation.ResourceClaimUpdate, ValidateStatus: validation.ResourceClaimStatusUpdate,
			Prepare:       func(_ context.Context, c, old *resourcev1.ResourceClaim) { defaults.PrepareResourceClaim(c, old) },
			PrepareStatus: defaults.PrepareResourceClaimStatus, Columns: table.ResourceClaim(),
		}, withoutGeneration, metadataKept, echoDeleted, func(r *row) {
			r.validate = alsoCreated(r.validate, func(ctx context.Context, o runtime.Object) field.ErrorList {
				c := o.(*resourcev1.ResourceClaim)
				return s.mayAdministrate(ctx, c.Namespace, adminRequest(&c.Spec))
			})
			own := r.validateStatus
			r.validateStatus = func(ctx context.Context, o, old runtime.Object) field.ErrorList {
				return append(s.mayAllocate(ctx, o.(*resourcev1.ResourceClaim), old.(*resourcev1.ResourceClaim)), own(ctx, o, old)...)
			}
		}),
		resource[resourcev1.ResourceClaimTemplate, resourcev1.ResourceClaimTemplateList](gv, "ResourceClaimTemplate", "resourceclaimtemplates", "resourceclaimtemplate", hooks[resourcev1.ResourceClaimTemplate]{
			Defaults: defaults.ResourceClaimTemplate, Validate: validation.ResourceClaimTemplate, ValidateUpdate: validation.ResourceClaimTemplateUpdate,
			Prepare: func(_ context.Context, t, old *resourcev1.ResourceClaimTemplate) {
				defaults.PrepareResourceClaimTemplate(t, old)
			},
			Columns: table.ResourceClaimTemplate(),
		}, withoutGeneration, echoDeleted, func(r *row) {
			r.validate = alsoCreated(r.validate, func(ctx context.Context, o runtime.Object) field.ErrorList {
				t := o.(*resourcev1.ResourceClaimTemplate)
				return s.mayAdministrate(ctx, t.Namespace, adminRequest(&t.Spec.Spec))
			})
		}),
		resource[resourcev1.ResourceSlice, resourcev1.ResourceSliceList](gv, "ResourceSlice", "resourceslices", "resourceslice", hooks[resourcev1.ResourceSlice]{
			Defaults: defaults.ResourceSlice, Validate: validation.ResourceSlice, ValidateUpdate: validation.ResourceSliceUpdate,
			Prepare: func(_ context.Context, r, old *resourcev1.ResourceSlice) { defaults.PrepareResourceSlice(r, old) },
			Warn:    warn(validation.ResourceSliceWarnings), Columns: table.ResourceSlice(),
			Selectable: func(r *resourcev1.ResourceSlice) fields.Set {
				return fields.Set{
					resourcev1.ResourceSliceSelectorNodeName: ptr.Deref(r.Spec.NodeName, ""),
					resourcev1.ResourceSliceSelectorDriver:   r.Spec.Driver, resourcev1.ResourceSliceSelectorPoolName: r.Spec.Pool.Name,
				}
			},
		}, clusterScoped, echoDeleted, indexedBy(resourcev1.ResourceSliceSelectorNodeName)),
	}
}

// alsoCreated puts a check that asks other objects before the one of the kind.
func alsoCreated(own, more func(context.Context, runtime.Object) field.ErrorList) func(context.Context, runtime.Object) field.ErrorList {
	return func(ctx context.Context, o runtime.Object) field.ErrorList {
		return append(more(ctx, o), own(ctx, o)...)
	}
}

// adminRequest is where a claim asks for devices that others may have, or nil.
func adminRequest(c *resourcev1.ResourceClaimSpec) *field.Path {
	for i, r := range c.Devices.Requests {
		if r.Exactly != nil && ptr.Deref(r.Exactly.AdminAccess, false) {
			return field.NewPath("spec", "devices", "requests").Index(i).Child("adminAccess")
		}
	}
	return nil
}

// adminResult is where a claim was given such a device, or nil.
func adminResult(a *resourcev1.AllocationResult) *field.Path {
	if a == nil {
		return nil
	}
	for i, r := range a.Devices.Results {
		if ptr.Deref(r.AdminAccess, false) {
			return field.NewPath("status", "allocation", "devices", "results").Index(i).Child("adminAccess")
		}
	}
	return nil
}

// mayAdministrate says whether a namespace may have devices of others, if it
// asks for some.
func (s *Server) mayAdministrate(ctx context.Context, namespace string, at *field.Path) field.ErrorList {
	if at == nil {
		return nil
	}
	ns, err := getFresh[corev1.Namespace](ctx, s, corev1.Resource("namespaces"), "", namespace)
	if err != nil {
		return field.ErrorList{field.InternalError(at, fmt.Errorf("could not retrieve namespace to verify admin access: %w", err))}
	}
	if ns.Labels[resourcev1.DRAAdminNamespaceLabelKey] != "true" {
		return field.ErrorList{field.Forbidden(at, fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace", resourcev1.DRAAdminNamespaceLabelKey))}
	}
	return nil
}

// mayAllocate checks who writes which part of a claim's status: what was given
// to whom is the scheduler's, and what is told of a device its driver's.
func (s *Server) mayAllocate(ctx context.Context, c, old *resourcev1.ResourceClaim) (errs field.ErrorList) {
	now, was := &c.Status, &old.Status
	if adminResult(was.Allocation) == nil {
		errs = s.mayAdministrate(ctx, c.Namespace, adminResult(now.Allocation))
	}
	if !equality.Semantic.DeepEqual(now.Allocation, was.Allocation) || !equality.Semantic.DeepEqual(now.ReservedFor, was.ReservedFor) {
		errs = append(errs, s.mayBind(ctx)...)
	}
	if now.Allocation != nil {
		errs = append(errs, s.mayTell(ctx, now, was)...)
	}
	return errs
}

func (s *Server) mayBind(ctx context.Context) field.ErrorList {
	at := field.NewPath("status", "allocation")
	a, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return field.ErrorList{field.InternalError(at, fmt.Errorf("cannot build authorizer attributes: %w", err))}
	}
	if err := s.mayPart(ctx, claimPart{Attributes: a, verb: a.GetVerb(), part: resourcev1.SubresourceBinding}); err != nil {
		return field.ErrorList{field.Forbidden(at, fmt.Sprintf(`changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="%s" permission: %s`, a.GetVerb(), err))}
	}
	return nil
}

// mayTell asks for each driver of whose devices something else is told. A
// driver on the claim's own node needs less than one elsewhere.
func (s *Server) mayTell(ctx context.Context, now, was *resourcev1.ResourceClaimStatus) (errs field.ErrorList) {
	drivers := toldAnew(now.Devices, was.Devices)
	if len(drivers) == 0 {
		return nil
	}
	at := field.NewPath("status", "devices")
	a, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return field.ErrorList{field.InternalError(at, fmt.Errorf("cannot build authorizer attributes: %w", err))}
	}
	verbs := []string{resourcev1.VerbPrefixArbitraryNode + a.GetVerb()}
	if onNode(a.GetUser(), nodeOf(now.Allocation)) {
		verbs = slices.Insert(verbs, 0, resourcev1.VerbPrefixAssociatedNode+a.GetVerb())
	}
	for _, driver := range drivers {
		var first error
		allowed := slices.ContainsFunc(verbs, func(verb string) bool {
			err := s.mayPart(ctx, claimPart{a, verb, resourcev1.SubresourceDriver, a.GetNamespace(), driver})
			if first == nil {
				first = err
			}
			return err == nil
		})
		if !allowed {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf(`changing status.devices requires resource="resourceclaims/driver", verb="%s" permission: %s`, verbs, first)))
		}
	}
	return errs
}

// toldAnew are the drivers whose devices are told of otherwise than before.
func toldAnew(now, was []resourcev1.AllocatedDeviceStatus) []string {
	before, changed := map[device.ID]*resourcev1.AllocatedDeviceStatus{}, map[string]bool{}
	for i := range was {
		before[device.Told(&was[i])] = &was[i]
	}
	for i := range now {
		id := device.Told(&now[i])
		if old := before[id]; old == nil || !equality.Semantic.DeepEqual(*old, now[i]) {
			changed[id.Driver] = true
		}
		delete(before, id)
	}
	for id := range before {
		changed[id.Driver] = true
	}
	return slices.Sorted(maps.Keys(changed))
}

// nodeOf is the one node on which an allocation can be used, or "".
func nodeOf(a *resourcev1.AllocationResult) string {
	if a.NodeSelector == nil || len(a.NodeSelector.NodeSelectorTerms) != 1 {
		return ""
	}
	t := a.NodeSelector.NodeSelectorTerms[0]
	if len(t.MatchExpressions) != 0 || len(t.MatchFields) != 1 {
		return ""
	}
	if f := t.MatchFields[0]; f.Key == "metadata.name" && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
		return f.Values[0]
	}
	return ""
}

// onNode says whether a user is a service account whose token was made for a
// Pod on a node.
func onNode(u user.Info, node string) bool {
	if _, _, err := serviceaccount.SplitUsername(u.GetName()); err != nil || node == "" {
		return false
	}
	return slices.Equal(u.GetExtra()[serviceaccount.NodeNameKey], []string{node})
}

// mayPart asks for a part of claims that nobody serves: it is there to be
// permitted.
func (s *Server) mayPart(ctx context.Context, p claimPart) error {
	decision, reason, err := s.generic.Authorizer.Authorize(ctx, p)
	switch {
	case decision == authorizer.DecisionAllow:
		return nil
	case err != nil && reason != "":
		reason = err.Error() + ": " + reason
	case err != nil:
		reason = err.Error()
	}
	return responsewriters.ForbiddenStatusError(p, reason)
}

// claimPart asks for another verb, part, namespace and name than the request
// that it is for.
type claimPart struct {
	authorizer.Attributes
	verb, part, namespace, name string
}

func (p claimPart) GetVerb() string        { return p.verb }
func (p claimPart) GetSubresource() string { return p.part }
func (p claimPart) GetNamespace() string   { return p.namespace }
func (p claimPart) GetName() string        { return p.name }
