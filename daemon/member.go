// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/peapod/peapod/auth"
	"github.com/peapod/peapod/dns"
	nodeagent "github.com/peapod/peapod/node"
)

// member is how a machine that has joined a cluster reaches that.
//
//	pki/ca.crt                    of the cluster
//	pki/kubelet-client.{crt,key}  this machine to the API, as system:node:NAME
//	pki/kubelet.{crt,key}         serves the node agent
type member struct {
	config *rest.Config
	api    kubernetes.Interface
	ca     []byte
	// server is the host and port of the API.
	server string
}

// sameCluster refuses a data folder that belongs to a machine of another role:
// its keys and what its Pods have are of one cluster.
func (s settings) sameCluster(m marker) error {
	switch {
	case m.Join != "" && s.Join == "":
		return fmt.Errorf("data folder %s is of a machine of the cluster at %s; start it with --join, or remove it with `peapod down --purge`", s.root, m.Join)
	case m.Join == "" && s.Join != "":
		for _, own := range []string{"etcd", KubeconfigName} {
			if _, err := os.Lstat(s.path(own)); err == nil {
				return fmt.Errorf("data folder %s holds a cluster of its own; choose an empty one with --data-dir, or remove it with `peapod down --purge`", s.root)
			}
		}
	}
	return nil
}

// startMember brings up the parts of a machine whose control plane is elsewhere.
func (d *node) startMember(ctx context.Context) error {
	d.Progress("joining the cluster at " + d.Join)
	if err := d.joinCluster(ctx); err != nil {
		return err
	}
	d.Progress("starting the container runtime")
	if err := d.openNetwork(ctx, d.member.ca, dns.Address(d.services)); err != nil {
		return err
	}
	if err := d.startRuntime(ctx); err != nil {
		return err
	}
	d.Progress("starting the node agent")
	return d.startMemberLoops(ctx)
}

// joinCluster finds out what the cluster is like, and this machine's place in it.
func (d *node) joinCluster(ctx context.Context) (err error) {
	if d.member, err = d.openMember(); err != nil {
		return err
	}
	// Of a machine that was here before, the Pods go on meanwhile.
	if m, err := d.readMarker(); err == nil && m.Join != "" {
		if err := d.member.reach(ctx); err != nil {
			return err
		}
	}
	fail := func(err error) error { return fmt.Errorf("cannot join the cluster at %s: %w", d.Join, err) }
	config, err := d.member.api.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, auth.ClusterConfigName, metav1.GetOptions{})
	if err != nil {
		return fail(err)
	}
	cluster, err := auth.ClusterOf(config)
	if err != nil {
		return fail(err)
	}
	d.cluster, d.services = cluster.Pods, cluster.Services
	given, err := nodeagent.AwaitRange(ctx, d.member.api, d.NodeName)
	if err != nil {
		return fail(err)
	}
	if d.pods, err = netip.ParsePrefix(given); err != nil {
		return fail(fmt.Errorf("range of Pod addresses: %w", err))
	}
	return d.chooseAddress(d.member.server, d.pods.Addr().Next())
}

// apiAddress is the host and port of an API server's URL.
func apiAddress(server string) string {
	u, err := url.Parse(server)
	if err != nil {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// openMember reads this machine's keys.
func (d *node) openMember() (*member, error) {
	ca, err := os.ReadFile(d.path("pki", "ca.crt"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot join the cluster at %s: %w", d.Join, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open keys: %w", err)
	}
	c := &rest.Config{
		Host: d.Join, QPS: -1, UserAgent: "peapod/" + Version,
		TLSClientConfig: rest.TLSClientConfig{CAData: ca, CertFile: d.path("pki", "kubelet-client.crt"), KeyFile: d.path("pki", "kubelet-client.key")},
	}
	// A machine that was cut off is to be back soon after the way is there.
	c.Dial = (&net.Dialer{Timeout: dialPatience, KeepAlive: 30 * time.Second}).DialContext
	api, err := kubernetes.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("cannot make a client of %s: %w", d.Join, err)
	}
	return &member{config: c, api: api, ca: ca, server: apiAddress(d.Join)}, nil
}

const (
	// dialPatience is how long a connection may take to stand.
	dialPatience = 5 * time.Second
	// knockPatience and knockPause bound how long the API is back unnoticed.
	knockPatience = time.Second
	knockPause    = 500 * time.Millisecond
)

// reach knocks until the API can be reached. Nothing tells when a network far
// away is whole again.
func (m *member) reach(ctx context.Context) error {
	for d := (net.Dialer{Timeout: knockPatience}); ; {
		c, err := d.DialContext(ctx, "tcp", m.server)
		if err == nil {
			return c.Close()
		}
		select {
		case <-time.After(knockPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// startMemberLoops starts what works through the API, and waits for the node.
func (d *node) startMemberLoops(ctx context.Context) error {
	shared, err := memberCache(d.member.config)
	if err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster()
	d.onStop(broadcaster.Shutdown)
	broadcaster.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: d.member.api.CoreV1().Events("")})
	events := broadcaster.NewRecorder(clientscheme.Scheme, corev1.EventSource{Component: "kube-proxy", Host: d.NodeName})
	if err := d.startServices(ctx, shared, events); err != nil {
		return err
	}
	d.part(ctx, "the cache of the cluster's Services", shared.Start)
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(d.member.ca)
	return d.startAgent(ctx, nodeagent.Config{Client: d.member.api, Reach: d.member.reach, Serve: endpoint(d.path("pki", "kubelet.crt"), d.path("pki", "kubelet.key"), clients)})
}

// memberCache is the shared cache of a machine without controllers. Its kinds
// are known, so that nobody has to be asked for them.
func memberCache(c *rest.Config) (ctrlcache.Cache, error) {
	kinds := meta.NewDefaultRESTMapper(nil)
	kinds.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	kinds.Add(corev1.SchemeGroupVersion.WithKind("Namespace"), meta.RESTScopeRoot)
	kinds.Add(corev1.SchemeGroupVersion.WithKind("Service"), meta.RESTScopeNamespace)
	kinds.Add(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), meta.RESTScopeNamespace)
	shared, err := ctrlcache.New(c, ctrlcache.Options{Scheme: clientscheme.Scheme, Mapper: kinds, DefaultTransform: ctrlcache.TransformStripManagedFields()})
	if err != nil {
		return nil, fmt.Errorf("cannot make the cache of the cluster's Services: %w", err)
	}
	return shared, nil
}

// advertised is where other machines reach the API; none do on a loopback
// address.
func (d *node) advertised() netip.AddrPort {
	switch a := d.listen.Addr(); {
	case a.IsLoopback():
		return netip.AddrPort{}
	case a.IsUnspecified():
		return netip.AddrPortFrom(d.ip, d.listen.Port())
	}
	return d.listen
}
