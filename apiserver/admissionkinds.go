// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// admissionRows are the kinds by which users take part in admission.
func (s *Server) admissionRows() []*row {
	gv := admissionv1.SchemeGroupVersion
	return []*row{
		resource[admissionv1.ValidatingWebhookConfiguration, admissionv1.ValidatingWebhookConfigurationList](gv, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", "validatingwebhookconfiguration", hooks[admissionv1.ValidatingWebhookConfiguration]{
			Defaults: defaults.ValidatingWebhookConfiguration, Validate: validation.ValidatingWebhookConfiguration, ValidateUpdate: validation.ValidatingWebhookConfigurationUpdate, Warn: warn(validation.ValidatingWebhookWarnings), Columns: table.ValidatingWebhookConfiguration(),
		}, clusterScoped, inExtensions, strictUpdate, reservedNames, webhooksCounted),
		resource[admissionv1.MutatingWebhookConfiguration, admissionv1.MutatingWebhookConfigurationList](gv, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", "mutatingwebhookconfiguration", hooks[admissionv1.MutatingWebhookConfiguration]{
			Defaults: defaults.MutatingWebhookConfiguration, Validate: validation.MutatingWebhookConfiguration, ValidateUpdate: validation.MutatingWebhookConfigurationUpdate, Warn: warn(validation.MutatingWebhookWarnings), Columns: table.MutatingWebhookConfiguration(),
		}, clusterScoped, inExtensions, strictUpdate, reservedNames, webhooksCounted),
		resource[admissionv1.ValidatingAdmissionPolicy, admissionv1.ValidatingAdmissionPolicyList](gv, "ValidatingAdmissionPolicy", "validatingadmissionpolicies", "validatingadmissionpolicy", hooks[admissionv1.ValidatingAdmissionPolicy]{
			Defaults: defaults.ValidatingAdmissionPolicy, Validate: validation.ValidatingAdmissionPolicy, ValidateUpdate: validation.ValidatingAdmissionPolicyUpdate, ValidateStatus: validation.ValidatingAdmissionPolicyStatusUpdate, Columns: table.ValidatingAdmissionPolicy(),
		}, clusterScoped, inExtensions, strictUpdate, metadataKept, reservedNames, s.readersOfParams),
		resource[admissionv1.ValidatingAdmissionPolicyBinding, admissionv1.ValidatingAdmissionPolicyBindingList](gv, "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", "validatingadmissionpolicybinding", hooks[admissionv1.ValidatingAdmissionPolicyBinding]{
			Defaults: defaults.ValidatingAdmissionPolicyBinding, Validate: validation.ValidatingAdmissionPolicyBinding, ValidateUpdate: validation.ValidatingAdmissionPolicyBindingUpdate, Columns: table.ValidatingAdmissionPolicyBinding(),
		}, clusterScoped, inExtensions, strictUpdate, reservedNames, s.readersOfParams),
		resource[admissionv1.MutatingAdmissionPolicy, admissionv1.MutatingAdmissionPolicyList](gv, "MutatingAdmissionPolicy", "mutatingadmissionpolicies", "mutatingadmissionpolicy", hooks[admissionv1.MutatingAdmissionPolicy]{
			Defaults: defaults.MutatingAdmissionPolicy, Validate: validation.MutatingAdmissionPolicy, ValidateUpdate: validation.MutatingAdmissionPolicyUpdate, Columns: table.MutatingAdmissionPolicy(),
		}, clusterScoped, inExtensions, strictUpdate, reservedNames, s.readersOfParams),
		resource[admissionv1.MutatingAdmissionPolicyBinding, admissionv1.MutatingAdmissionPolicyBindingList](gv, "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", "mutatingadmissionpolicybinding", hooks[admissionv1.MutatingAdmissionPolicyBinding]{
			Defaults: defaults.MutatingAdmissionPolicyBinding, Validate: validation.MutatingAdmissionPolicyBinding, ValidateUpdate: validation.MutatingAdmissionPolicyBindingUpdate, Columns: table.MutatingAdmissionPolicyBinding(),
		}, clusterScoped, inExtensions, strictUpdate, reservedNames, s.readersOfParams),
	}
}

// webhooksCounted has the generation count changes of the webhooks.
func webhooksCounted(r *row) {
	webhooks := func(o runtime.Object) any { return fieldOf(o, "Webhooks").Interface() }
	r.prepare = func(_ context.Context, o, old runtime.Object) {
		switch {
		case old == nil:
			o.(object).SetGeneration(1)
		case !reflect.DeepEqual(webhooks(o), webhooks(old)):
			o.(object).SetGeneration(old.(object).GetGeneration() + 1)
		}
	}
}

// reservedNames keeps names from new objects that are for those of files, and
// warns where one is there already.
func reservedNames(r *row) {
	validate, warnings := r.validate, r.warn
	r.validate = func(ctx context.Context, o runtime.Object) field.ErrorList {
		return append(validate(ctx, o), validation.StaticName(o.(object).GetName())...)
	}
	r.warn = func(ctx context.Context, o, old runtime.Object) (out []string) {
		if old != nil {
			for _, e := range validation.StaticName(o.(object).GetName()) {
				out = append(out, e.Field+": "+e.Detail)
			}
		}
		if warnings == nil {
			return out
		}
		return append(out, warnings(ctx, o, old)...)
	}
}

