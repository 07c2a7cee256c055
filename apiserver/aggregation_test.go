// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	"k8s.io/utils/ptr"
)

// extensionServer serves ext.example.com/v1: a resource that says who asks, by
// the headers and by the certificate of who hands the request over.
func extensionServer(t *testing.T) (port int32) {
	t.Helper()
	paths := http.NewServeMux()
	say := func(path, contentType, body string) {
		paths.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			fmt.Fprint(w, body)
		})
	}
	say("/apis", aggregatedDiscovery, `{"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": [{"metadata": {"name": "ext.example.com"}, "versions": [{"version": "v1", "resources": [{"resource": "things", "scope": "Namespaced", "singularResource": "thing", "verbs": ["get"]}]}]}]}`)
	say("/apis/ext.example.com/v1", "application/json", `{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "ext.example.com/v1", "resources": []}`)
	say("/openapi/v3", "application/json", `{"paths": {"apis/ext.example.com/v1": {"serverRelativeURL": "/openapi/v3/apis/ext.example.com/v1?hash=A"}, "version": {"serverRelativeURL": "/openapi/v3/version?hash=B"}}}`)
	say("/openapi/v3/apis/ext.example.com/v1", "application/json", `{"openapi": "3.0.0", "info": {"title": "things"}}`)
	say("/openapi/v2", "application/json", `{"swagger": "2.0", "info": {"title": "things", "version": "1"}, "paths": {"/apis/ext.example.com/v1/things": {}, "/elsewhere": {}}}`)
	paths.HandleFunc("/apis/ext.example.com/v1/things", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s for %s of %s", r.TLS.PeerCertificates[0].Subject.CommonName, r.Header.Get("X-Remote-User"), r.Header["X-Remote-Group"])
	})
	s := httptest.NewUnstartedServer(paths)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	return int32(s.Listener.Addr().(*net.TCPAddr).Port)
}

// awaitCondition waits until an APIService says of itself.
func awaitCondition(t *testing.T, name, reason, message string) {
	t.Helper()
	w, err := server.aggregation.client.ApiregistrationV1().APIServices().Watch(t.Context(), named(name))
	await(t, w, err, func(a *apiregistrationv1.APIService) bool {
		if a == nil {
			return false
		}
		c := helper.GetAPIServiceConditionByType(a, apiregistrationv1.Available)
		return c != nil && c.Reason == reason && c.Message == message
	})
}

