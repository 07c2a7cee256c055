// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/peapod/peapod/service"
	"github.com/peapod/peapod/test/bench/cluster"
	"github.com/peapod/peapod/test/bench/memory"
	"github.com/peapod/peapod/test/bench/result"
)

const (
	nodeName      = "node"
	nodeAddress   = "192.0.2.1"
	serviceRange  = "10.96.0.0/12"
	firstService  = 10<<24 | 96<<16 | 256
	proxyUnlucky  = 15 * time.Second // a change that takes longer is lost
	protobufMedia = "application/vnd.kubernetes.protobuf"
)

const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: %q, qps: 5000, burst: 10000, contentType: application/vnd.kubernetes.protobuf}
hostnameOverride: node
detectLocalMode: ClusterCIDR
clusterCIDR: 10.244.0.0/16
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`

// measureHere measures one subject in the network namespace that this process is
// alone in, and prints the figures.
func measureHere(ctx context.Context, o options, who string) error {
	if err := prepareLinks(); err != nil {
		return err
	}
	s := memory.New()
	fill(s, o)
	server := s.Serve()
	defer server.Close()
	defer server.CloseClientConnections()
	folder, err := os.MkdirTemp("", "bench-services-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	r, err := hear(o.services * o.endpoints)
	if err != nil {
		return err
	}
	defer r.close()
	begun := time.Now()
	cmd, said, err := startSubject(o, who, folder, memory.Kubeconfig(server))
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
	}()
	select {
	case <-r.all:
	case <-ended:
		return fmt.Errorf("the proxy ended: %s", said)
	case <-time.After(o.limit):
		r.mu.Lock()
		defer r.mu.Unlock()
		return fmt.Errorf("%d of %d endpoints are in the rules (%v): %s", len(r.seen), r.awaits, r.lost, said)
	case <-ctx.Done():
		return ctx.Err()
	}
	f := figures{Start: time.Since(begun)}
	fmt.Fprintf(os.Stderr, "bench-services: %s: all rules after %.2f s\n", who, f.Start.Seconds())
	if err := f.change(ctx, o, s, r, cmd.Process.Pid); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

// prepareLinks gives the node its address.
func prepareLinks() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err == nil {
		err = netlink.AddrAdd(lo, &netlink.Addr{IPNet: netlink.NewIPNet(netip.MustParseAddr(nodeAddress).AsSlice())})
	}
	if err != nil {
		return fmt.Errorf("cannot prepare the network namespace: %w", err)
	}
	return nil
}

func startSubject(o options, who, folder string, kubeconfig []byte) (*exec.Cmd, *bytes.Buffer, error) {
	file := filepath.Join(folder, "kubeconfig")
	err := os.WriteFile(file, kubeconfig, 0o600)
	self, err2 := os.Executable()
	cmd := exec.Command(self, "-run", file)
	if who == result.Stock {
		config := filepath.Join(folder, "proxy.yaml")
		err2 = errors.Join(err2, os.WriteFile(config, fmt.Appendf(nil, proxyConfig, file), 0o600))
		cmd = exec.Command(o.stock, "--config", config)
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := errors.Join(err, err2); err != nil {
		return nil, nil, fmt.Errorf("cannot start the proxy: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("cannot start the proxy: %w", err)
	}
	return cmd, &said, nil
}

// change replaces endpoints at a steady pace, each of another Service, and
// notes how long each took.
func (f *figures) change(ctx context.Context, o options, s *memory.Store, r *rules, pid int) error {
	// The first one waits until what the start has written is over.
	first := uint32(o.services * o.endpoints)
	c := replace(o, s, r, first)
	select {
	case <-c.seen:
	case <-time.After(o.limit):
		return errors.New("nothing changes after the start")
	case <-ctx.Done():
		return ctx.Err()
	}
	before, err := cluster.Processes{"proxy": {pid}}.Usage()
	if err != nil {
		return err
	}
	f.StartCPU = before["proxy"].CPU
	var all []change
	for k := range o.changes {
		all = append(all, replace(o, s, r, first+1+uint32(k)))
		select {
		case <-time.After(o.pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	late := time.After(proxyUnlucky)
	for _, c := range all {
		select {
		case <-c.seen:
		case <-late:
			return fmt.Errorf("a change was not in the rules after %v", proxyUnlucky)
		case <-ctx.Done():
			return ctx.Err()
		}
		at, err := r.at(c.n)
		if err != nil {
			return fmt.Errorf("cannot hear all changes: %w", err)
		}
		f.Changes = append(f.Changes, at.Sub(c.at))
	}
	after, err := cluster.Processes{"proxy": {pid}}.Usage()
	f.CPU = after["proxy"].CPU - before["proxy"].CPU
	return err
}

// change is an endpoint that came, and when.
type change struct {
	n    uint32
	at   time.Time
	seen <-chan struct{}
}

// replace lets endpoint n come in the place of the first of a Service.
func replace(o options, s *memory.Store, r *rules, n uint32) change {
	slice := newSlice(o, int(n)%o.services)
	slice.Endpoints[0].Addresses[0] = endpointAddress(n)
	c := change{n, time.Now(), r.expect(n)}
	s.Put(slicesResource, slice)
	return c
}

var slicesResource = discoveryv1.SchemeGroupVersion.WithResource("endpointslices")

// fill makes a node, and Services with endpoints.
func fill(s *memory.Store, o options) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, UID: nodeName}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeAddress}}
	s.Put(corev1.SchemeGroupVersion.WithResource("nodes"), n)
	for k := range o.services {
		name := serviceName(k)
		x := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}}
		x.Spec = corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: address(firstService + uint32(k)), ClusterIPs: []string{address(firstService + uint32(k))},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: new(corev1.IPFamilyPolicySingleStack), SessionAffinity: corev1.ServiceAffinityNone,
			InternalTrafficPolicy: new(corev1.ServiceInternalTrafficPolicyCluster), Selector: map[string]string{"app": name},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)}},
		}
		s.Put(corev1.SchemeGroupVersion.WithResource("services"), x)
		s.Put(slicesResource, newSlice(o, k))
	}
}

func serviceName(k int) string { return fmt.Sprint("service-", k) }

// newSlice has the endpoints that the Service begins with.
func newSlice(o options, k int) *discoveryv1.EndpointSlice {
	name := serviceName(k)
	x := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name + "-abcde", Namespace: "default", UID: types.UID(name), Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))}},
	}
	for e := range o.endpoints {
		x.Endpoints = append(x.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{endpointAddress(uint32(k*o.endpoints + e))},
			Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
			NodeName:   new("elsewhere"),
		})
	}
	return x
}

func endpointAddress(n uint32) string { return address(firstEndpoint + n) }

func address(n uint32) string {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}).String()
}

// runOurs is Peapod's part as a program: what the daemon does, with informers of
// client-go.
func runOurs(ctx context.Context, kubeconfig string) error {
	c, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	c.ContentType, c.AcceptContentTypes = protobufMedia, protobufMedia+",application/json"
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return err
	}
	f := informers.NewSharedInformerFactory(client, 0)
	p, err := service.New(service.Config{
		Instance: "peapod-bench", NodeName: nodeName, NodeIP: netip.MustParseAddr(nodeAddress), Services: netip.MustParsePrefix(serviceRange), Log: slog.Default(),
		ServiceInformer: f.Core().V1().Services().Informer(), SliceInformer: f.Discovery().V1().EndpointSlices().Informer(), NodeInformer: f.Core().V1().Nodes().Informer(),
	})
	if err != nil {
		return err
	}
	f.StartWithContext(ctx)
	defer f.Shutdown()
	return p.Run(ctx)
}
