// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	tokencache "k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
	tokenwebhook "k8s.io/apiserver/plugin/pkg/authenticator/token/webhook"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/peapod/peapod/auth"
)

// AuthenticationOptions say by what else callers are known than by this
// cluster's own certificates and tokens.
type AuthenticationOptions struct {
	// File has an AuthenticationConfiguration.
	File    string
	OIDC    OIDCOptions
	Webhook TokenWebhookOptions
}

// OIDCOptions are an OpenID Connect provider in the short form.
type OIDCOptions struct {
	IssuerURL, ClientID, CAFile   string
	UsernameClaim, UsernamePrefix string
	GroupsClaim, GroupsPrefix     string
	SigningAlgs                   []string
	RequiredClaims                map[string]string
}

// TokenWebhookOptions are a service that is asked whose a token is.
type TokenWebhookOptions struct {
	ConfigFile, Version string
	CacheTTL            time.Duration
}

// AddFlags adds the flags by their names in kube-apiserver.
func (o *AuthenticationOptions) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.File, "authentication-config", "", "file with an AuthenticationConfiguration: issuers of JSON Web Tokens, and what anonymous callers may reach; it is read again when it changes, and excludes the --oidc-* flags")
	p := &o.OIDC
	fs.StringVar(&p.IssuerURL, "oidc-issuer-url", "", "URL of an OpenID Connect provider, https only, whose tokens are accepted")
	fs.StringVar(&p.ClientID, "oidc-client-id", "", "the audience its tokens must have; goes with --oidc-issuer-url")
	fs.StringVar(&p.CAFile, "oidc-ca-file", "", "CA of the provider's certificate (default: those of this machine)")
	fs.StringVar(&p.UsernameClaim, "oidc-username-claim", "sub", "claim with the user's name")
	fs.StringVar(&p.UsernamePrefix, "oidc-username-prefix", "", `what is put before it; "-" is nothing (default: the issuer's URL and "#", and nothing before the claim "email")`)
	fs.StringVar(&p.GroupsClaim, "oidc-groups-claim", "", "claim with the user's groups, a string or an array of them")
	fs.StringVar(&p.GroupsPrefix, "oidc-groups-prefix", "", "what is put before each group")
	fs.StringSliceVar(&p.SigningAlgs, "oidc-signing-algs", []string{"RS256"}, "JOSE algorithms that are accepted: RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384, PS512")
	fs.Var(cliflag.NewMapStringStringNoSplit(&p.RequiredClaims), "oidc-required-claim", "key=value that a token must claim; may be repeated")
	w := &o.Webhook
	fs.StringVar(&w.ConfigFile, "authentication-token-webhook-config-file", "", "kubeconfig of a service that is asked whose a token is")
	fs.StringVar(&w.Version, "authentication-token-webhook-version", "v1beta1", "version of authentication.k8s.io's TokenReview that it speaks")
	fs.DurationVar(&w.CacheTTL, "authentication-token-webhook-cache-ttl", 2*time.Minute, "how long its answers are good for")
}

// Validate says what does not go together.
func (o *AuthenticationOptions) Validate() error {
	p := o.OIDC
	used := p.IssuerURL != "" || p.ClientID != "" || p.CAFile != "" || p.UsernamePrefix != "" || p.GroupsClaim != "" || p.GroupsPrefix != "" || len(p.RequiredClaims) > 0
	switch {
	case used && o.File != "":
		return errors.New("authentication-config file and oidc-* flags are mutually exclusive")
	case used && (p.IssuerURL == "" || p.ClientID == ""):
		return errors.New("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set")
	}
	return nil
}

// configured is the AuthenticationConfiguration that the options amount to,
// the algorithms its tokens may be signed by, and the file it comes from.
func (o *AuthenticationOptions) configured() (*apiserver.AuthenticationConfiguration, []string, []byte, error) {
	if o.File == "" {
		c, err := o.OIDC.configured()
		return c, o.OIDC.SigningAlgs, nil, err
	}
	b, err := os.ReadFile(o.File)
	if err != nil {
		return nil, nil, nil, err
	}
	c, err := decodeAuthentication(b)
	return c, oidc.AllValidSigningAlgorithms(), b, err
}

// configured says the same in the long form.
func (o OIDCOptions) configured() (*apiserver.AuthenticationConfiguration, error) {
	if o.IssuerURL == "" {
		return &apiserver.AuthenticationConfiguration{}, nil
	}
	prefix := o.UsernamePrefix
	switch {
	case prefix == "-":
		prefix = ""
	case prefix == "" && o.UsernameClaim != "email":
		prefix = o.IssuerURL + "#"
	}
	jwt := apiserver.JWTAuthenticator{
		Issuer:        apiserver.Issuer{URL: o.IssuerURL, Audiences: []string{o.ClientID}},
		ClaimMappings: apiserver.ClaimMappings{Username: apiserver.PrefixedClaimOrExpression{Claim: o.UsernameClaim, Prefix: &prefix}},
	}
	if o.GroupsClaim != "" {
		jwt.ClaimMappings.Groups = apiserver.PrefixedClaimOrExpression{Claim: o.GroupsClaim, Prefix: &o.GroupsPrefix}
	}
	if o.CAFile != "" {
		ca, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, err
		}
		jwt.Issuer.CertificateAuthority = string(ca)
	}
	for claim, value := range o.RequiredClaims {
		jwt.ClaimValidationRules = append(jwt.ClaimValidationRules, apiserver.ClaimValidationRule{Claim: claim, RequiredValue: value})
	}
	return validAuthentication(&apiserver.AuthenticationConfiguration{JWT: []apiserver.JWTAuthenticator{jwt}})
}

// decodeAuthentication reads a file's content.
func decodeAuthentication(b []byte) (*apiserver.AuthenticationConfiguration, error) {
	if len(b) == 0 {
		return nil, errors.New("empty config data")
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	o, err := runtime.Decode(serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(), b)
	if err != nil {
		return nil, err
	}
	c, ok := o.(*apiserver.AuthenticationConfiguration)
	if !ok {
		return nil, fmt.Errorf("expected AuthenticationConfiguration, got %T", o)
	}
	return validAuthentication(c)
}

func validAuthentication(c *apiserver.AuthenticationConfiguration) (*apiserver.AuthenticationConfiguration, error) {
	// Tokens of our own issuer are known by our own key.
	problems := validation.ValidateAuthenticationConfiguration(authenticationcel.NewDefaultCompiler(), c, []string{auth.Issuer})
	return c, problems.ToAggregate()
}

// authenticator is the service that is asked, or nil.
func (o TokenWebhookOptions) authenticator(implicit authenticator.Audiences) (authenticator.Token, error) {
	if o.ConfigFile == "" {
		return nil, nil
	}
	config, err := webhook.LoadKubeconfig(o.ConfigFile, nil)
	if err != nil {
		return nil, err
	}
	asked, err := tokenwebhook.New(config, o.Version, implicit, *options.DefaultAuthWebhookRetryBackoff())
	if err != nil {
		return nil, err
	}
	return tokencache.New(asked, false, o.CacheTTL, o.CacheTTL), nil
}
