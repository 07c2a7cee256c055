// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	wire "k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
)

// Whatever comes in, the answer is one that blames the client: no panic, and no
// error of the server. Nothing is written.

// libraryFault is what the API library says of some patches that contradict
// themselves, under the code of an internal error, as in kube-apiserver.
func libraryFault(said []byte) bool {
	var status metav1.Status
	return json.Unmarshal(said, &status) == nil && status.Status == metav1.StatusFailure && status.Message != ""
}

// fuzzed sends a request as the administrator and judges the answer.
func fuzzed(t *testing.T, method, path, contentType, body string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, "http://in-memory"+path, strings.NewReader(body))
	if err != nil {
		return // no client can ask that
	}
	q.Header.Set("Content-Type", contentType)
	r, err := server.ClientConfig("admin", "system:masters").Transport.RoundTrip(q)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer r.Body.Close()
	said, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode >= http.StatusInternalServerError && !(method == http.MethodPatch && libraryFault(said)) {
		t.Errorf("%s %s, %s %q: %s, %v: %s", method, path, contentType, body, r.Status, err, said)
	}
}

// pick is one of some words, by any number.
func pick(words []string, n uint8) string { return words[int(n)%len(words)] }

// encodings are what bodies come in, and dialects what patches come in.
var (
	encodings = []string{"application/json", "application/yaml", protobuf, "application/cbor"}
	dialects  = []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType)}
)

func FuzzBodies(f *testing.F) {
	collections := []string{
		"/api/v1/namespaces/default/pods", "/apis/apps/v1/namespaces/default/deployments", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
		"/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
		"/apis/apiregistration.k8s.io/v1/apiservices", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
		"/apis/authentication.k8s.io/v1/tokenreviews",
	}
	pod := newPod("fuzz")
	pod.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "Pod"})
	var binary strings.Builder
	if err := wire.NewSerializer(clientscheme.Scheme, clientscheme.Scheme).Encode(pod, &binary); err != nil {
		f.Fatal(err)
	}
	for _, body := range []string{
		"", "{", "null", "[]", "a: &a [*a]", "k8s\x00", "k8s\x00\n\x05\n\x02v1\x12\x03Pod", "\xd9\xd9\xf7\xa0",
		binary.String(), binary.String()[:len(binary.String())/2],
		`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1e99999999"}}}]}}`,
		`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": ` + strings.Repeat("[", 5000) + `}}`,
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}}}",
		definitionBody(`{"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string", "pattern": "("}}}}`),
		definitionBody(`{"type": "object", "x-kubernetes-validations": [{"rule": "self.a.all(x, self.a.all(y, self.a.all(z, x == y && y == z)))"}], "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}`),
		definitionBody(`{"x-kubernetes-preserve-unknown-fields": true, "not": {"not": {"allOf": [{"$ref": "#/a"}]}}}`),
		`{"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.a.b"}, "spec": {"group": "a.b", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1, "service": {}}}`,
		`{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}, "spec": {"validations": [{"expression": "object.spec.matches('(')"}], "matchConstraints": {"resourceRules": []}}}`,
		`{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "eyJhbGciOiJub25lIn0.e30."}}`,
	} {
		for encoding := range encodings {
			for collection := range collections {
				f.Add(uint8(collection), uint8(encoding), body)
			}
		}
	}
	f.Fuzz(func(t *testing.T, collection, encoding uint8, body string) {
		fuzzed(t, http.MethodPost, pick(collections, collection)+"?dryRun=All", pick(encodings, encoding), body)
	})
}

// definitionBody is a definition of a resource with a schema.
func definitionBody(schema string) string {
	return `{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "as.fuzz.example.com"}, "spec": {"group": "fuzz.example.com", "scope": "Cluster",
		"names": {"plural": "as", "kind": "A"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": ` + schema + `}}]}}`
}

func FuzzPatches(f *testing.F) {
	const name = "fuzz-patches"
	if _, err := admin.CoreV1().Services("default").Create(f.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := admin.CoreV1().Services("default").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			f.Error(err)
		}
	})
	for _, body := range []string{
		"", "null", "{}", "[]", "{", `[{"op": "add", "path": "/metadata/labels/a", "value": "b"}]`, `[{"op": "remove", "path": "/spec/ports/7"}]`, `[{"op": "copy", "from": "/spec", "path": "/spec/ports/0"}]`,
		`[{"op": "test", "path": "", "value": 1}]`, `[{"op": "move", "from": "/a", "path": "/a/b"}]`, `[{"op": "replace", "path": "/~2", "value": null}]`, `[{}]`, `[null]`,
		`{"spec": {"ports": [{"port": 80, "name": "a"}, {"$patch": "delete", "port": 80}]}}`, `{"spec": {"$setElementOrder/ports": [{"port": 1}], "ports": [{"port": 2}]}}`, `{"spec": {"$retainKeys": [1]}}`,
		`{"spec": {"$deleteFromPrimitiveList/externalIPs": ["1"]}}`, `{"$patch": "odd"}`, `{"metadata": null, "spec": {"ports": 3}}`,
		"apiVersion: v1\nkind: Service\nmetadata: {name: fuzz-patches}\nspec: {ports: [{port: 80, protocol: TCP}, {port: 80, protocol: TCP}]}", "apiVersion: v2\nkind: Service", "a: &a [*a]",
	} {
		for dialect := range dialects {
			f.Add(uint8(dialect), body)
		}
	}
	f.Fuzz(func(t *testing.T, dialect uint8, body string) {
		fuzzed(t, http.MethodPatch, "/api/v1/namespaces/default/services/"+name+"?dryRun=All&fieldManager=fuzz", pick(dialects, dialect), body)
	})
}

func FuzzSelectors(f *testing.F) {
	for _, s := range []string{"", "a", "!a", "a=b", "a in (b,c)", "a notin ()", "a=,b", "a>1", "a<x", "(", "a in (", "a==b==c", "=", ",,", "metadata.name=a", "spec.nodeName!=b", "metadata.name", `a\,b=c`, "\x00", "é=ü"} {
		f.Add(s, s)
		f.Add(s, "")
	}
	f.Fuzz(func(t *testing.T, labels, fields string) {
		q := url.Values{"labelSelector": {labels}, "fieldSelector": {fields}, "limit": {"1"}}
		for _, path := range []string{"/api/v1/pods", "/apis/apps/v1/deployments"} {
			fuzzed(t, http.MethodGet, path+"?"+q.Encode(), "", "")
		}
	})
}
