// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"

	"github.com/peapod/peapod/auth"
	"github.com/peapod/peapod/linux"
)

const userAgent = "peapod/join"

// Request is what a machine needs to join a cluster.
type Request struct {
	// Server is the URL of the API server.
	Server string
	// Token, ID.SECRET, is needed until there is a certificate.
	Token string
	// CAHashes are the CAs that the cluster may have (auth.Hashes); without any the
	// token alone vouches for it.
	CAHashes []string
	// NodeName is the name of this machine's Node.
	NodeName string
	// Dir is the folder of this machine's keys.
	Dir string
	Log *slog.Logger
}

// Identity is a machine's place in a cluster: whom it trusts and the
// certificates it has.
//
//	ca.crt              of the cluster
//	kubelet-client.pem  this machine to the API, as system:node:NAME
//	kubelet.pem         serves the node agent
type Identity struct {
	// CA is the cluster's, in PEM.
	CA []byte

	request         Request
	client, serving kept
	trust           *tls.Config
	dialer          *connrotation.Dialer
	api             kubernetes.Interface
}

// Join opens the identity that the folder holds, or gets one with the token.
func Join(ctx context.Context, r Request) (*Identity, error) {
	fail := func(err error) (*Identity, error) {
		return nil, fmt.Errorf("cannot join the cluster at %s: %w", r.Server, err)
	}
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return fail(err)
	}
	i := &Identity{
		request: r,
		client:  kept{path: filepath.Join(r.Dir, "kubelet-client.pem"), signer: certificatesv1.KubeAPIServerClientKubeletSignerName, usage: certificatesv1.UsageClientAuth},
		serving: kept{path: filepath.Join(r.Dir, "kubelet.pem"), signer: certificatesv1.KubeletServingSignerName, usage: certificatesv1.UsageServerAuth},
		dialer:  connrotation.NewDialer((&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext),
	}
	if err := errors.Join(i.client.load(), i.serving.load()); err != nil {
		return fail(err)
	}
	if err := i.bootstrap(ctx); err != nil {
		return fail(err)
	}
	var err error
	if i.trust, err = trusting(i.CA); err != nil {
		return fail(err)
	}
	if i.api, err = kubernetes.NewForConfig(i.Config()); err != nil {
		return fail(err)
	}
	return i, nil
}

// bootstrap makes sure of the CA and of a certificate that can be shown.
func (i *Identity) bootstrap(ctx context.Context) (err error) {
	file := filepath.Join(i.request.Dir, "ca.crt")
	i.CA, err = os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if pair := i.client.current.Load(); pair != nil && pair.Leaf.Subject.CommonName != i.template(auth.Names{}).Subject.CommonName {
		return fmt.Errorf("%s is of %s, not of node %s", i.client.path, pair.Leaf.Subject.CommonName, i.request.NodeName)
	}
	if err == nil && i.client.valid(time.Now()) {
		return nil
	}
	if i.request.Token == "" {
		return errors.New("this machine has no valid certificate of the cluster, and no token to ask for one: `peapod token create` makes one there")
	}
	if i.CA, err = discover(ctx, i.request); err != nil {
		return err
	}
	if err := linux.WriteFile(file, i.CA, 0o600); err != nil {
		return err
	}
	c, err := kubernetes.NewForConfig(&rest.Config{
		Host: i.request.Server, BearerToken: i.request.Token, UserAgent: userAgent, TLSClientConfig: rest.TLSClientConfig{CAData: i.CA},
	})
	if err != nil {
		return err
	}
	return i.client.request(ctx, c, i.template(auth.Names{}))
}

// template asks to be the node, for names of a server if there are any.
func (i *Identity) template(n auth.Names) *x509.CertificateRequest {
	return &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "system:node:" + i.request.NodeName, Organization: []string{user.NodesGroup}},
		DNSNames: n.DNS, IPAddresses: n.IPs,
	}
}

// Config is a client of the cluster's API as this node. All made of it show the
// newest certificate.
func (i *Identity) Config() *rest.Config {
	t := i.trust.Clone()
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.client.current.Load(), nil }
	return &rest.Config{
		Host: i.request.Server, UserAgent: userAgent, QPS: -1,
		Transport: utilnet.SetTransportDefaults(&http.Transport{
			TLSClientConfig: t, TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: 25, DialContext: i.dialer.DialContext,
		}),
	}
}

// ServingCertificate is shown by the node agent's server (tls.Config).
func (i *Identity) ServingCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	pair := i.serving.current.Load()
	if pair == nil {
		return nil, errors.New("no serving certificate available for the node agent")
	}
	return pair, nil
}

// Run asks for the serving certificate, by the names that the Node has, and
// renews both until ctx ends.
func (i *Identity) Run(ctx context.Context, serving auth.Names) error {
	if !i.serving.serves(serving) {
		i.serving.current.Store(nil)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		i.renew(ctx, &i.serving, i.template(serving), func() {})
	}()
	// A connection is known by the certificate it was opened with.
	i.renew(ctx, &i.client, i.template(auth.Names{}), i.dialer.CloseAll)
	<-done
	return nil
}

// renew replaces a certificate whenever its time has come. renewed is called
// each time.
func (i *Identity) renew(ctx context.Context, k *kept, template *x509.CertificateRequest, renewed func()) {
	first := wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.1, Steps: 9} // up to some four minutes
	again := first
	timer := time.NewTimer(time.Until(k.renewAt()))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		switch err := k.request(ctx, i.api, template); {
		case ctx.Err() != nil:
			return
		case err != nil:
			i.request.Log.Warn("a certificate of this machine could not be renewed", "op", "join", "file", k.path, "err", err)
			timer.Reset(again.Step())
		default:
			again = first
			renewed()
			timer.Reset(time.Until(k.renewAt()))
		}
	}
}
