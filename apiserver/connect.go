// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// Logs, exec, attach, port-forward and proxy are not answered here: the
// request is handed to the node's own HTTPS endpoint, or to the Pod itself.

// nodeTransport reaches node agents with the API server's client certificate.
func (s *Server) nodeTransport() (*http.Transport, error) {
	certFile, keyFile := s.config.PKI.Pair("apiserver-kubelet")
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("cannot load the client certificate for nodes: %w", err)
	}
	return &http.Transport{
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.config.PKI.Pool(), Certificates: []tls.Certificate{cert}},
		TLSHandshakeTimeout: 10 * time.Second,
		// Upgrades need HTTP/1.1.
		TLSNextProto:    map[string]func(string, *tls.Conn) http.RoundTripper{},
		IdleConnTimeout: 90 * time.Second,
	}, nil
}

// nodeURL is where a node's agent listens.
func (s *Server) nodeURL(ctx context.Context, name string) (*url.URL, error) {
	node, err := boundObjects{s, true}.Node(ctx, name)
	if err != nil {
		return nil, err
	}
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == 0 {
		port = 10250
	}
	for _, t := range []corev1.NodeAddressType{corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range node.Status.Addresses {
			// A host name is of use only where it resolves; addresses always are.
			if a.Type == t && t != corev1.NodeHostName {
				return &url.URL{Scheme: "https", Host: net.JoinHostPort(a.Address, strconv.Itoa(int(port)))}, nil
			}
		}
	}
	return nil, fmt.Errorf("no preferred addresses found; known addresses: %v", node.Status.Addresses)
}

// podOn finds a Pod and the URL of its node.
func (s *Server) podOn(ctx context.Context, name string) (*corev1.Pod, *url.URL, error) {
	pod, err := boundObjects{s, false}.Pod(ctx, namespaceOf(ctx), name)
	if err != nil {
		return nil, nil, err
	}
	if pod.Spec.NodeName == "" {
		return pod, nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", name))
	}
	u, err := s.nodeURL(ctx, pod.Spec.NodeName)
	return pod, u, err
}

// pickContainer is the container asked for, or the only one.
func pickContainer(p *corev1.Pod, asked string) (string, error) {
	var mains, inits, ephemeral []string
	for _, c := range p.Spec.Containers {
		mains = append(mains, c.Name)
	}
	for _, c := range p.Spec.InitContainers {
		inits = append(inits, c.Name)
	}
	for _, c := range p.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, c.Name)
	}
	if asked == "" {
		if len(mains) == 1 {
			return mains[0], nil
		}
		text := fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", p.Name, strings.Join(mains, " "))
		if len(inits) > 0 {
			text += fmt.Sprintf(" or one of the init containers: [%s]", strings.Join(inits, " "))
		}
		return "", apierrors.NewBadRequest(text)
	}
	if !slices.Contains(slices.Concat(mains, inits, ephemeral), asked) {
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", asked, p.Name))
	}
	return asked, nil
}

// podLog is pods/log.
type podLog struct{ server *Server }

func (podLog) New() runtime.Object               { return &corev1.Pod{} }
func (podLog) Destroy()                          {}
func (podLog) ProducesMIMETypes(string) []string { return []string{"text/plain"} }
func (podLog) ProducesObject(string) any         { return "" }
func (podLog) NewGetOptions() (runtime.Object, bool, string) {
	return &corev1.PodLogOptions{}, false, ""
}

func (l podLog) Get(ctx context.Context, name string, o runtime.Object) (runtime.Object, error) {
	opts, ok := o.(*corev1.PodLogOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", o)
	}
	if opts.SinceSeconds != nil && opts.SinceTime != nil {
		return nil, apierrors.NewBadRequest("at most one of `sinceTime` or `sinceSeconds` may be specified")
	}
	pod, node, err := l.server.podOn(ctx, name)
	if err != nil {
		return nil, err
	}
	container, err := pickContainer(pod, opts.Container)
	if err != nil {
		return nil, err
	}
	transport, err := l.server.nodeTransport()
	if err != nil {
		return nil, err
	}
	node.Path = fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container)
	node.RawQuery = logQuery(opts).Encode()
	return &genericrest.LocationStreamer{
		Location: node, Transport: transport, ContentType: "text/plain", Flush: opts.Follow,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(corev1.Resource("pods/log"), name),
		RedirectChecker: genericrest.PreventRedirects,
	}, nil
}

func logQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	flag := func(name string, v bool) {
		if v {
			q.Set(name, "true")
		}
	}
	number := func(name string, v *int64) {
		if v != nil {
			q.Set(name, strconv.FormatInt(*v, 10))
		}
	}
	flag("follow", o.Follow)
	flag("previous", o.Previous)
	flag("timestamps", o.Timestamps)
	number("sinceSeconds", o.SinceSeconds)
	number("tailLines", o.TailLines)
	number("limitBytes", o.LimitBytes)
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.Format(time.RFC3339Nano))
	}
	if o.Stream != nil {
		q.Set("stream", *o.Stream)
	}
	return q
}

// connecter is a subresource that takes over the connection.
type connecter struct {
	example runtime.Object
	path    bool // the rest of the URL's path belongs to the target
	methods []string
	connect func(ctx context.Context, name string, o runtime.Object, r rest.Responder) (http.Handler, error)
}

func (c connecter) New() runtime.Object      { return c.example.DeepCopyObject() }
func (connecter) Destroy()                   {}
func (c connecter) ConnectMethods() []string { return c.methods }
func (c connecter) NewConnectOptions() (runtime.Object, bool, string) {
	return c.example.DeepCopyObject(), c.path, "path"
}
func (c connecter) Connect(ctx context.Context, name string, o runtime.Object, r rest.Responder) (http.Handler, error) {
	return c.connect(ctx, name, o, r)
}

// podStream is exec, attach and portforward.
func (s *Server) podStream(example runtime.Object, methods ...string) rest.Storage {
	return connecter{example: example, methods: methods, connect: func(ctx context.Context, name string, o runtime.Object, r rest.Responder) (http.Handler, error) {
		pod, node, err := s.podOn(ctx, name)
		if err != nil {
			return nil, err
		}
		if _, ok := o.(*corev1.PodPortForwardOptions); !ok && (pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed) {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("cannot exec into a container in a completed pod; current phase is %s", pod.Status.Phase))
		}
		transport, err := s.nodeTransport()
		if err != nil {
			return nil, err
		}
		streams, err := streamTarget(pod, node, o)
		if err != nil {
			return nil, err
		}
		var h http.Handler = utilproxy.NewUpgradeAwareHandler(node, transport, false, true, utilproxy.NewErrorResponder(r))
		if streams == nil {
			return proxy.NewTranslatingHandler(h, proxy.NewTunnelingHandler(h), wsstream.IsWebSocketRequestWithTunnelingProtocol), nil
		}
		translated := proxy.NewStreamTranslatorHandler(node, transport, 0, *streams)
		return proxy.NewTranslatingHandler(h, translated, wsstream.IsWebSocketRequestWithStreamCloseProtocol), nil
	}}
}

// streamTarget completes the node's URL. It returns nil options for
// port-forward.
func streamTarget(pod *corev1.Pod, node *url.URL, o runtime.Object) (*proxy.Options, error) {
	q, path := url.Values{}, ""
	flags := func(in, out, err, tty bool) *proxy.Options {
		for name, on := range map[string]bool{"input": in, "output": out, "error": err && !tty, "tty": tty} {
			if on {
				q.Set(name, "1")
			}
		}
		return &proxy.Options{Stdin: in, Stdout: out, Stderr: err && !tty, Tty: tty}
	}
	var streams *proxy.Options
	var asked string
	switch opts := o.(type) {
	case *corev1.PodExecOptions:
		if len(opts.Command) == 0 {
			return nil, apierrors.NewBadRequest("you must specify at least one command for the container")
		}
		path, asked, streams = "exec", opts.Container, flags(opts.Stdin, opts.Stdout, opts.Stderr, opts.TTY)
		q["command"] = opts.Command
	case *corev1.PodAttachOptions:
		path, asked, streams = "attach", opts.Container, flags(opts.Stdin, opts.Stdout, opts.Stderr, opts.TTY)
	case *corev1.PodPortForwardOptions:
		for _, p := range opts.Ports {
			q.Add("port", strconv.Itoa(int(p)))
		}
		node.Path, node.RawQuery = fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name), q.Encode()
		return nil, nil
	}
	container, err := pickContainer(pod, asked)
	if err != nil {
		return nil, err
	}
	node.Path, node.RawQuery = fmt.Sprintf("/%s/%s/%s/%s", path, pod.Namespace, pod.Name, container), q.Encode()
	return streams, nil
}

