// SPDX-License-Identifier: Apache-2.0

// Package auth owns who a caller is and what it may do: the cluster's keys and
// certificates, kubeconfigs, service account tokens, authenticators, RBAC and
// the node authorizer. It does not own admission, and it never stores objects:
// it asks through small getter interfaces.
package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/keyutil"

	"github.com/peapod/peapod/linux"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	certLifetime = 365 * 24 * time.Hour
	// renewBefore is how much of a certificate's life must be left.
	renewBefore = certLifetime / 3
	// backdate is how far clocks of machines may differ.
	backdate = 5 * time.Minute
)

// Names are what the serving certificates are made for.
type Names struct {
	Node string   // the Node's name
	IPs  []net.IP // every address a client may use for the API server or the node
	DNS  []string // further host names
}

// PKI is the folder of keys and certificates of a cluster. Files are 0600; all
// keys are ECDSA P-256, which are made in well under a millisecond.
//
//	ca.{crt,key}              signs everything below
//	apiserver.{crt,key}       serves the API
//	kubelet.{crt,key}         serves the node agent
//	apiserver-kubelet.{crt,key}  the API server to a node agent
//	admin.{crt,key}           system:masters
//	service-account.key       signs service account tokens
//	front-proxy-ca.{crt,key}, front-proxy-client.{crt,key}  see FrontProxy
type PKI struct {
	dir      string
	now      func() time.Time
	requests []request

	CA  *x509.Certificate
	key crypto.Signer
	// CAPEM is the CA certificate, as kubeconfigs and Pods need it.
	CAPEM []byte
	// ServiceAccountKey signs service account tokens.
	ServiceAccountKey *ecdsa.PrivateKey
}

// EnsurePKI opens the keys in dir and makes what is missing, what has expired
// or soon will, and serving certificates whose names no longer fit.
func EnsurePKI(dir string, names Names, now func() time.Time) (*PKI, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot open keys: %w", err)
	}
	p := &PKI{dir: dir, now: now}
	if err := p.ensureCA("ca", "peapod-ca"); err != nil {
		return nil, err
	}
	var err error
	if p.ServiceAccountKey, err = p.ensureKey("service-account"); err != nil {
		return nil, err
	}
	p.requests = []request{
		{file: "apiserver", subject: pkix.Name{CommonName: "kube-apiserver"}, server: true, names: names},
		{file: "kubelet", subject: pkix.Name{CommonName: "system:node:" + names.Node, Organization: []string{"system:nodes"}}, server: true, client: true, names: names},
		{file: "apiserver-kubelet", subject: pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"kubeadm:cluster-admins"}}, client: true},
		{file: "admin", subject: pkix.Name{CommonName: "kubernetes-admin", Organization: []string{"system:masters"}}, client: true},
	}
	return p, p.ensureAll()
}

// ensureAll makes the certificates that are missing, or will not do for long.
func (p *PKI) ensureAll() error {
	for _, r := range p.requests {
		if err := p.ensure(r); err != nil {
			return fmt.Errorf("cannot make certificate %s: %w", r.file, err)
		}
	}
	return nil
}

// Pair is the certificate and key files of one of the names in PKI.
func (p *PKI) Pair(name string) (cert, key string) {
	return p.path(name + ".crt"), p.path(name + ".key")
}

// Certificate is one of them as it is now: it may have been renewed.
func (p *PKI) Certificate(name string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(p.Pair(name))
	if err != nil {
		return nil, fmt.Errorf("cannot load the certificate %s: %w", name, err)
	}
	return &pair, nil
}

// readPair is the same in PEM.
func (p *PKI) readPair(name string) (cert, key []byte, err error) {
	certFile, keyFile := p.Pair(name)
	if cert, err = os.ReadFile(certFile); err != nil {
		return nil, nil, err
	}
	key, err = os.ReadFile(keyFile)
	return cert, key, err
}

func (p *PKI) path(name string) string { return filepath.Join(p.dir, name) }

// Pool verifies certificates of this cluster.
func (p *PKI) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.CA)
	return pool
}

