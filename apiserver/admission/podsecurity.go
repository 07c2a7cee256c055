// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/component-base/metrics/legacyregistry"
	psa "k8s.io/pod-security-admission/admission"
	"k8s.io/pod-security-admission/admission/api/load"
	psaapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"
)

// podSecurity holds Pods to the level their namespace is labelled with: it
// refuses (enforce), warns, or notes it in the audit (PodSecurity admission,
// KEP-2579). Namespaces without labels are privileged.
type podSecurity struct {
	*admission.Handler
	rules *psa.Admission
}

// NewPodSecurity judges by the policies of this release. Its metrics are in the
// library's global registry: it can be made once in a process.
func NewPodSecurity(namespaces psa.NamespaceGetter, pods psa.PodLister) (admission.ValidationInterface, error) {
	config, err := load.LoadFromData(nil)
	if err != nil {
		return nil, fmt.Errorf("cannot set up pod security: %w", err)
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("cannot set up pod security: %w", err)
	}
	recorder := metrics.NewPrometheusRecorder(psaapi.GetAPIVersion())
	recorder.MustRegister(legacyregistry.MustRegister)
	rules := &psa.Admission{
		Configuration: config, Evaluator: evaluator, Metrics: recorder, PodSpecExtractor: psa.DefaultPodSpecExtractor{},
		NamespaceGetter: namespaces, PodLister: pods,
	}
	if err := rules.CompleteConfiguration(); err != nil {
		return nil, fmt.Errorf("cannot set up pod security: %w", err)
	}
	if err := rules.ValidateConfiguration(); err != nil {
		return nil, fmt.Errorf("cannot set up pod security: %w", err)
	}
	return podSecurity{admission.NewHandler(admission.Create, admission.Update), rules}, nil
}

// Validate says yes, no or yes with warnings.
func (p podSecurity) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	gr := a.GetResource().GroupResource()
	if gr != corev1.Resource("pods") && gr != corev1.Resource("namespaces") && !p.rules.PodSpecExtractor.HasPodSpec(gr) {
		return nil
	}
	answer := p.rules.Validate(ctx, securityRequest{a})
	for _, w := range answer.Warnings {
		warning.AddWarning(ctx, "", w)
	}
	for k, v := range answer.AuditAnnotations {
		audit.AddAuditAnnotation(ctx, psaapi.AuditAnnotationPrefix+k, v)
	}
	if answer.Allowed {
		return nil
	}
	refusal := admission.NewForbidden(a, errors.New("Not allowed by PodSecurity")) //nolint:staticcheck // upstream's text
	var status *apierrors.StatusError
	if r := answer.Result; r != nil && errors.As(refusal, &status) {
		s := &status.ErrStatus
		if r.Message != "" {
			s.Message = r.Message
		}
		if r.Reason != "" {
			s.Reason = r.Reason
		}
		if r.Details != nil {
			s.Details = r.Details
		}
		if r.Code != 0 {
			s.Code = r.Code
		}
	}
	return refusal
}

// securityRequest is a request as the rules ask about it.
type securityRequest struct{ admission.Attributes }

func (r securityRequest) GetObject() (runtime.Object, error) { return r.Attributes.GetObject(), nil }
func (r securityRequest) GetOldObject() (runtime.Object, error) {
	return r.Attributes.GetOldObject(), nil
}
func (r securityRequest) GetUserName() string { return r.GetUserInfo().GetName() }
func (r securityRequest) GetOperation() admissionv1.Operation {
	return admissionv1.Operation(r.Attributes.GetOperation())
}
