// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// APIService checks who serves a version of a group; its name says which.
func APIService(a *apiregistrationv1.APIService) field.ErrorList {
	s, at := &a.Spec, field.NewPath("spec")
	errs := apivalidation.ValidateObjectMeta(&a.ObjectMeta, false, func(name string, _ bool) []string {
		if problems := content.IsPathSegmentName(name); len(problems) > 0 {
			return problems
		}
		if must := s.Version + "." + s.Group; name != must {
			return []string{fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", must)}
		}
		return nil
	}, metadata)
	if s.Group == "" && s.Version != "v1" {
		errs = append(errs, field.Required(at.Child("group"), "only v1 may have an empty group and it better be legacy kube"))
	}
	errs = append(errs, ifSet(s.Group, at.Child("group"), validation.IsDNS1123Subdomain)...)
	errs = append(errs, invalidAll(at.Child("version"), s.Version, validation.IsDNS1035Label(s.Version))...)
	if n := s.GroupPriorityMinimum; n <= 0 || n > 20000 {
		errs = append(errs, field.Invalid(at.Child("groupPriorityMinimum"), n, "must be positive and less than 20000"))
	}
	if n := s.VersionPriority; n <= 0 || n > 1000 {
		errs = append(errs, field.Invalid(at.Child("versionPriority"), n, "must be positive and less than 1000"))
	}
	bundle, insecure := at.Child("caBundle"), at.Child("insecureSkipTLSVerify")
	if s.Service == nil {
		if len(s.CABundle) > 0 {
			errs = append(errs, field.Invalid(bundle, fmt.Sprintf("%d bytes", len(s.CABundle)), "local APIServices may not have a caBundle"))
		}
		if s.InsecureSkipTLSVerify {
			errs = append(errs, field.Invalid(insecure, true, "local APIServices may not have insecureSkipTLSVerify"))
		}
		return errs
	}
	service := at.Child("service")
	errs = append(errs, required(s.Service.Namespace, service.Child("namespace"))...)
	errs = append(errs, required(s.Service.Name, service.Child("name"))...)
	if p := s.Service.Port; p != nil {
		if problems := validation.IsValidPortNum(int(*p)); problems != nil {
			errs = append(errs, field.Invalid(service.Child("port"), *p, "port is not valid: "+strings.Join(problems, ", ")))
		}
	}
	if s.InsecureSkipTLSVerify && len(s.CABundle) > 0 {
		errs = append(errs, field.Invalid(insecure, true, "may not be true if caBundle is present"))
	}
	return errs
}

// APIServiceUpdate checks a change.
func APIServiceUpdate(a, old *apiregistrationv1.APIService) field.ErrorList {
	return append(apivalidation.ValidateObjectMetaUpdate(&a.ObjectMeta, &old.ObjectMeta, metadata), APIService(a)...)
}

// APIServiceStatusUpdate checks the conditions.
func APIServiceStatusUpdate(a, old *apiregistrationv1.APIService) field.ErrorList {
	errs, at := apivalidation.ValidateObjectMetaUpdate(&a.ObjectMeta, &old.ObjectMeta, metadata), field.NewPath("status", "conditions")
	for i, c := range a.Status.Conditions {
		errs = append(errs, supported(c.Status, at.Index(i).Child("status"), apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown)...)
	}
	return errs
}
