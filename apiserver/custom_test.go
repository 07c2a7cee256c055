// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// widgets is a definition with all that a definition can ask for.
func widgets(group string) *apiextensionsv1.CustomResourceDefinition {
	number, text := apiextensionsv1.JSONSchemaProps{Type: "integer", Format: "int32"}, apiextensionsv1.JSONSchemaProps{Type: "string"}
	number.Default = &apiextensionsv1.JSON{Raw: []byte("1")}
	spec := apiextensionsv1.JSONSchemaProps{
		Type: "object", Description: "what a widget is to be", Properties: map[string]apiextensionsv1.JSONSchemaProps{"replicas": number, "color": text},
		XValidations: apiextensionsv1.ValidationRules{{Rule: "self.replicas <= 5", Message: "no more than five"}},
	}
	status := apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"replicas": {Type: "integer", Format: "int32"}}}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets." + group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList", ShortNames: []string{"wg"}},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": spec, "status": status},
				}},
				Subresources: &apiextensionsv1.CustomResourceSubresources{
					Status: &apiextensionsv1.CustomResourceSubresourceStatus{},
					Scale:  &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.replicas", StatusReplicasPath: ".status.replicas"},
				},
				SelectableFields:         []apiextensionsv1.SelectableField{{JSONPath: ".spec.color"}},
				AdditionalPrinterColumns: []apiextensionsv1.CustomResourceColumnDefinition{{Name: "Color", Type: "string", JSONPath: ".spec.color"}},
			}},
		},
	}
}

// definitionIs waits until a definition is as meant; nil when it is gone.
func definitionIs(t *testing.T, crds clientset.Interface, name string, so func(*apiextensionsv1.CustomResourceDefinition) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		list, err := crds.ApiextensionsV1().CustomResourceDefinitions().List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err != nil {
			t.Fatal(err)
		}
		var d *apiextensionsv1.CustomResourceDefinition
		if len(list.Items) > 0 {
			d = &list.Items[0]
		}
		if so(d) {
			return
		}
		w, err := crds.ApiextensionsV1().CustomResourceDefinitions().Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			t.Fatal(err)
		}
		_, more := <-w.ResultChan()
		w.Stop()
		if !more {
			t.Fatalf("%s did not become what it was to be: %+v", name, d)
		}
	}
}

// defineWidgets serves them until the test is over.
func defineWidgets(t *testing.T, group string) dynamic.ResourceInterface {
	t.Helper()
	config := server.ClientConfig("admin", "system:masters")
	crds, err := clientset.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	d := widgets(group)
	if _, err := crds.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := crds.ApiextensionsV1().CustomResourceDefinitions().Delete(context.Background(), d.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
		definitionIs(t, crds, d.Name, func(d *apiextensionsv1.CustomResourceDefinition) bool { return d == nil })
	})
	definitionIs(t, crds, d.Name, func(d *apiextensionsv1.CustomResourceDefinition) bool {
		return d != nil && apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established) && apihelpers.IsCRDConditionTrue(d, apiextensionsv1.NamesAccepted)
	})
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "widgets"}).Namespace("default")
}

func widget(group, name string, spec map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	o.SetAPIVersion(group + "/v1")
	o.SetKind("Widget")
	o.SetName(name)
	return o
}

