// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/proxy"
)

// The proxy subresources of Pods, Services and Nodes.

var proxyMethods = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}

// proxyTo hands the request to target, with the caller's path behind it. Without
// any path the library sends readers to "/", so that links of the answer lead
// back here.
func proxyTo(target *url.URL, path string, transport http.RoundTripper, r rest.Responder) http.Handler {
	target.Path = utilnet.JoinPreservingTrailingSlash(target.Path, path)
	return utilproxy.NewUpgradeAwareHandler(target, transport, true, false, utilproxy.NewErrorResponder(r))
}

func orHTTP(scheme string) string {
	if scheme == "" {
		return "http"
	}
	return scheme
}

// plainTransport reaches Pods, whose certificates nobody here knows.
func plainTransport() http.RoundTripper {
	return &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true} //nolint:gosec // as kube-apiserver does for pod proxies
}

// proxyable says whether the API server may call an address for somebody else:
// never its own machine's loopback or link-local ones, which a Pod's status
// could name.
func proxyable(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsGlobalUnicast()
}

func (s *Server) podProxy() rest.Storage {
	return connecter{example: &corev1.PodProxyOptions{}, path: true, methods: proxyMethods, connect: func(ctx context.Context, id string, o runtime.Object, r rest.Responder) (http.Handler, error) {
		scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
		if !ok {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", id))
		}
		pod, err := boundObjects{s, false}.Pod(ctx, namespaceOf(ctx), name)
		if err != nil {
			return nil, err
		}
		target, err := podTarget(pod, scheme, port)
		if err != nil {
			return nil, err
		}
		return proxyTo(target, o.(*corev1.PodProxyOptions).Path, plainTransport(), r), nil
	}}
}

// podTarget is where a Pod listens: on the port asked for, or its first one.
func podTarget(p *corev1.Pod, scheme, port string) (*url.URL, error) {
	if port == "" {
		if i := slices.IndexFunc(p.Spec.Containers, func(c corev1.Container) bool { return len(c.Ports) > 0 }); i >= 0 {
			port = strconv.Itoa(int(p.Spec.Containers[i].Ports[0].ContainerPort))
		}
	}
	if len(p.Status.PodIPs) == 0 || !proxyable(p.Status.PodIPs[0].IP) {
		return nil, apierrors.NewBadRequest("address not allowed")
	}
	host := p.Status.PodIPs[0].IP
	switch {
	case port != "":
		host = net.JoinHostPort(host, port)
	case strings.Contains(host, ":"):
		host = "[" + host + "]"
	}
	return &url.URL{Scheme: orHTTP(scheme), Host: host}, nil
}

func (s *Server) serviceProxy() rest.Storage {
	return connecter{example: &corev1.ServiceProxyOptions{}, path: true, methods: proxyMethods, connect: func(ctx context.Context, id string, o runtime.Object, r rest.Responder) (http.Handler, error) {
		scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
		if !ok {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", id))
		}
		port, err := s.servicePort(ctx, name, port)
		if err != nil {
			return nil, err
		}
		host, err := s.endpoint(ctx, name, port, func(e *discoveryv1.Endpoint) bool { return s.isPod(ctx, e) })
		if err != nil {
			return nil, err
		}
		return proxyTo(&url.URL{Scheme: orHTTP(scheme), Host: host}, o.(*corev1.ServiceProxyOptions).Path, plainTransport(), r), nil
	}}
}

// servicePort turns a port's number into its name.
func (s *Server) servicePort(ctx context.Context, service, port string) (string, error) {
	number, err := strconv.ParseInt(port, 10, 64)
	if err != nil {
		return port, nil
	}
	svc, err := getFresh[corev1.Service](ctx, s, corev1.Resource("services"), namespaceOf(ctx), service)
	if err != nil {
		return "", err
	}
	for _, p := range svc.Spec.Ports {
		if int64(p.Port) == number {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, service))
}

// endpoint is one of the ready endpoints of a Service that are allowed.
func (s *Server) endpoint(ctx context.Context, service, port string, allowed func(*discoveryv1.Endpoint) bool) (string, error) {
	found, err := s.stores.main[discoveryv1.Resource("endpointslices")].List(ctx, &metainternalversion.ListOptions{
		LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service}),
	})
	if err != nil {
		return "", fmt.Errorf("cannot list the endpoints of service %s: %w", service, err)
	}
	list := found.(*discoveryv1.EndpointSliceList)
	slices := make([]*discoveryv1.EndpointSlice, len(list.Items))
	for i := range list.Items {
		slices[i] = &list.Items[i]
	}
	return proxy.RandomEndpoint(service, slices, port, corev1.IPv4Protocol, allowed)
}

// isPod keeps the proxy from addresses that somebody wrote into a slice: only
// those of Pods of the same namespace are called.
func (s *Server) isPod(ctx context.Context, e *discoveryv1.Endpoint) bool {
	if e.TargetRef == nil || e.TargetRef.Namespace != namespaceOf(ctx) {
		return false
	}
	pod, err := boundObjects{s, true}.Pod(ctx, namespaceOf(ctx), e.TargetRef.Name)
	return err == nil && proxyable(e.Addresses[0]) && slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return ip.IP == e.Addresses[0] })
}

func (s *Server) nodeSubresources(*stores, *registry.Store) map[string]rest.Storage {
	return map[string]rest.Storage{"proxy": connecter{example: &corev1.NodeProxyOptions{}, path: true, methods: proxyMethods, connect: func(ctx context.Context, id string, o runtime.Object, r rest.Responder) (http.Handler, error) {
		scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
		if !ok {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", id))
		}
		agent, err := s.nodeURL(ctx, name)
		if err != nil {
			return nil, err
		}
		path := o.(*corev1.NodeProxyOptions).Path
		if port == "" || port == agent.Port() {
			return proxyTo(agent, path, s.toNodes, r), nil
		}
		if !proxyable(agent.Hostname()) {
			return nil, apierrors.NewBadRequest("address not allowed")
		}
		return proxyTo(&url.URL{Scheme: orHTTP(scheme), Host: net.JoinHostPort(agent.Hostname(), port)}, path, plainTransport(), r), nil
	}}}
}
