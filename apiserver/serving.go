// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"crypto/tls"
	"fmt"
	"maps"

	crdserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	crdopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/version"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/component-base/compatibility"
	openapicommon "k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/peapod/peapod/apiserver/openapi"
)

type genericStores = generic.RESTOptionsGetter

// openAPI describes the API by the definitions generated from the published
// types; the library renders them when the first client asks.
func (s *Server) openAPI(c *genericapiserver.Config) {
	definitions := func(ref openapicommon.ReferenceCallback) map[string]openapicommon.OpenAPIDefinition {
		all := maps.Clone(openapi.GetOpenAPIDefinitions(ref))
		maps.Copy(all, crdopenapi.GetOpenAPIDefinitions(ref))
		return all
	}
	// The published scheme: this server's own has internal versions, which
	// nobody outside is to see.
	namer := openapinamer.NewDefinitionNamer(clientscheme.Scheme, crdserver.Scheme)
	c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	c.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	bearer := spec.SecuritySchemeProps{Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication"}
	c.OpenAPIConfig.SecurityDefinitions = &spec.SecurityDefinitions{"BearerToken": {SecuritySchemeProps: bearer}}
	c.OpenAPIV3Config.SecuritySchemes = spec3.SecuritySchemes{"BearerToken": {SecuritySchemeProps: spec3.SecuritySchemeProps{
		Type: bearer.Type, Name: bearer.Name, In: bearer.In, Description: bearer.Description,
	}}}
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

// released is the library's version with the name of the release: the library
// knows its own number, and the name only in a build of Kubernetes itself.
type released struct {
	compatibility.EffectiveVersion
	name string
}

// Info is what /version answers.
func (r released) Info() *version.Info {
	info := *r.EffectiveVersion.Info()
	info.GitVersion, info.GitCommit, info.GitTreeState = r.name, "", ""
	return &info
}