func TestExtensionServers(t *testing.T) {
	services := server.aggregation.client.ApiregistrationV1().APIServices()
	changed := make(chan struct{}, 1)
	server.generic.AggregatedDiscoveryGroupManager.AddInvalidationCallback(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	const name = "v1.ext.example.com"
	_, err := services.Create(t.Context(), &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: apiregistrationv1.APIServiceSpec{
		Group: "ext.example.com", Version: "v1", GroupPriorityMinimum: 2000, VersionPriority: 200, InsecureSkipTLSVerify: true,
		Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "ext", Port: ptr.To(extensionServer(t))},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := services.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	awaitCondition(t, name, "ServiceNotFound", `service/ext in "default" is not present`)
	get := func(path, accept string) (string, error) {
		b, err := admin.Discovery().RESTClient().Get().AbsPath(path).SetHeader("Accept", accept).Do(t.Context()).Raw()
		return string(b), err
	}
	if _, err := get("/apis/ext.example.com/v1/things", "*/*"); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("without its Service: %v", err)
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "ext"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"}}
	if _, err := admin.CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin.CoreV1().Services("default").Delete(context.Background(), "ext", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	awaitCondition(t, name, "Passed", "all checks passed")
	versions := func() (found []apidiscovery.APIVersionDiscovery) {
		var list apidiscovery.APIGroupDiscoveryList
		raw(t, "/apis", aggregatedDiscovery, &list)
		for _, g := range list.Items {
			if g.Name == "ext.example.com" {
				found = g.Versions
			}
		}
		return found
	}
	for {
		v := versions()
		if len(v) == 1 && v[0].Freshness == apidiscovery.DiscoveryFreshnessCurrent && len(v[0].Resources) == 1 && v[0].Resources[0].Resource == "things" {
			break
		}
		<-changed
	}
	if said, err := get("/apis/ext.example.com/v1/things", "*/*"); err != nil || said != "front-proxy-client for admin of [system:masters system:authenticated]" {
		t.Errorf("it said %q, %v", said, err)
	}
	var group metav1.APIGroup
	raw(t, "/apis/ext.example.com", "application/json", &group)
	var groups metav1.APIGroupList
	raw(t, "/apis", "application/json", &groups)
	if group.PreferredVersion.GroupVersion != "ext.example.com/v1" || !slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == group.Name }) {
		t.Errorf("group %v, all %v", group, groups)
	}
	for _, c := range []struct{ path, has, hasNot string }{
		{"/openapi/v3", `"apis/ext.example.com/v1":`, `openapi/v3/version?hash=B`},
		{"/openapi/v3", `"apis/apps/v1":`, `"things"`},
		{"/openapi/v3/apis/ext.example.com/v1", `"title": "things"`, "Kubernetes"},
		{"/openapi/v2", `"/apis/ext.example.com/v1/things"`, `"/elsewhere"`},
		{"/openapi/v2", `"/apis/apps/v1/deployments"`, `"/elsewhere"`},
	} {
		if said, err := get(c.path, "application/json"); err != nil || !strings.Contains(said, c.has) || strings.Contains(said, c.hasNot) {
			t.Errorf("%s without %s or with %s, %v: %.200s", c.path, c.has, c.hasNot, err, said)
		}
	}
	if err := services.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for len(versions()) > 0 {
		<-changed
	}
	if _, err := get("/apis/ext.example.com/v1/things", "*/*"); !apierrors.IsNotFound(err) {
		t.Errorf("after its end: %v", err)
	}
	if _, err := get("/apis/ext.example.com", "application/json"); !apierrors.IsNotFound(err) {
		t.Errorf("the group after its end: %v", err)
	}
}

// What is served here is registered, and so are custom resources for as long as
// they are defined.
func TestLocalAPIServices(t *testing.T) {
	local := func(name string) {
		awaitCondition(t, name, "Local", "Local APIServices are always available")
	}
	for _, gv := range server.groupVersions() {
		if gv != apiregistrationv1.SchemeGroupVersion {
			local(gv.Version + "." + gv.Group)
		}
	}
	const name = "v1.registered.example.com"
	t.Run("custom", func(t *testing.T) {
		defineWidgets(t, "registered.example.com")
		local(name)
	})
	w, err := server.aggregation.client.ApiregistrationV1().APIServices().Watch(t.Context(), named(name))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for {
		if _, err := server.aggregation.client.ApiregistrationV1().APIServices().Get(t.Context(), name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			return
		}
		<-w.ResultChan()
	}
}

// Extension servers are told how they know this one, by what only it can show.
func TestExtensionServersAreTold(t *testing.T) {
	w, err := admin.RbacV1().RoleBindings("kube-system").Watch(t.Context(), named("system::extension-apiserver-authentication-reader"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	<-w.ResultChan() // the last of what is made
	m, err := admin.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	if err := json.Unmarshal([]byte(m.Data["requestheader-allowed-names"]), &names); err != nil || !slices.Equal(names, []string{"front-proxy-client"}) {
		t.Errorf("allowed names %q: %v", m.Data["requestheader-allowed-names"], err)
	}
	if m.Data["client-ca-file"] != string(server.config.PKI.CAPEM) || m.Data["requestheader-client-ca-file"] == "" || m.Data["requestheader-client-ca-file"] == m.Data["client-ca-file"] {
		t.Errorf("authorities: %v", m.Data)
	}
}
