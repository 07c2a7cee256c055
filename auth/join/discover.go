// SPDX-License-Identifier: Apache-2.0

// Package join owns how a machine becomes a node of a cluster whose control
// plane is elsewhere, and stays one: it finds out whom to trust by what a token
// signs, asks for its certificates with CertificateSigningRequests, keeps them
// in the folder of its keys, and renews them before they end. It is what kubeadm
// join and a kubelet with --bootstrap-kubeconfig do.
package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraptokens "k8s.io/cluster-bootstrap/util/tokens"

	"github.com/peapod/peapod/auth"
)

// discover finds the CA of a cluster. The server that is asked is not trusted
// before the token's signature is on what it says, and before its CA is one of
// those that are pinned, if any are: without pins whoever knows the token can
// pretend to be the cluster.
func discover(ctx context.Context, r Request) (ca []byte, err error) {
	said, err := clusterInfo(ctx, r, rest.TLSClientConfig{Insecure: true})
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.Load([]byte(said))
	if err != nil {
		return nil, fmt.Errorf("cannot read what the cluster says of itself: %w", err)
	}
	for _, c := range config.Clusters {
		ca = c.CertificateAuthorityData
	}
	if err := pinned(ca, r.CAHashes); err != nil {
		return nil, err
	}
	// Now in the way in which everything else is asked.
	again, err := clusterInfo(ctx, r, rest.TLSClientConfig{CAData: ca})
	if err != nil {
		return nil, err
	}
	if again != said {
		return nil, errors.New("the cluster says something else of itself to those who trust it")
	}
	return ca, nil
}

// clusterInfo reads kube-public/cluster-info, signed by the token.
func clusterInfo(ctx context.Context, r Request, t rest.TLSClientConfig) (kubeconfig string, err error) {
	id, _, err := bootstraptokens.ParseToken(r.Token)
	if err != nil {
		return "", errors.New("this is no token: want ID.SECRET, as `peapod token create` prints it")
	}
	c, err := kubernetes.NewForConfig(&rest.Config{Host: r.Server, TLSClientConfig: t, UserAgent: userAgent})
	if err != nil {
		return "", err
	}
	info, err := c.CoreV1().ConfigMaps(metav1.NamespacePublic).Get(ctx, bootstrapapi.ConfigMapClusterInfo, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("cannot read what the cluster says of itself: %w", err)
	}
	kubeconfig = info.Data[bootstrapapi.KubeConfigKey]
	signature, signed := info.Data[bootstrapapi.JWSSignatureKeyPrefix+id]
	switch {
	case !signed:
		return "", fmt.Errorf("the cluster does not know the token %s, or no longer; `peapod token create` makes one", id)
	case !auth.SignedDetached(signature, kubeconfig, r.Token):
		return "", fmt.Errorf("the cluster does not know the secret of the token %s", id)
	}
	return kubeconfig, nil
}

// pinned says whether CAs are among those that are known by their hashes: each
// of them, since each will be trusted.
func pinned(cas []byte, known []string) error {
	hashes, err := auth.Hashes(cas)
	if err != nil {
		return err
	}
	for _, h := range hashes {
		if len(known) > 0 && !slices.Contains(known, h) {
			return fmt.Errorf("the cluster's CA is %s, and not one that was named", h)
		}
	}
	return nil
}

// trusting verifies servers by a CA in PEM.
func trusting(ca []byte) (*tls.Config, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bytes.TrimSpace(ca)) {
		return nil, errors.New("cannot read the cluster's CA: it is not PEM")
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, nil
}
