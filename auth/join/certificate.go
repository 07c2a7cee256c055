// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate/csr"

	"github.com/peapod/peapod/auth"
	"github.com/peapod/peapod/linux"
)

// answerWithin is how long a request waits to be answered before another is
// made, as a kubelet's does.
const answerWithin = 15 * time.Minute

// kept is one certificate of this machine: a file in PEM with the certificate
// and its key, so that one never is there without the other.
type kept struct {
	path    string
	signer  string
	usage   certificatesv1.KeyUsage
	current atomic.Pointer[tls.Certificate]
}

// load reads what is kept, if anything is.
func (k *kept) load() error {
	pair, err := tls.LoadX509KeyPair(k.path, k.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("cannot open the certificate %s: %w", k.path, err)
	}
	k.current.Store(&pair)
	return nil
}

// renewAt is when it is to be replaced: when seven to nine tenths of its life
// are over, so that machines that joined together do not all ask together.
func (k *kept) renewAt() time.Time {
	pair := k.current.Load()
	if pair == nil {
		return time.Time{}
	}
	life := pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore)
	return pair.Leaf.NotBefore.Add(time.Duration((0.7 + 0.2*mathrand.Float64()) * float64(life)))
}

// valid says whether it can be shown at that time.
func (k *kept) valid(now time.Time) bool {
	pair := k.current.Load()
	return pair != nil && now.Before(pair.Leaf.NotAfter)
}

// serves says whether it is for all these names.
func (k *kept) serves(n auth.Names) bool {
	pair := k.current.Load()
	if pair == nil {
		return false
	}
	for _, ip := range n.IPs {
		if pair.Leaf.VerifyHostname(ip.String()) != nil {
			return false
		}
	}
	return !slices.ContainsFunc(n.DNS, func(name string) bool { return pair.Leaf.VerifyHostname(name) != nil })
}

// request asks for a certificate with a new key, waits for it and keeps both.
func (k *kept) request(ctx context.Context, c kubernetes.Interface, template *x509.CertificateRequest) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	key, secret, err := auth.NewKey()
	if err != nil {
		return fmt.Errorf("cannot make a key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return fmt.Errorf("cannot make a request for a certificate: %w", err)
	}
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, k.usage}
	name, uid, err := csr.RequestCertificateWithContext(ctx, c, request, "", k.signer, nil, usages, key)
	if err != nil {
		return err
	}
	cert, err := csr.WaitForCertificate(ctx, c, name, uid)
	if err != nil {
		return fmt.Errorf("cannot get a certificate by the request %s: %w", name, err)
	}
	return k.keep(append(cert, secret...))
}

// keep writes a new pair and shows it from now on.
func (k *kept) keep(both []byte) error {
	pair, err := tls.X509KeyPair(both, both)
	if err != nil {
		return fmt.Errorf("cannot use the certificate that was signed: %w", err)
	}
	if err := linux.WriteFile(k.path, both, 0o600); err != nil {
		return fmt.Errorf("cannot keep a certificate: %w", err)
	}
	k.current.Store(&pair)
	return nil
}
