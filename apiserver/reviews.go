// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/validation"
	"github.com/peapod/peapod/auth"
)

// review is a resource that is only ever created and never stored: a question.
type review struct {
	namespaced bool
	singular   string
	empty      func() runtime.Object
	answer     func(ctx context.Context, o runtime.Object) error
}

func (r review) New() runtime.Object     { return r.empty() }
func (review) Destroy()                  {}
func (r review) NamespaceScoped() bool   { return r.namespaced }
func (r review) GetSingularName() string { return r.singular }

func (r review) Create(ctx context.Context, o runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	if validate != nil {
		if err := validate(ctx, o.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := r.answer(ctx, o); err != nil {
		return nil, err
	}
	return o, nil
}

// reviews are authorization.k8s.io and authentication.k8s.io.
func (s *Server) reviews() map[schema.GroupVersion]map[string]rest.Storage {
	return map[schema.GroupVersion]map[string]rest.Storage{
		authorizationv1.SchemeGroupVersion: {
			"subjectaccessreviews":      review{false, "subjectaccessreview", func() runtime.Object { return &authorizationv1.SubjectAccessReview{} }, s.subjectAccess},
			"selfsubjectaccessreviews":  review{false, "selfsubjectaccessreview", func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }, s.selfAccess},
			"localsubjectaccessreviews": review{true, "localsubjectaccessreview", func() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} }, s.localAccess},
			"selfsubjectrulesreviews":   review{false, "selfsubjectrulesreview", func() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} }, s.selfRules},
		},
		authenticationv1.SchemeGroupVersion: {
			"tokenreviews":       review{false, "tokenreview", func() runtime.Object { return &authenticationv1.TokenReview{} }, s.tokenReview},
			"selfsubjectreviews": review{false, "selfsubjectreview", func() runtime.Object { return &authenticationv1.SelfSubjectReview{} }, selfReview},
		},
	}
}

// reviewKinds are the types of the two groups.
func reviewKinds() map[string][]runtime.Object {
	return map[string][]runtime.Object{
		authorizationv1.GroupName: {
			&authorizationv1.SubjectAccessReview{}, &authorizationv1.SelfSubjectAccessReview{},
			&authorizationv1.LocalSubjectAccessReview{}, &authorizationv1.SelfSubjectRulesReview{},
		},
		authenticationv1.GroupName: {&authenticationv1.TokenReview{}, &authenticationv1.SelfSubjectReview{}, &authenticationv1.TokenRequest{}},
	}
}

func (s *Server) decide(ctx context.Context, u user.Info, res *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) (authorizationv1.SubjectAccessReviewStatus, error) {
	var a authorizer.AttributesRecord
	switch {
	case res != nil && path == nil:
		a = authorizer.AttributesRecord{
			User: u, Verb: res.Verb, Namespace: res.Namespace, APIGroup: res.Group, APIVersion: res.Version,
			Resource: res.Resource, Subresource: res.Subresource, Name: res.Name, ResourceRequest: true,
		}
		if a.APIVersion == "" {
			a.APIVersion = "*"
		}
	case path != nil && res == nil:
		a = authorizer.AttributesRecord{User: u, Verb: path.Verb, Path: path.Path}
	}
	decision, reason, err := s.generic.Authorizer.Authorize(ctx, a)
	status := authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason,
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return status, nil
}

func (s *Server) subjectAccess(ctx context.Context, o runtime.Object) (err error) {
	r := o.(*authorizationv1.SubjectAccessReview)
	errs := append(oneQuestion(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes), somebody(r.Spec)...)
	if err := refuse("SubjectAccessReview", append(errs, noMetadata(r.ObjectMeta, "must be empty")...)); err != nil {
		return err
	}
	r.Status, err = s.decide(ctx, reviewed(r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return err
}

func (s *Server) localAccess(ctx context.Context, o runtime.Object) (err error) {
	r := o.(*authorizationv1.LocalSubjectAccessReview)
	errs := append(oneQuestion(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes), somebody(r.Spec)...)
	whole := r.ObjectMeta
	whole.Namespace = ""
	errs = append(errs, noMetadata(whole, "must be empty except for namespace")...)
	if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("spec.resourceAttributes.namespace"), a.Namespace, "must match metadata.namespace"))
	}
	if a := r.Spec.NonResourceAttributes; a != nil {
		errs = append(errs, field.Invalid(field.NewPath("spec.nonResourceAttributes"), a, "disallowed on this kind of request"))
	}
	if err := refuse("LocalSubjectAccessReview", errs); err != nil {
		return err
	}
	r.Status, err = s.decide(ctx, reviewed(r.Spec), r.Spec.ResourceAttributes, nil)
	return err
}