// readersOfParams lets nobody have a policy read what he may not read himself.
func (s *Server) readersOfParams(r *row) {
	validate, update := r.validate, r.validateUpdate
	judge := func(ctx context.Context, o, old runtime.Object, errs field.ErrorList) field.ErrorList {
		if len(errs) > 0 {
			return errs
		}
		at, err := s.mayReadParams(ctx, o, old)
		if err != nil {
			return field.ErrorList{field.Forbidden(at, err.Error())}
		}
		return nil
	}
	r.validate = func(ctx context.Context, o runtime.Object) field.ErrorList {
		return judge(ctx, o, nil, validate(ctx, o))
	}
	r.validateUpdate = func(ctx context.Context, o, old runtime.Object) field.ErrorList {
		return judge(ctx, o, old, update(ctx, o, old))
	}
}

// mayReadParams asks for the parameters of a policy, and for those that a
// binding gives it.
func (s *Server) mayReadParams(ctx context.Context, o, old runtime.Object) (*field.Path, error) {
	kind, policy, ref := paramsOf(o)
	if old != nil {
		oldKind, oldPolicy, oldRef := paramsOf(old)
		if equality.Semantic.DeepEqual(kind, oldKind) && policy == oldPolicy && equality.Semantic.DeepEqual(ref, oldRef) {
			return nil, nil
		}
	}
	at := field.NewPath("spec", "paramKind")
	if policy != "" {
		at = field.NewPath("spec", "paramRef")
	}
	if kind == nil && ref == nil {
		return nil, nil
	}
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return at, errors.New("cannot identify user to authorize read access to paramKind resources")
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return nil, nil
	}
	a := authorizer.AttributesRecord{User: u, Verb: "get", ResourceRequest: true, Name: "*", Namespace: "*"}
	if ref == nil {
		_ = s.paramResource(&a, kind)
		if !s.allowedTo(ctx, a) {
			return at, fmt.Errorf(`user %v must have "get" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)`, u, kind.Kind, kind.APIVersion)
		}
		return nil, nil
	}
	if a.Name, a.Namespace = ref.Name, ref.Namespace; a.Name == "" {
		a.Verb = "list"
	}
	kind, err := s.paramKindOf(ctx, o, policy)
	reason := fmt.Sprintf("unable to get policy %s", policy)
	if err == nil {
		reason = fmt.Sprintf("unable to resolve paramKind %v", kind)
		err = s.paramResource(&a, kind)
	} else {
		a.APIGroup, a.APIVersion, a.Resource = "*", "*", "*"
	}
	switch {
	case s.allowedTo(ctx, a):
		return nil, nil
	case err != nil:
		return at, fmt.Errorf(`%s to determine minimum required permissions and user %v does not have "%v" permission for all groups, versions and resources`, reason, u, a.Verb)
	}
	return at, fmt.Errorf(`user %v does not have "%v" permission on the object referenced by paramRef`, u, a.Verb)
}

func paramsOf(o runtime.Object) (kind *admissionv1.ParamKind, policy string, ref *admissionv1.ParamRef) {
	switch o := o.(type) {
	case *admissionv1.ValidatingAdmissionPolicy:
		return o.Spec.ParamKind, "", nil
	case *admissionv1.MutatingAdmissionPolicy:
		return o.Spec.ParamKind, "", nil
	case *admissionv1.ValidatingAdmissionPolicyBinding:
		return nil, o.Spec.PolicyName, o.Spec.ParamRef
	case *admissionv1.MutatingAdmissionPolicyBinding:
		return nil, o.Spec.PolicyName, o.Spec.ParamRef
	}
	return nil, "", nil
}

// paramKindOf is what the policy of a binding has for parameters.
func (s *Server) paramKindOf(ctx context.Context, binding runtime.Object, policy string) (*admissionv1.ParamKind, error) {
	if _, mutates := binding.(*admissionv1.MutatingAdmissionPolicyBinding); mutates {
		p, err := getFresh[admissionv1.MutatingAdmissionPolicy](ctx, s, admissionv1.Resource("mutatingadmissionpolicies"), "", policy)
		if err != nil {
			return nil, err
		}
		return p.Spec.ParamKind, nil
	}
	p, err := getFresh[admissionv1.ValidatingAdmissionPolicy](ctx, s, admissionv1.Resource("validatingadmissionpolicies"), "", policy)
	if err != nil {
		return nil, err
	}
	return p.Spec.ParamKind, nil
}

// paramResource asks about a kind, or about everything as long as it is not
// known which resource that is.
func (s *Server) paramResource(a *authorizer.AttributesRecord, kind *admissionv1.ParamKind) error {
	a.APIGroup, a.APIVersion, a.Resource = "*", "*", "*"
	if kind == nil {
		return nil
	}
	gv, err := schema.ParseGroupVersion(kind.APIVersion)
	if err != nil {
		return err
	}
	a.APIGroup, a.APIVersion = gv.Group, gv.Version
	mapping, err := s.mapper.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: kind.Kind}, gv.Version)
	if err != nil {
		return err
	}
	a.Resource = mapping.Resource.Resource
	return nil
}

func (s *Server) allowedTo(ctx context.Context, a authorizer.AttributesRecord) bool {
	decision, _, err := s.generic.Authorizer.Authorize(ctx, a)
	return err == nil && decision == authorizer.DecisionAllow
}