// A custom resource is held to its schema and has its parts.
func TestCustomResources(t *testing.T) {
	const group = "rules.example.com"
	all := defineWidgets(t, group)
	_, err := all.Create(t.Context(), widget(group, "many", map[string]any{"replicas": int64(6)}), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "no more than five") {
		t.Errorf("against a rule: %v", err)
	}
	_, err = all.Create(t.Context(), widget(group, "typo", map[string]any{"colour": "red"}), metav1.CreateOptions{FieldValidation: "Strict"})
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `unknown field "spec.colour"`) {
		t.Errorf("an unknown field: %v", err)
	}
	o := widget(group, "a", map[string]any{"color": "red"})
	o.Object["status"] = map[string]any{"replicas": int64(3)}
	got, err := all.Create(t.Context(), o, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n, _, _ := unstructured.NestedInt64(got.Object, "spec", "replicas"); n != 1 || got.Object["status"] != nil || got.GetGeneration() != 1 {
		t.Errorf("made: %v", got.Object)
	}
	got.Object["status"] = map[string]any{"replicas": int64(2)}
	if got, err = all.UpdateStatus(t.Context(), got, metav1.UpdateOptions{}); err != nil || got.GetGeneration() != 1 {
		t.Errorf("status: %v, %v", got, err)
	}
	scale, err := all.Patch(t.Context(), "a", types.MergePatchType, []byte(`{"spec":{"replicas":4}}`), metav1.PatchOptions{}, "scale")
	if err != nil || fmt.Sprint(scale.Object["spec"], scale.Object["status"]) != "map[replicas:4] map[replicas:2]" {
		t.Errorf("scaled: %v, %v", scale, err)
	}
	if got, err = all.Apply(t.Context(), "a", widget(group, "a", map[string]any{"color": "blue"}), metav1.ApplyOptions{FieldManager: "painter", Force: true}); err != nil || got.GetGeneration() != 3 {
		t.Errorf("applied: %v, %v", got, err)
	}
	for color, want := range map[string]int{"blue": 1, "red": 0} {
		list, err := all.List(t.Context(), metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.color", color).String()})
		if err != nil || len(list.Items) != want {
			t.Errorf("%s ones: %v, %v", color, list, err)
		}
	}
	raw, err := admin.CoreV1().RESTClient().Get().AbsPath("/apis/"+group+"/v1/namespaces/default/widgets").SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	var table metav1.Table
	if err == nil {
		err = json.Unmarshal(raw, &table)
	}
	if err != nil || len(table.Rows) != 1 || fmt.Sprint(table.Rows[0].Cells) != "[a blue]" {
		t.Errorf("table: %s, %v", raw, err)
	}
}

// What is defined is in every list of what there is, and described, until it is
// gone; without a definition nothing of it is left.
func TestCustomResourcesAreDiscovered(t *testing.T) {
	const group = "found.example.com"
	ask := func(path, accept string) string {
		t.Helper()
		raw, err := admin.CoreV1().RESTClient().Get().AbsPath(path).SetHeader("Accept", accept).DoRaw(t.Context())
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		return string(raw)
	}
	views := []struct{ path, accept, want string }{
		{"/apis", "application/json", `"name":"` + group + `"`},
		{"/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", group},
		{"/apis/" + group, "application/json", `"preferredVersion":{"groupVersion":"` + group + `/v1"`},
		{"/apis/" + group + "/v1", "application/json", `"widgets/scale"`},
		{"/openapi/v2", "application/json", "com.example.found.v1.Widget"},
		{"/openapi/v3", "application/json", "apis/" + group + "/v1"},
	}
	seen := func() (missing []string) {
		for _, v := range views {
			if !strings.Contains(ask(v.path, v.accept), v.want) {
				missing = append(missing, v.path+" as "+v.accept)
			}
		}
		return missing
	}
	t.Run("while defined", func(t *testing.T) {
		defineWidgets(t, group)
		eventually(t, "it is found", func() bool { return len(seen()) == 0 })
		if !strings.Contains(ask("/openapi/v3/apis/"+group+"/v1", "application/json"), "what a widget is to be") {
			t.Error("its description has no text")
		}
	})
	eventually(t, "it is gone", func() bool { return len(seen()) == len(views) })
	for _, v := range []struct{ path, want string }{{"/apis", "apiextensions.k8s.io/v1"}, {"/openapi/v2", "CustomResourceDefinition"}, {"/openapi/v3", "apis/apiextensions.k8s.io/v1"}} {
		if !strings.Contains(ask(v.path, "application/json"), v.want) {
			t.Errorf("%s has no %s", v.path, v.want)
		}
	}
}

// Names in one group are taken once.
func TestNamesOfCustomResourcesConflict(t *testing.T) {
	const group = "names.example.com"
	defineWidgets(t, group)
	crds, err := clientset.NewForConfig(server.ClientConfig("admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	d := widgets(group)
	d.Name, d.Spec.Names.Plural = "gadgets."+group, "gadgets"
	if _, err := crds.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := crds.ApiextensionsV1().CustomResourceDefinitions().Delete(context.Background(), d.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	definitionIs(t, crds, d.Name, func(d *apiextensionsv1.CustomResourceDefinition) bool {
		return d != nil && slices.ContainsFunc(d.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
			return c.Type == apiextensionsv1.NamesAccepted && c.Status == apiextensionsv1.ConditionFalse && strings.Contains(c.Message, "already in use")
		})
	})
}

// The first to ask for custom resources is answered at once, not told to come
// again while what holds them is made.
func TestFirstListOfCustomResources(t *testing.T) {
	for n := range 5 {
		group := fmt.Sprintf("first%d.example.com", n)
		defineWidgets(t, group)
		if _, err := admin.CoreV1().RESTClient().Get().AbsPath("/apis/" + group + "/v1/widgets").MaxRetries(0).DoRaw(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
