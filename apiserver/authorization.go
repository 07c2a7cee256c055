// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/load"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"
	"k8s.io/apiserver/pkg/authorization/union"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/server/options/authorizationconfig/metrics"
	"k8s.io/apiserver/pkg/util/webhook"
	authorizerwebhook "k8s.io/apiserver/plugin/pkg/authorizer/webhook"
	webhookmetrics "k8s.io/apiserver/plugin/pkg/authorizer/webhook/metrics"
)

// AuthorizationOptions name the AuthorizationConfiguration that says who is
// asked what callers may do, in which order.
type AuthorizationOptions struct{ File string }

// AddFlags adds the flag by its name in kube-apiserver.
func (o *AuthorizationOptions) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.File, "authorization-config", "", "file with the AuthorizationConfiguration: who is asked what callers may do, in which order (default: Node, then RBAC); it is read again when it changes")
}

// chain asks authorizers one after the other. Those that a file names may
// change while it is asked.
type chain struct {
	id      string
	own     map[apiserver.AuthorizerType]asked
	types   sets.Set[apiserver.AuthorizerType] // those of ours that a changed file must still name
	current atomic.Pointer[asked]
}

// asked is an authorizer, or all of one configuration.
type asked struct {
	authorizer.Authorizer
	authorizer.RuleResolver
}

// authorizeBy puts authorizers of this process in the order of the file, or in
// usual's, and webhooks among them. system:masters are asked for by nobody.
func (s *Server) authorizeBy(c *genericapiserver.Config, ours map[apiserver.AuthorizerType]asked, usual ...apiserver.AuthorizerType) error {
	h := &chain{id: c.APIServerID, own: ours}
	c.Authorization.Authorizer, c.RuleResolver = h, h
	config := &apiserver.AuthorizationConfiguration{}
	for _, t := range usual {
		config.Authorizers = append(config.Authorizers, apiserver.AuthorizerConfiguration{Type: t, Name: strings.ToLower(string(t))})
	}
	file := s.config.Options.Authorization.File
	if file == "" {
		return h.ask(config)
	}
	content, err := os.ReadFile(file)
	if err == nil {
		config, err = h.decode(content)
	}
	if err == nil {
		err = h.ask(config)
	}
	if err != nil {
		return fmt.Errorf("cannot authorize by %s: %w", file, err)
	}
	h.types = sets.New[apiserver.AuthorizerType]()
	for _, a := range config.Authorizers {
		if a.Type != apiserver.TypeWebhook {
			h.types.Insert(a.Type)
		}
	}
	metrics.RegisterMetrics()
	metrics.RecordAuthorizationConfigLastConfigInfo(h.id, string(content))
	return s.followFile(c, "authorization-config", file, content, h.reload)
}

// decode reads a file's content.
func (h *chain) decode(content []byte) (*apiserver.AuthorizationConfiguration, error) {
	config, err := load.LoadFromData(content)
	if err != nil {
		return nil, fmt.Errorf("failed to load AuthorizationConfiguration from file: %w", err)
	}
	known := sets.New(string(apiserver.TypeWebhook))
	for t := range h.own {
		known.Insert(string(t))
	}
	problems := validation.ValidateAuthorizationConfiguration(authorizationcel.NewDefaultCompiler(), nil, config, known, sets.New(string(apiserver.TypeWebhook)))
	if err := problems.ToAggregate(); err != nil {
		return nil, err
	}
	var all []error
	missing := maps.Clone(h.types)
	for _, a := range config.Authorizers {
		if want := strings.ToLower(string(a.Type)); a.Type != apiserver.TypeWebhook && a.Name != want {
			all = append(all, fmt.Errorf("expected name %s for authorizer %s instead of %s", want, a.Type, a.Name))
		}
		missing.Delete(a.Type)
	}
	if missing.Len() > 0 {
		all = append(all, fmt.Errorf("missing required types: %v", slices.Sorted(maps.Keys(missing))))
	}
	return config, errors.Join(all...)
}

// ask makes the authorizers of a configuration those that are asked.
func (h *chain) ask(config *apiserver.AuthorizationConfiguration) error {
	all := []union.NamedAuthorizer{{AuthorizerName: "kubernetes.io/system-privileged-group", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)}}
	var rules []authorizer.RuleResolver
	for _, a := range config.Authorizers {
		one := h.own[a.Type]
		if a.Type == apiserver.TypeWebhook {
			var err error
			if one, err = newWebhookAuthorizer(a); err != nil {
				return err
			}
		}
		all, rules = append(all, union.NamedAuthorizer{AuthorizerName: a.Name, Authorizer: one}), append(rules, one)
	}
	first, err := union.New(all...)
	if err != nil {
		return err
	}
	h.current.Store(&asked{first, union.NewRuleResolvers(rules...)})
	return nil
}

// webhookMetrics are those that kube-apiserver has of a webhook.
type webhookMetrics struct {
	webhookmetrics.NoopRequestMetrics
	webhookmetrics.WebhookMetrics
	authorizationcel.MatcherMetrics
}

func newWebhookAuthorizer(a apiserver.AuthorizerConfiguration) (asked, error) {
	w := a.Webhook
	config, err := webhook.LoadKubeconfig(*w.ConnectionInfo.KubeConfigFile, nil)
	if err != nil {
		return asked{}, err
	}
	if w.Timeout.Duration != 0 {
		config.Timeout = w.Timeout.Duration
	}
	whenDown := authorizer.DecisionDeny
	if w.FailurePolicy == apiserver.FailurePolicyNoOpinion {
		whenDown = authorizer.DecisionNoOpinion
	}
	yes, no := w.AuthorizedTTL.Duration, w.UnauthorizedTTL.Duration
	if !w.CacheAuthorizedRequests {
		yes = 0
	}
	if !w.CacheUnauthorizedRequests {
		no = 0
	}
	made, err := authorizerwebhook.New(config, w.SubjectAccessReviewVersion, yes, no, *options.DefaultAuthWebhookRetryBackoff(), whenDown, w.MatchConditions, a.Name,
		webhookMetrics{WebhookMetrics: webhookmetrics.NewWebhookMetrics(), MatcherMetrics: authorizationcel.NewMatcherMetrics()}, authorizationcel.NewDefaultCompiler())
	return asked{made, made}, err
}

// reload takes a changed file.
func (h *chain) reload(_ context.Context, content []byte) error {
	config, err := h.decode(content)
	if err == nil {
		err = h.ask(config)
	}
	if err != nil {
		metrics.RecordAuthorizationConfigAutomaticReloadFailure(h.id)
		return err
	}
	metrics.RecordAuthorizationConfigAutomaticReloadSuccess(h.id, string(content))
	return nil
}

// Authorize and those below ask the authorizers of now.
func (h *chain) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	return h.current.Load().Authorize(ctx, a)
}

func (h *chain) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return h.current.Load().ConditionsAwareAuthorize(ctx, a)
}

func (h *chain) EvaluateConditions(ctx context.Context, d authorizer.ConditionsAwareDecision, data authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return h.current.Load().EvaluateConditions(ctx, d, data)
}

func (h *chain) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return h.current.Load().RulesFor(ctx, u, namespace)
}
