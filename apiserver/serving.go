// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"crypto/tls"
	"fmt"
	"maps"
	"net/http"
	"sync"

	crdserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	crdopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/version"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/component-base/compatibility"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/scheme"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"
	openapicommon "k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/peapod/peapod/apiserver/openapi"
)

type genericStores = generic.RESTOptionsGetter

// openAPI describes the API by the definitions generated from the published
// types. The library would make both descriptions at every start, a third of
// its work; here each is made for the first who asks: see describe.
func (s *Server) openAPI(c *genericapiserver.Config) {
	definitions := func(ref openapicommon.ReferenceCallback) map[string]openapicommon.OpenAPIDefinition {
		all := openapi.GetOpenAPIDefinitions(ref)
		maps.Copy(all, crdopenapi.GetOpenAPIDefinitions(ref))
		maps.Copy(all, aggregatoropenapi.GetOpenAPIDefinitions(ref))
		return all
	}
	// The published scheme: this server's own has internal versions, which
	// nobody outside is to see.
	namer := openapinamer.NewDefinitionNamer(clientscheme.Scheme, crdserver.Scheme, aggregatorscheme.Scheme)
	c.SkipOpenAPIInstallation = true
	c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	c.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	bearer := spec.SecuritySchemeProps{Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication"}
	c.OpenAPIConfig.SecurityDefinitions = &spec.SecurityDefinitions{"BearerToken": {SecuritySchemeProps: bearer}}
	c.OpenAPIV3Config.SecuritySchemes = spec3.SecuritySchemes{"BearerToken": {SecuritySchemeProps: spec3.SecuritySchemeProps{
		Type: bearer.Type, Name: bearer.Name, In: bearer.In, Description: bearer.Description,
	}}}
	c.OpenAPIConfig.Info.Title, c.OpenAPIV3Config.Info.Title = "Kubernetes", "Kubernetes"
	s.described = mux.NewPathRecorderMux("openapi")
	s.openAPIV2 = sync.OnceValues(func() (*handler.OpenAPIService, *spec.Swagger) {
		return routes.OpenAPI{Config: c.OpenAPIConfig}.InstallV2(s.generic.Handler.GoRestfulContainer, s.described)
	})
	s.openAPIV3 = sync.OnceValue(func() *handler3.OpenAPIService {
		// What is made writes into its definitions, and those of the configuration
		// are read for custom resources meanwhile.
		own := *c.OpenAPIV3Config
		own.Definitions = genericapiserver.DefaultOpenAPIV3Config(definitions, namer).Definitions
		return routes.OpenAPI{V3Config: &own}.InstallV3(s.generic.Handler.GoRestfulContainer, s.described)
	})
}

// describe serves the descriptions of the API.
func (s *Server) describe() {
	v2 := func(w http.ResponseWriter, r *http.Request) {
		s.openAPIV2()
		s.described.ServeHTTP(w, r)
	}
	v3 := func(w http.ResponseWriter, r *http.Request) {
		s.openAPIV3()
		s.described.ServeHTTP(w, r)
	}
	paths := s.generic.Handler.NonGoRestfulMux
	paths.HandleFunc("/openapi/v2", v2)
	paths.HandleFunc("/openapi/v3", v3)
	paths.HandlePrefix("/openapi/v3/", http.HandlerFunc(v3))
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
	return &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert, ClientCAs: s.config.PKI.Pool(),
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.config.PKI.Certificate("apiserver") },
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