func (p *PKI) ensureCA(file, subject string) error {
	key, err := p.ensureKey(file)
	if err != nil {
		return err
	}
	p.key = key
	cert, raw, err := readCertificate(p.path(file + ".crt"))
	if errors.Is(err, fs.ErrNotExist) {
		t := &x509.Certificate{
			Subject: pkix.Name{CommonName: subject}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
			NotAfter: p.now().Add(caLifetime),
		}
		if err := p.sign(t, &key.PublicKey, t, file+".crt"); err != nil {
			return fmt.Errorf("cannot make the authority %s: %w", file, err)
		}
		cert, raw, err = readCertificate(p.path(file + ".crt"))
	}
	if err != nil {
		return fmt.Errorf("cannot open the authority %s: %w", file, err)
	}
	if now := p.now(); now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return fmt.Errorf("cannot use the authority %s: it is good from %s to %s, and this machine's clock shows %s; set the clock", p.path(file+".crt"),
			cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	p.CA, p.CAPEM = cert, raw
	return nil
}

// ensureKey reads NAME.key or makes it.
func (p *PKI) ensureKey(name string) (*ecdsa.PrivateKey, error) {
	path := p.path(name + ".key")
	b, err := os.ReadFile(path)
	if err == nil {
		block, _ := pem.Decode(b)
		if block == nil {
			return nil, fmt.Errorf("cannot read key %s: not PEM", path)
		}
		key, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("cannot read key %s: %w", path, err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read key: %w", err)
	}
	key, out, err := NewKey()
	if err != nil {
		return nil, fmt.Errorf("cannot make key %s: %w", name, err)
	}
	if err := linux.WriteFile(path, out, 0o600); err != nil {
		return nil, fmt.Errorf("cannot write key: %w", err)
	}
	return key, nil
}

// NewKey makes a key, and what is written of it, in PEM.
func NewKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	out, err := keyutil.MarshalPrivateKeyToPEM(key)
	return key, out, err
}

// request is a certificate that must be there.
type request struct {
	file           string
	subject        pkix.Name
	server, client bool
	names          Names
}

// hosts are the DNS names of a serving certificate.
func (r request) hosts() []string {
	if !r.server {
		return nil
	}
	hosts := []string{"localhost", r.names.Node, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	return append(hosts, r.names.DNS...)
}

func (r request) ips() []net.IP {
	if !r.server {
		return nil
	}
	return append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, r.names.IPs...)
}

func (p *PKI) ensure(r request) error {
	key, err := p.ensureKey(r.file)
	if err != nil {
		return err
	}
	cert, _, err := readCertificate(p.path(r.file + ".crt"))
	if err == nil && p.fits(cert, r, key) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	t := &x509.Certificate{
		Subject: r.subject, NotAfter: p.now().Add(certLifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		DNSNames: r.hosts(), IPAddresses: r.ips(),
	}
	if r.server {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if r.client {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	return p.sign(t, &key.PublicKey, p.CA, r.file+".crt")
}

// fits says whether a certificate on disk still does what is asked.
func (p *PKI) fits(c *x509.Certificate, r request, key *ecdsa.PrivateKey) bool {
	if !p.now().Add(renewBefore).Before(c.NotAfter) || p.now().Before(c.NotBefore) || c.CheckSignatureFrom(p.CA) != nil || !key.PublicKey.Equal(c.PublicKey) || c.Subject.CommonName != r.subject.CommonName {
		return false
	}
	for _, h := range r.hosts() {
		if !slices.Contains(c.DNSNames, h) {
			return false
		}
	}
	for _, ip := range r.ips() {
		if !slices.ContainsFunc(c.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

func (p *PKI) sign(t *x509.Certificate, public crypto.PublicKey, parent *x509.Certificate, file string) error {
	// Some slack for clocks that differ between machines.
	t.NotBefore = p.now().Add(-backdate)
	cert, err := p.certify(t, public, parent)
	if err != nil {
		return err
	}
	return linux.WriteFile(p.path(file), cert, 0o600)
}

// certify makes the certificate itself, in PEM, under a serial number of its own.
func (p *PKI) certify(t *x509.Certificate, public crypto.PublicKey, parent *x509.Certificate) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, t, parent, public, p.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func readCertificate(path string) (*x509.Certificate, []byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, nil, fmt.Errorf("%s is not PEM", path)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, b, nil
}

// WriteKubeconfig writes a kubeconfig for the client certificate NAME at path,
// 0600, with the keys inside so that the file can be copied.
func (p *PKI) WriteKubeconfig(path, name, server string) error {
	cert, key, err := p.readPair(name)
	if err != nil {
		return fmt.Errorf("cannot write kubeconfig: %w", err)
	}
	c := clientcmdapi.NewConfig()
	c.Clusters["peapod"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: p.CAPEM}
	c.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	c.Contexts["peapod"] = &clientcmdapi.Context{Cluster: "peapod", AuthInfo: name}
	c.CurrentContext = "peapod"
	out, err := clientcmd.Write(*c)
	if err != nil {
		return fmt.Errorf("cannot write kubeconfig: %w", err)
	}
	if old, err := os.ReadFile(path); err == nil && slices.Equal(old, out) {
		return nil
	}
	if err := linux.WriteFile(path, out, 0o600); err != nil {
		return fmt.Errorf("cannot write kubeconfig: %w", err)
	}
	return nil
}