var proxyMethods = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}

// proxyTo hands the request to target, with the caller's path behind it.
func proxyTo(target *url.URL, path string, transport http.RoundTripper, r rest.Responder) http.Handler {
	target.Path = joinPath(target.Path, path)
	return utilproxy.NewUpgradeAwareHandler(target, transport, true, false, utilproxy.NewErrorResponder(r))
}

func joinPath(a, b string) string {
	return strings.TrimSuffix(a, "/") + "/" + strings.TrimPrefix(b, "/")
}

// splitProxyName reads [scheme:]name[:port].
func splitProxyName(s string) (scheme, name, port string) {
	parts := strings.Split(s, ":")
	switch len(parts) {
	case 3:
		return parts[0], parts[1], parts[2]
	case 2:
		return "", parts[0], parts[1]
	}
	return "", s, ""
}

func (s *Server) podProxy() rest.Storage {
	return connecter{example: &corev1.PodProxyOptions{}, path: true, methods: proxyMethods, connect: func(ctx context.Context, id string, o runtime.Object, r rest.Responder) (http.Handler, error) {
		scheme, name, port := splitProxyName(id)
		pod, err := boundObjects{s, false}.Pod(ctx, namespaceOf(ctx), name)
		if err != nil {
			return nil, err
		}
		if pod.Status.PodIP == "" {
			return nil, apierrors.NewBadRequest("address not allowed")
		}
		if port == "" {
			for _, c := range pod.Spec.Containers {
				if len(c.Ports) > 0 {
					port = strconv.Itoa(int(c.Ports[0].ContainerPort))
					break
				}
			}
		}
		target := &url.URL{Scheme: orHTTP(scheme), Host: pod.Status.PodIP}
		if port != "" {
			target.Host = net.JoinHostPort(pod.Status.PodIP, port)
		}
		return proxyTo(target, o.(*corev1.PodProxyOptions).Path, plainTransport(), r), nil
	}}
}

func (s *Server) serviceProxy() rest.Storage {
	return connecter{example: &corev1.ServiceProxyOptions{}, path: true, methods: proxyMethods, connect: func(ctx context.Context, id string, o runtime.Object, r rest.Responder) (http.Handler, error) {
		scheme, name, port := splitProxyName(id)
		svc, err := getFresh[corev1.Service](ctx, s, corev1.Resource("services"), namespaceOf(ctx), name)
		if err != nil {
			return nil, err
		}
		eps, err := getFresh[corev1.Endpoints](ctx, s, corev1.Resource("endpoints"), namespaceOf(ctx), name)
		if err != nil {
			return nil, err
		}
		host := endpointFor(svc, eps, port)
		if host == "" {
			return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", id))
		}
		return proxyTo(&url.URL{Scheme: orHTTP(scheme), Host: host}, o.(*corev1.ServiceProxyOptions).Path, plainTransport(), r), nil
	}}
}

// endpointFor picks a ready address behind a Service's port, named or numbered.
func endpointFor(svc *corev1.Service, eps *corev1.Endpoints, port string) string {
	name := port
	for _, p := range svc.Spec.Ports {
		if port == "" || port == p.Name || port == strconv.Itoa(int(p.Port)) {
			name = p.Name
			break
		}
	}
	for _, set := range eps.Subsets {
		for _, p := range set.Ports {
			if p.Name == name && len(set.Addresses) > 0 {
				return net.JoinHostPort(set.Addresses[0].IP, strconv.Itoa(int(p.Port)))
			}
		}
	}
	return ""
}

func (s *Server) nodeSubresources(*stores, *registry.Store) map[string]rest.Storage {
	return map[string]rest.Storage{"proxy": connecter{example: &corev1.NodeProxyOptions{}, path: true, methods: proxyMethods, connect: func(ctx context.Context, id string, o runtime.Object, r rest.Responder) (http.Handler, error) {
		_, name, _ := splitProxyName(id)
		target, err := s.nodeURL(ctx, name)
		if err != nil {
			return nil, err
		}
		transport, err := s.nodeTransport()
		if err != nil {
			return nil, err
		}
		return proxyTo(target, o.(*corev1.NodeProxyOptions).Path, transport, r), nil
	}}}
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
