// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/options/authenticationconfig/metrics"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"

	"github.com/peapod/peapod/auth"
)

// issuers are who else signs tokens for callers, as a file or flags say now.
type issuers struct {
	server  *Server
	ctx     context.Context // of the server: what it has begun ends with it
	id      string
	algs    []string
	initial *apiserver.AuthenticationConfiguration
	current atomic.Pointer[issued]
}

// issued knows the tokens of one configuration.
type issued struct {
	tokens authenticator.Token
	checks []func() error
	cancel context.CancelFunc
}

// newIssuers is nil when nobody else signs tokens.
func (s *Server) newIssuers(c *genericapiserver.Config) (*issuers, error) {
	o := s.config.Options.Authentication
	config, algs, content, err := o.configured()
	if err != nil {
		return nil, fmt.Errorf("cannot authenticate as asked for: %w", err)
	}
	if o.File == "" && len(config.JWT) == 0 {
		return nil, nil
	}
	i := &issuers{server: s, ctx: wait.ContextForChannel(c.DrainedNotify()), id: c.APIServerID, algs: algs, initial: config}
	first, err := i.know(config)
	if err != nil {
		return nil, fmt.Errorf("cannot authenticate as asked for: %w", err)
	}
	i.current.Store(first)
	if o.File == "" {
		return i, nil
	}
	metrics.RegisterMetrics()
	metrics.RecordAuthenticationConfigLastConfigInfo(i.id, string(content))
	return i, s.followFile(c, "authentication-config", o.File, content, i.reload)
}

// AuthenticateToken asks those of now.
func (i *issuers) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	return i.current.Load().tokens.AuthenticateToken(ctx, token)
}

// know makes what knows the tokens of a configuration. Its keys are fetched
// beside it.
func (i *issuers) know(config *apiserver.AuthenticationConfiguration) (_ *issued, err error) {
	ctx, cancel := context.WithCancel(i.ctx)
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	made := &issued{cancel: cancel}
	var all []authenticator.Token
	for _, jwt := range config.JWT {
		var ca oidc.CAContentProvider
		if jwt.Issuer.CertificateAuthority != "" {
			if ca, err = dynamiccertificates.NewStaticCAContent("oidc-authenticator", []byte(jwt.Issuer.CertificateAuthority)); err != nil {
				return nil, err
			}
		}
		one, err := oidc.New(ctx, oidc.Options{
			JWTAuthenticator: jwt, CAContentProvider: ca, SupportedSigningAlgs: i.algs, DisallowedIssuers: []string{auth.Issuer}, APIServerID: i.id,
		})
		if err != nil {
			return nil, err
		}
		all, made.checks = append(all, one), append(made.checks, one.HealthCheck)
	}
	made.tokens = authenticator.WrapAudienceAgnosticToken(authenticator.Audiences{auth.Issuer}, tokenunion.NewFailOnError(all...))
	return made, nil
}

// As upstream: how long the keys of a changed configuration may take, and how
// long requests may still be with the one before.
const (
	keysPatience = time.Minute
	lastRequests = time.Minute
)

// reload takes a changed file when its issuers have answered; until then, and
// when it is wrong, the one before stays.
func (i *issuers) reload(ctx context.Context, content []byte) (err error) {
	defer func() {
		if err != nil {
			metrics.RecordAuthenticationConfigAutomaticReloadFailure(i.id)
		}
	}()
	config, err := decodeAuthentication(content)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(i.initial.Anonymous, config.Anonymous) {
		return errors.New("anonymous: Forbidden: changed from initial configuration file")
	}
	next, err := i.know(config)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, keysPatience)
	defer cancel()
	var last error
	// polls: the library fetches keys on a goroutine of its own, and tells nobody when it has them
	err = wait.PollUntilContextCancel(bounded, 100*time.Millisecond, true, func(context.Context) (bool, error) {
		var all []error
		for _, check := range next.checks {
			all = append(all, check())
		}
		last = errors.Join(all...)
		return last == nil, nil
	})
	if err != nil {
		next.cancel()
		return errors.Join(last, err)
	}
	before := i.current.Swap(next)
	time.AfterFunc(lastRequests, before.cancel)
	metrics.RecordAuthenticationConfigAutomaticReloadSuccess(i.id, string(content))
	return nil
}
