// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/api/claim"
	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/controller"
	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/dns"
	nodeagent "github.com/peapod/peapod/node"
	"github.com/peapod/peapod/scheduler"
	"github.com/peapod/peapod/service"
	"github.com/peapod/peapod/volume"
)

// masters is the group of this process's own components: they share its fate,
// so a narrower role would protect nothing.
const masters = "system:masters"

// startLoops starts what works through the API, and waits for the node.
func (d *node) startLoops(ctx context.Context) error {
	if err := d.startControllers(ctx); err != nil {
		return err
	}
	api, err := kubernetes.NewForConfig(d.api.ClientConfig("system:node:"+d.NodeName, "system:nodes", masters))
	if err != nil {
		return fmt.Errorf("cannot start the node agent: %w", err)
	}
	own := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return d.pki.Certificate("kubelet") }
	return d.startAgent(ctx, nodeagent.Config{Client: api, PodCIDR: d.pods.String(), Untaint: true, Serve: endpoint(own, d.pki.Pool())})
}

// startAgent starts the node agent, and waits for the node.
func (d *node) startAgent(ctx context.Context, c nodeagent.Config) error {
	c.Services = func(ctx context.Context, namespace string) ([]corev1.Service, error) {
		var list corev1.ServiceList
		err := d.shared.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy)
		return list.Items, err
	}
	agent, err := d.newAgent(c)
	if err != nil {
		return err
	}
	ready := make(chan struct{})
	d.part(ctx, "the node agent", func(ctx context.Context) error { return agent.Run(ctx, func() { close(ready) }) })
	select {
	case <-ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	if d.Ready != nil {
		d.Ready(d.info())
	}
	return nil
}

// info is what a user needs to know of the node.
func (d *node) info() Info {
	if d.Join != "" {
		return Info{NodeName: d.NodeName, Server: d.Join}
	}
	return Info{NodeName: d.NodeName, Kubeconfig: d.kubeconfig(), Server: dialable(d.listen).String()}
}

func (d *node) startControllers(ctx context.Context) error {
	c := d.api.ClientConfig("system:kube-controller-manager", masters)
	own, err := kubernetes.NewForConfig(c)
	if err != nil {
		return fmt.Errorf("cannot start the controllers: %w", err)
	}
	m, err := loop.NewManager(c, ctrl.Log)
	if err != nil {
		return err
	}
	config := loop.Config{RootCA: d.pki.CAPEM, Issue: d.pki.Issue, Client: own, NodeName: d.NodeName, Folders: &volume.Folders{Root: d.path("volumes")}}
	if d.network != nil {
		config.DNS, config.Cluster, config.Pods = dns.Address(d.services), d.cluster, d.pods
	}
	if err := controller.Add(m, config); err != nil {
		return err
	}
	if err := d.localClass(ctx, own); err != nil {
		return err
	}
	var followed scheduler.Informers
	for _, x := range []struct {
		kind client.Object
		to   *scheduler.Informer
	}{
		{&corev1.Pod{}, &followed.Pods}, {&corev1.Node{}, &followed.Nodes}, {&corev1.Namespace{}, &followed.Namespaces}, {&corev1.Service{}, &followed.Services},
		{&corev1.ReplicationController{}, &followed.ReplicationControllers}, {&appsv1.ReplicaSet{}, &followed.ReplicaSets},
		{&appsv1.StatefulSet{}, &followed.StatefulSets}, {&policyv1.PodDisruptionBudget{}, &followed.Budgets},
		{&corev1.PersistentVolumeClaim{}, &followed.Claims}, {&corev1.PersistentVolume{}, &followed.Volumes}, {&storagev1.StorageClass{}, &followed.StorageClasses},
	} {
		if *x.to, err = m.GetCache().GetInformer(ctx, x.kind); err != nil {
			return fmt.Errorf("cannot start the scheduler: %w", err)
		}
	}
	binder, err := kubernetes.NewForConfig(d.api.ClientConfig("system:kube-scheduler", masters))
	if err != nil {
		return fmt.Errorf("cannot start the scheduler: %w", err)
	}
	s := scheduler.New(scheduler.Config{Client: binder, Informers: followed, Log: d.Log})
	if err := d.startServices(ctx, m.GetCache(), m.GetEventRecorderFor("kube-proxy")); err != nil {
		return err
	}
	d.part(ctx, "the controllers", m.Start)
	d.part(ctx, "the scheduler", s.Run)
	return nil
}

// startServices starts what every machine does for the whole cluster: Services,
// their names, and the ways to other machines' Pods.
func (d *node) startServices(ctx context.Context, shared ctrlcache.Cache, events record.EventRecorder) (err error) {
	d.shared = shared
	if d.addresses, err = d.newServices(ctx, shared, events); err != nil {
		return err
	}
	d.part(ctx, "the addresses of Services", d.addresses.Run)
	if d.network == nil {
		return nil
	}
	names, err := d.newDNS(ctx, shared)
	if err != nil {
		return err
	}
	d.part(ctx, "the cluster's name server", names.Run)
	nodes, err := shared.GetInformer(ctx, &corev1.Node{})
	if err != nil {
		return fmt.Errorf("cannot follow the machines of the cluster: %w", err)
	}
	d.part(ctx, "the ways to other machines", newPeers(d.NodeName, d.network, nodes, d.Log).run)
	return nil
}

