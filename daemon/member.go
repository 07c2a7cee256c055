// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"crypto/x509"
	"fmt"
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
	"github.com/peapod/peapod/auth/join"
	"github.com/peapod/peapod/dns"
	nodeagent "github.com/peapod/peapod/node"
)

// member is how a machine that has joined a cluster reaches that.
type member struct {
	*join.Identity
	api kubernetes.Interface
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
	if err := d.openNetwork(ctx, d.member.CA, dns.Address(d.services)); err != nil {
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
	if d.member, err = d.openMember(ctx); err != nil {
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

// openMember finds this machine's identity, or gets one with the token.
func (d *node) openMember(ctx context.Context) (*member, error) {
	identity, err := join.Join(ctx, join.Request{
		Server: d.Join, Token: d.Token, CAHashes: d.CACertHashes, NodeName: d.NodeName, Dir: d.path("pki"), Log: d.Log,
	})
	if err != nil {
		return nil, err
	}
	api, err := kubernetes.NewForConfig(identity.Config())
	if err != nil {
		return nil, fmt.Errorf("cannot make a client of %s: %w", d.Join, err)
	}
	return &member{Identity: identity, api: api, server: apiAddress(d.Join)}, nil
}

const (
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
	shared, err := memberCache(d.member.Config())
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
	names := auth.Names{IPs: []net.IP{d.ip.AsSlice()}, DNS: []string{d.NodeName}}
	d.part(ctx, "the certificates of this machine", func(ctx context.Context) error { return d.member.Run(ctx, names) })
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(d.member.CA)
	return d.startAgent(ctx, nodeagent.Config{Client: d.member.api, Reach: d.member.reach, Serve: endpoint(d.member.ServingCertificate, clients)})
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