// What upstream refuses in a question.

func refuse(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind(kind).GroupKind(), "", errs)
}

func oneQuestion(resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) field.ErrorList {
	if (resource == nil) != (path == nil) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec"), path, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
}

func somebody(s authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	if s.User != "" || len(s.Groups) > 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec", "user"), s.User, "at least one of user or group must be specified")}
}

func noMetadata(m metav1.ObjectMeta, problem string) field.ErrorList {
	m.ManagedFields = nil
	if equality.Semantic.DeepEqual(m, metav1.ObjectMeta{}) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), m, problem)}
}

func reviewed(s authorizationv1.SubjectAccessReviewSpec) user.Info {
	extra := map[string][]string{}
	for k, v := range s.Extra {
		extra[k] = v
	}
	return &user.DefaultInfo{Name: s.User, UID: s.UID, Groups: s.Groups, Extra: extra}
}

func (s *Server) selfAccess(ctx context.Context, o runtime.Object) (err error) {
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return apierrors.NewBadRequest("no user present on request")
	}
	r := o.(*authorizationv1.SelfSubjectAccessReview)
	errs := append(oneQuestion(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes), noMetadata(r.ObjectMeta, "must be empty")...)
	if err := refuse("SelfSubjectAccessReview", errs); err != nil {
		return err
	}
	r.Status, err = s.decide(ctx, u, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return err
}

func (s *Server) selfRules(ctx context.Context, o runtime.Object) error {
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return apierrors.NewBadRequest("no user present on request")
	}
	r := o.(*authorizationv1.SelfSubjectRulesReview)
	if r.Spec.Namespace == "" {
		return apierrors.NewBadRequest("no namespace on request")
	}
	resources, urls, incomplete, err := s.rbac.RulesFor(ctx, u, r.Spec.Namespace)
	r.Status = authorizationv1.SubjectRulesReviewStatus{Incomplete: incomplete, ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}}
	for _, x := range resources {
		r.Status.ResourceRules = append(r.Status.ResourceRules, authorizationv1.ResourceRule{Verbs: x.GetVerbs(), APIGroups: x.GetAPIGroups(), Resources: x.GetResources(), ResourceNames: x.GetResourceNames()})
	}
	for _, x := range urls {
		r.Status.NonResourceRules = append(r.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: x.GetVerbs(), NonResourceURLs: x.GetNonResourceURLs()})
	}
	if err != nil {
		r.Status.EvaluationError, r.Status.Incomplete = err.Error(), true
	}
	return nil
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if out.Extra == nil {
			out.Extra = map[string]authenticationv1.ExtraValue{}
		}
		out.Extra[k] = v
	}
	return out
}

func selfReview(ctx context.Context, o runtime.Object) error {
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return apierrors.NewBadRequest("no user present on request")
	}
	o.(*authenticationv1.SelfSubjectReview).Status.UserInfo = userInfo(u)
	return nil
}

func (s *Server) tokenReview(ctx context.Context, o runtime.Object) error {
	r := o.(*authenticationv1.TokenReview)
	if r.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	audiences := authenticator.Audiences(r.Spec.Audiences)
	if len(audiences) == 0 {
		audiences = authenticator.Audiences{auth.Issuer}
	}
	// Whom requests with the token come from is asked, and they are authenticated.
	known := group.NewTokenGroupAdder(s.tokens, []string{user.AllAuthenticated})
	answer, ok, err := known.AuthenticateToken(authenticator.WithAudiences(ctx, audiences), r.Spec.Token)
	r.Status.Authenticated = ok
	if err != nil {
		r.Status.Error = err.Error()
	}
	if answer != nil && answer.User != nil {
		r.Status.User, r.Status.Audiences = userInfo(answer.User), answer.Audiences
	}
	return nil
}

// tokenRequest is serviceaccounts/token.
type tokenRequest struct {
	server   *Server
	accounts *registry.Store
}

