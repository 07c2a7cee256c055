// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/auth"
)

// Logs, exec, attach, port-forward and proxy are not answered here: the
// request is handed to the node's own HTTPS endpoint, or to the Pod itself.

// nodeTransport reaches node agents with the API server's client certificate.
// There is one, so that connections are used again.
func nodeTransport(pki *auth.PKI) *http.Transport {
	return &http.Transport{
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: pki.Pool(),
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return pki.Certificate("apiserver-kubelet")
			},
		},
		TLSHandshakeTimeout: 10 * time.Second,
		// Upgrades need HTTP/1.1.
		TLSNextProto:    map[string]func(string, *tls.Conn) http.RoundTripper{},
		IdleConnTimeout: 90 * time.Second,
	}
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
	// A host name is of use only where it resolves; addresses always are.
	for _, t := range []corev1.NodeAddressType{corev1.NodeInternalDNS, corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range node.Status.Addresses {
			if a.Type == t {
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
	var all []string
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range list {
			all = append(all, c.Name)
		}
	}
	for _, c := range p.Spec.EphemeralContainers {
		all = append(all, c.Name)
	}
	switch {
	case asked == "" && len(p.Spec.Containers) == 1:
		return p.Spec.Containers[0].Name, nil
	case asked == "":
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", p.Name, all))
	case !slices.Contains(all, asked):
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
	if opts.Stream == nil {
		opts.Stream = ptr.To(corev1.LogStreamAll)
	}
	if errs := logOptions(opts); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), name, errs)
	}
	pod, err := boundObjects{l.server, false}.Pod(ctx, namespaceOf(ctx), name)
	if err != nil {
		return nil, err
	}
	container, err := pickContainer(pod, opts.Container)
	if err != nil {
		return nil, err
	}
	answer := &genericrest.LocationStreamer{
		ContentType: "text/plain", Flush: opts.Follow,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(corev1.Resource("pods/log"), name),
		RedirectChecker: genericrest.PreventRedirects,
	}
	if pod.Spec.NodeName == "" {
		return answer, nil // nothing has been said yet
	}
	node, err := l.server.nodeURL(ctx, pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	node.Path = fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container)
	node.RawQuery = logQuery(opts).Encode()
	answer.Location, answer.Transport = node, l.server.toNodes
	return answer, nil
}

// logOptions checks what is asked of a log.
func logOptions(o *corev1.PodLogOptions) (errs field.ErrorList) {
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, "must be greater than or equal to 0"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	streams := []string{corev1.LogStreamAll, corev1.LogStreamStderr, corev1.LogStreamStdout}
	if !slices.Contains(streams, *o.Stream) {
		errs = append(errs, field.NotSupported(field.NewPath("stream"), *o.Stream, streams))
	}
	if *o.Stream != corev1.LogStreamAll && o.TailLines != nil {
		errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
	}
	return errs
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
		if err := s.mayAlso(ctx, "create"); err != nil {
			return nil, err
		}
		pod, node, err := s.podOn(ctx, name)
		if err != nil {
			return nil, err
		}
		streams, err := streamTarget(pod, node, o)
		if err != nil {
			return nil, err
		}
		transport := s.toNodes
		var h http.Handler = utilproxy.NewUpgradeAwareHandler(node, transport, false, true, utilproxy.NewErrorResponder(r))
		if streams == nil {
			return proxy.NewTranslatingHandler(h, proxy.NewTunnelingHandler(h), wsstream.IsWebSocketRequestWithTunnelingProtocol), nil
		}
		translated := proxy.NewStreamTranslatorHandler(node, transport, 0, *streams)
		return proxy.NewTranslatingHandler(h, translated, wsstream.IsWebSocketRequestWithStreamCloseProtocol), nil
	}}
}

// mayAlso asks for a second verb on the request's own object: a stream can be
// opened by GET, a WebSocket, but only by those who may create one.
func (s *Server) mayAlso(ctx context.Context, verb string) error {
	a, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("error building authorizer attributes: %w", err))
	}
	if a.GetVerb() == verb {
		return nil
	}
	decision, reason, err := s.generic.Authorizer.Authorize(ctx, otherVerb{a, verb})
	if err != nil {
		return err
	}
	if decision != authorizer.DecisionAllow {
		return apierrors.NewForbidden(schema.GroupResource{Group: a.GetAPIGroup(), Resource: a.GetResource()}, a.GetName(), errors.New(reason))
	}
	return nil
}

type otherVerb struct {
	authorizer.Attributes
	verb string
}

func (o otherVerb) GetVerb() string { return o.verb }

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
