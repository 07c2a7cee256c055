// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	"github.com/sirupsen/logrus"
)

// Auth are the credentials for one registry.
type Auth struct {
	Username, Password string
	// IdentityToken is an OAuth2 refresh token, used instead of a password.
	IdentityToken string
	// RegistryToken is a bearer token, sent as it is.
	RegistryToken string
	// ServerAddress is the registry they are for, HOST[:PORT] or a URL; empty
	// means that of the image's name. No other host, mirrors included, is
	// shown them.
	ServerAddress string
}

// registryOf is the host that answers for a reference's domain.
func registryOf(domain string) string {
	switch domain {
	case "docker.io", "index.docker.io":
		return "registry-1.docker.io"
	}
	return domain
}

// host the credentials are meant for.
func (a *Auth) host(ref reference.Named) string {
	address := a.ServerAddress
	if address == "" {
		return registryOf(reference.Domain(ref))
	}
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		address = u.Host
	}
	address, _, _ = strings.Cut(address, "/")
	return registryOf(address)
}

// resolver finds registries: by hosts.toml where there is one; over plain HTTP
// on loopback where there is no TLS.
func (s *Store) resolver(ctx context.Context, ref reference.Named, auth *Auth) remotes.Resolver {
	o := config.HostOptions{}
	if s.options.HostsDir != "" {
		o.HostDir = config.HostDirFromRoot(s.options.HostsDir)
	}
	if auth != nil {
		o.Credentials = func(host string) (string, string, error) {
			switch {
			case host != auth.host(ref):
				return "", "", nil
			case auth.IdentityToken != "":
				return "", auth.IdentityToken, nil
			}
			return auth.Username, auth.Password, nil
		}
	}
	hosts := config.ConfigureHosts(ctx, o)
	return docker.NewResolver(docker.ResolverOptions{
		Headers: http.Header{"User-Agent": {"peapod"}},
		Hosts: func(domain string) ([]docker.RegistryHost, error) {
			list, err := hosts(domain)
			if err != nil {
				return nil, fmt.Errorf("cannot read the registry settings of %s: %w", domain, err)
			}
			for i := range list {
				if auth != nil && auth.RegistryToken != "" && list[i].Host == auth.host(ref) {
					list[i].Authorizer = bearer(auth.RegistryToken)
				}
			}
			return list, nil
		},
	})
}

// bearer is an Authorizer that has its token already.
type bearer string

func (b bearer) Authorize(_ context.Context, r *http.Request) error {
	r.Header.Set("Authorization", "Bearer "+string(b))
	return nil
}

func (bearer) AddResponses(context.Context, []*http.Response) error {
	return fmt.Errorf("server message: registry token refused: %w", docker.ErrInvalidAuthorization)
}

// quiet keeps the libraries' own log lines off our output but for errors: what
// else they have to say comes back as one.
func (s *Store) quiet(ctx context.Context) context.Context {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.AddHook(toSlog{s.options.Log})
	return log.WithLogger(ctx, logrus.NewEntry(l))
}

// toSlog passes a library's errors on.
type toSlog struct{ log *slog.Logger }

func (toSlog) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel} }

func (h toSlog) Fire(e *logrus.Entry) error {
	h.log.Error(e.Message, "op", "pull", "err", e.Data[logrus.ErrorKey])
	return nil
}

// remoteClass gives what a registry answered the class of errdefs that it
// means.
func remoteClass(err error) error {
	if errors.Is(err, docker.ErrInvalidAuthorization) {
		return classify(err, errdefs.ErrUnauthenticated)
	}
	status, ok := errors.AsType[remoteerrors.ErrUnexpectedStatus](err)
	if !ok {
		return err
	}
	switch code := status.StatusCode; {
	case code == http.StatusUnauthorized:
		return classify(err, errdefs.ErrUnauthenticated)
	case code == http.StatusForbidden:
		return classify(err, errdefs.ErrPermissionDenied)
	case code == http.StatusNotFound:
		return classify(err, errdefs.ErrNotFound)
	case code == http.StatusTooManyRequests:
		return classify(err, errdefs.ErrResourceExhausted)
	case code >= http.StatusInternalServerError:
		return classify(err, errdefs.ErrUnavailable)
	}
	return err
}