// localClass makes the class that claims get which name none: its volumes are
// folders of this machine, where their Pods have to go, and go with their claim.
// One that is there stays as somebody made it.
func (d *node) localClass(ctx context.Context, c kubernetes.Interface) error {
	mode := storagev1.VolumeBindingWaitForFirstConsumer
	_, err := c.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: "local", Annotations: map[string]string{claim.DefaultClass: "true"}},
		Provisioner: claim.LocalProvisioner, VolumeBindingMode: &mode,
		AllowedTopologies: []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelHostname, Values: []string{d.NodeName}}}}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("cannot make the storage class of local volumes: %w", err)
	}
	return nil
}

// newServices makes what leads the addresses of Services to their Pods. Where
// the Pods' network is an external runtime's, their range is not known.
func (d *node) newServices(ctx context.Context, shared ctrlcache.Cache, events record.EventRecorder) (*service.Proxy, error) {
	c := service.Config{
		Instance: d.instance, NodeName: d.NodeName, NodeIP: d.ip, Services: d.services,
		Events: events, Log: d.Log,
	}
	for _, x := range []struct {
		kind client.Object
		to   *service.Informer
	}{{&corev1.Service{}, &c.ServiceInformer}, {&discoveryv1.EndpointSlice{}, &c.SliceInformer}, {&corev1.Node{}, &c.NodeInformer}} {
		var err error
		if *x.to, err = shared.GetInformer(ctx, x.kind); err != nil {
			return nil, fmt.Errorf("cannot serve addresses of Services: %w", err)
		}
	}
	if d.network != nil {
		c.Pods, c.Gateway = d.pods, d.network.Gateway()
	}
	return service.New(c)
}

// newDNS makes the cluster's name server, on the address that the node holds.
func (d *node) newDNS(ctx context.Context, shared ctrlcache.Cache) (*dns.Server, error) {
	informers := make([]cache.SharedIndexInformer, 3)
	for i, o := range []client.Object{&corev1.Service{}, &discoveryv1.EndpointSlice{}, &corev1.Namespace{}} {
		found, err := shared.GetInformer(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("cannot serve cluster DNS: %w", err)
		}
		var ok bool
		if informers[i], ok = found.(cache.SharedIndexInformer); !ok {
			return nil, fmt.Errorf("cannot serve cluster DNS: the cache of %T, a %T, has no indexes", o, found)
		}
	}
	return dns.New(dns.Config{
		Listen:   netip.AddrPortFrom(dns.Address(d.services), 53),
		Services: informers[0], Slices: informers[1], Namespaces: informers[2], Resolver: "/etc/resolv.conf", Log: d.Log,
	})
}

// newAgent completes what only its caller knows: how the API is reached.
func (d *node) newAgent(config nodeagent.Config) (*nodeagent.Agent, error) {
	l, err := net.Listen("tcp", d.nodeListen.String())
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s for the node's endpoint: %w", d.nodeListen, err)
	}
	config.NodeName, config.IP, config.Listen, config.Version = d.NodeName, net.IP(d.ip.AsSlice()), l, KubernetesVersion
	config.CRI, config.Dir, config.LogDir, config.Seccomp, config.CgroupRoot = d.cri, d.path("node"), d.podLogs(), d.path("seccomp"), d.instance
	config.APIHost, config.APIPort, config.ClusterDomain = apiserver.ServiceAddress(d.services).String(), "443", dns.Domain
	config.Drained, config.Log = d.addresses.Drained, d.Log
	if d.network != nil {
		config.ClusterDNS = dns.Address(d.services).String()
	}
	return nodeagent.New(config)
}

// endpoint serves the node's endpoint to the API server, known by its
// certificate, and to administrators.
func endpoint(own func(*tls.ClientHelloInfo) (*tls.Certificate, error), clients *x509.CertPool) func(context.Context, net.Listener, http.Handler) error {
	return func(ctx context.Context, l net.Listener, h http.Handler) error {
		s := &http.Server{
			Handler: nodeagent.Guard(h, mayAsk), ReadHeaderTimeout: 30 * time.Second,
			TLSConfig: &tls.Config{
				MinVersion: tls.VersionTLS12, GetCertificate: own,
				ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: clients,
			},
			// Streams upgrade the connection, which HTTP/2 cannot.
			TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		}
		stop := context.AfterFunc(ctx, func() { s.Close() })
		defer stop()
		if err := s.ServeTLS(l, "", ""); err != nil && !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

// mayAsk knows the API server and administrators.
func mayAsk(subject pkix.Name) bool {
	return subject.CommonName == "kube-apiserver-kubelet-client" || slices.Contains(subject.Organization, masters)
}