func (tokenRequest) New() runtime.Object { return &authenticationv1.TokenRequest{} }
func (tokenRequest) Destroy()            {}
func (tokenRequest) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}

func (t tokenRequest) Create(ctx context.Context, name string, o runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	req := o.(*authenticationv1.TokenRequest)
	if req.Spec.ExpirationSeconds == nil {
		req.Spec.ExpirationSeconds = ptr.To[int64](60 * 60)
	}
	account, err := t.account(ctx, name, req)
	if err != nil {
		return nil, err
	}
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = []string{auth.Issuer}
	}
	req.Name, req.Namespace, req.UID, req.CreationTimestamp = account.Name, account.Namespace, account.UID, metav1.Now()
	req.Status = authenticationv1.TokenRequestStatus{}
	if errs := validation.TokenRequest(req); len(errs) > 0 {
		return nil, apierrors.NewInvalid(tokenKind, "", errs)
	}
	if validate != nil {
		if err := validate(ctx, req.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	sign := auth.Request{Account: account, Audiences: req.Spec.Audiences, Seconds: *req.Spec.ExpirationSeconds}
	if err := t.bind(ctx, req, &sign); err != nil {
		return nil, err
	}
	token, expires, err := t.server.tokens.Sign(sign)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	req.Status = auth.TokenStatus(token, expires)
	return req, nil
}

var tokenKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind()

// account finds the account that the URL names; what the request's own metadata
// says must be the same.
func (t tokenRequest) account(ctx context.Context, name string, req *authenticationv1.TokenRequest) (*corev1.ServiceAccount, error) {
	at := field.NewPath("metadata")
	if req.Name != "" && req.Name != name {
		return nil, apierrors.NewInvalid(tokenKind, name, field.ErrorList{field.Invalid(at.Child("name"), req.Name, "must match the service account name if specified")})
	}
	if req.Namespace != "" && req.Namespace != namespaceOf(ctx) {
		return nil, apierrors.NewInvalid(tokenKind, name, field.ErrorList{field.Invalid(at.Child("namespace"), req.Namespace, "must match the service account namespace if specified")})
	}
	found, err := t.accounts.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	account := found.(*corev1.ServiceAccount)
	if req.UID != "" && req.UID != account.UID {
		conflict := fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", req.UID, account.UID)
		return nil, apierrors.NewConflict(schema.GroupResource{Group: tokenKind.Group, Resource: tokenKind.Kind}, name, conflict)
	}
	return account, nil
}

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps the UID of a
// request, which says whose token it is to be.
func (tokenRequest) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

// bind finds the object the token shall live and die with.
func (t tokenRequest) bind(ctx context.Context, req *authenticationv1.TokenRequest, sign *auth.Request) error {
	ref := req.Spec.BoundObjectRef
	if ref == nil {
		return nil
	}
	objects, ns := boundObjects{t.server, false}, namespaceOf(ctx)
	var uid string
	var err error
	switch {
	case ref.APIVersion == "v1" && ref.Kind == "Pod":
		if sign.Pod, err = objects.Pod(ctx, ns, ref.Name); err == nil {
			uid = string(sign.Pod.UID)
			if sign.Pod.Spec.ServiceAccountName != sign.Account.Name {
				return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", sign.Account.Name))
			}
			if node := sign.Pod.Spec.NodeName; node != "" {
				if sign.Node, err = objects.Node(ctx, node); apierrors.IsNotFound(err) {
					sign.Node, err = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, nil
				}
			}
		}
	case ref.APIVersion == "v1" && ref.Kind == "Secret":
		if sign.Secret, err = objects.Secret(ctx, ns, ref.Name); err == nil {
			uid = string(sign.Secret.UID)
		}
	case ref.APIVersion == "v1" && ref.Kind == "Node":
		if sign.Node, err = objects.Node(ctx, ref.Name); err == nil {
			uid = string(sign.Node.UID)
		}
	default:
		err = apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).String()))
	}
	if err != nil {
		return err
	}
	if ref.UID != "" && uid != string(ref.UID) {
		conflict := fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
		return apierrors.NewConflict(schema.GroupResource{Resource: ref.Kind}, ref.Name, conflict)
	}
	return nil
}
