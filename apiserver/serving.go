// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"crypto/tls"
	"fmt"
	"maps"

	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	openapicommon "k8s.io/kube-openapi/pkg/common"

	"github.com/peapod/peapod/apiserver/openapi"
)

type genericStores = generic.RESTOptionsGetter

// openAPI describes the API by the definitions generated from the published
// types; the library renders them when the first client asks.
func (s *Server) openAPI(c *genericapiserver.Config) {
	definitions := func(ref openapicommon.ReferenceCallback) map[string]openapicommon.OpenAPIDefinition {
		return maps.Clone(openapi.GetOpenAPIDefinitions(ref))
	}
	namer := openapinamer.NewDefinitionNamer(s.scheme)
	c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	c.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	c.OpenAPIConfig.Info.Title, c.OpenAPIV3Config.Info.Title = "Kubernetes", "Kubernetes"
}

func (s *Server) certificate() (dynamiccertificates.CertKeyContentProvider, error) {
	cert, key := s.config.PKI.Pair("apiserver")
	p, err := dynamiccertificates.NewDynamicServingContentFromFiles("serving", cert, key)
	if err != nil {
		return nil, fmt.Errorf("cannot load the serving certificate: %w", err)
	}
	return p, nil
}

// tlsConfig serves further listeners with the same certificate.
func (s *Server) tlsConfig() *tls.Config {
	cert, key := s.config.PKI.Pair("apiserver")
	return &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert, ClientCAs: s.config.PKI.Pool(),
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				return nil, fmt.Errorf("cannot load the serving certificate: %w", err)
			}
			return &pair, nil
		},
	}
}
