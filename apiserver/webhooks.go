// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/url"

	noop "go.opentelemetry.io/otel/trace/noop"
	corev1 "k8s.io/api/core/v1"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/util/webhook"
)

// webhookServices finds Services that webhooks name by asking the stores for an
// endpoint that is ready: no rule of the network has to have heard of it.
type webhookServices struct{ s *Server }

// ResolveEndpoint is a URL of a Pod behind a Service's port.
func (w webhookServices) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	ctx := genericapirequest.WithNamespace(context.Background(), namespace)
	service, err := getFresh[corev1.Service](ctx, w.s, corev1.Resource("services"), namespace, name)
	if err != nil {
		return nil, err
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return &url.URL{Scheme: "https", Host: fmt.Sprintf("%s:%d", service.Spec.ExternalName, port)}, nil
	}
	named, err := w.s.servicePort(ctx, name, fmt.Sprint(port))
	if err != nil {
		return nil, err
	}
	host, err := w.s.endpoint(ctx, name, named, nil)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: "https", Host: host}, nil
}

// webhookAccess is how webhooks are called: as what their configuration says,
// by addresses and names as this machine knows them.
func (s *Server) webhookAccess() webhook.AuthenticationInfoResolverWrapper {
	return webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, s.ClientConfig("system:apiserver", "system:masters"), noop.NewTracerProvider())
}
