// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	requestunion "k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/peapod/peapod/auth"
)

// access says who callers are and what they may do: client certificates,
// service account tokens, bootstrap tokens and the components of this process;
// system:masters may do all, everything else asks the authorizer of nodes and
// RBAC. Anonymous callers reach health, and what a cluster says of itself to
// machines that join.
// Options add to it: see authentication.go and authorization.go.
func (s *Server) access(c *genericapiserver.Config) error {
	verify := x509.DefaultVerifyOptions()
	verify.Roots = s.config.PKI.Pool()
	certificates := x509.New(verify, x509.CommonNameUserConversion)
	tokens, err := auth.NewTokens(s.config.PKI.ServiceAccountKey, boundObjects{s, true}, time.Now)
	if err != nil {
		return err
	}
	s.tokens = tokens
	c.Authentication.APIAudiences = authenticator.Audiences{auth.Issuer}
	// Ours first: others may have to be asked over the network.
	bearers := []authenticator.Token{&s.identities, tokens, auth.BootstrapTokens{Objects: boundObjects{s, true}, Now: time.Now}}
	anybody := apiserver.AnonymousAuthConfig{Enabled: true, Conditions: []apiserver.AnonymousAuthCondition{
		{Path: "/healthz"}, {Path: "/livez"}, {Path: "/readyz"},
		// What a machine reads that joins, which RBAC allows once there is a token.
		{Path: "/api/v1/namespaces/kube-public/configmaps/cluster-info"},
	}}
	others, err := s.newIssuers(c)
	if err != nil {
		return err
	}
	if others != nil {
		bearers = append(bearers, others)
		if a := others.initial.Anonymous; a != nil {
			anybody = *a
		}
	}
	asking, err := s.config.Options.Authentication.Webhook.authenticator(c.Authentication.APIAudiences)
	if err != nil {
		return fmt.Errorf("cannot ask whose tokens are: %w", err)
	}
	if asking != nil {
		bearers = append(bearers, asking)
	}
	known := group.NewAuthenticatedGroupAdder(requestunion.New(certificates, bearertoken.New(tokenunion.New(bearers...))))
	c.Authentication.Authenticator = known
	if anybody.Enabled {
		// A bad token is an error, not an anonymous caller.
		c.Authentication.Authenticator = requestunion.NewFailOnError(known, anonymous.NewAuthenticator(anybody.Conditions))
	}

	rbac := s.informers.Rbac().V1()
	s.rbac = &auth.RBAC{
		Roles: rbac.Roles().Lister(), RoleBindings: rbac.RoleBindings().Lister(),
		ClusterRoles: rbac.ClusterRoles().Lister(), ClusterRoleBindings: rbac.ClusterRoleBindings().Lister(),
	}
	allow, deny := authorizerfactory.NewAlwaysAllowAuthorizer(), authorizerfactory.NewAlwaysDenyAuthorizer()
	nodes := auth.NodeAuthorizer{Objects: nodeObjects{s}}
	return s.authorizeBy(c, map[apiserver.AuthorizerType]asked{
		"Node":        {authorizer.AuthorizerFunc(nodes.Authorize), nodes},
		"RBAC":        {authorizer.AuthorizerFunc(s.rbac.Authorize), s.rbac},
		"AlwaysAllow": {allow, allow}, "AlwaysDeny": {deny, deny},
	}, "Node", "RBAC")
}

// boundObjects reads from the stores what a token says it belongs to, and what
// requests for a Pod's streams go to.
type boundObjects struct {
	s *Server
	// cached takes what the watch cache knows, and asks the store only when
	// that does not know the object yet.
	cached bool
}

// getFresh reads an object as the store has it now. A NotFound names the
// object's resource, not that of the request.
func getFresh[T any](ctx context.Context, s *Server, gr schema.GroupResource, namespace, name string) (*T, error) {
	return getAt[T](ctx, s, gr, namespace, name, "")
}

func getAt[T any](ctx context.Context, s *Server, gr schema.GroupResource, namespace, name, version string) (*T, error) {
	ctx = genericapirequest.WithRequestInfo(genericapirequest.WithNamespace(ctx, namespace), &genericapirequest.RequestInfo{APIGroup: gr.Group, Resource: gr.Resource})
	o, err := s.stores.main[gr].Get(ctx, name, &metav1.GetOptions{ResourceVersion: version})
	if err != nil {
		return nil, err
	}
	return any(o).(*T), nil
}

func getBound[T any](ctx context.Context, b boundObjects, resource, namespace, name string) (*T, error) {
	gr := corev1.Resource(resource)
	if b.cached {
		o, err := getAt[T](ctx, b.s, gr, namespace, name, "0")
		if !apierrors.IsNotFound(err) {
			return o, err
		}
	}
	return getFresh[T](ctx, b.s, gr, namespace, name)
}

func (b boundObjects) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return getBound[corev1.ServiceAccount](ctx, b, "serviceaccounts", namespace, name)
}

func (b boundObjects) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return getBound[corev1.Pod](ctx, b, "pods", namespace, name)
}

func (b boundObjects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return getBound[corev1.Secret](ctx, b, "secrets", namespace, name)
}

func (b boundObjects) Node(ctx context.Context, name string) (*corev1.Node, error) {
	return getBound[corev1.Node](ctx, b, "nodes", "", name)
}

// allowed asks the authorizer about one verb.
func (s *Server) allowed(ctx context.Context, u user.Info, verb string, gr schema.GroupResource, namespace, name string) bool {
	decision, _, err := s.generic.Authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: verb, Namespace: namespace, APIGroup: gr.Group, APIVersion: "*", Resource: gr.Resource, Name: name, ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}
