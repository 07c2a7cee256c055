// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

func newMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: map[string]string{"a": "1"}}
}

func TestPaging(t *testing.T) {
	namespace(t, "paging", nil)
	maps := admin.CoreV1().ConfigMaps("paging")
	for i := range 7 {
		if _, err := maps.Create(t.Context(), newMap(fmt.Sprintf("m%d", i), nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	o := metav1.ListOptions{Limit: 3}
	for first := true; first || o.Continue != ""; first = false {
		page, err := maps.List(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if first {
			if page.RemainingItemCount == nil || *page.RemainingItemCount != 4 {
				t.Errorf("remaining %v", page.RemainingItemCount)
			}
			// What comes later is not in the pages of this list.
			if _, err := maps.Create(t.Context(), newMap("m9", nil), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range page.Items {
			names = append(names, m.Name)
		}
		o.Continue = page.Continue
	}
	if want := "m0 m1 m2 m3 m4 m5 m6"; strings.Join(names, " ") != want {
		t.Errorf("pages hold %v, want %s", names, want)
	}
	_, err := maps.List(t.Context(), metav1.ListOptions{Limit: 3, Continue: "x"})
	if !apierrors.IsBadRequest(err) || !strings.HasPrefix(err.Error(), "invalid continue token: continue key is not valid") {
		t.Errorf("a broken continue: %v", err)
	}
}

func TestSelectors(t *testing.T) {
	p := newPod("selected")
	p.Labels = map[string]string{"app": "web", "tier": "front"}
	create(t, p, "n-selected")
	create(t, newPod("unselected"), "")
	list := func(o metav1.ListOptions) string {
		t.Helper()
		l, err := admin.CoreV1().Pods("default").List(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range l.Items {
			names = append(names, p.Name)
		}
		return strings.Join(names, " ")
	}
	for selector, want := range map[string]string{
		"metadata.name=selected": "selected", "spec.nodeName=n-selected": "selected", "spec.host=n-selected": "selected", "spec.nodeName=n-selected,status.phase=Running": "",
		"metadata.name=selected,status.phase!=Running,spec.restartPolicy=Always,spec.schedulerName=default-scheduler,spec.serviceAccountName=default,spec.hostNetwork=false,status.podIP=,status.nominatedNodeName=,metadata.namespace=default": "selected",
	} {
		if got := list(metav1.ListOptions{FieldSelector: selector}); got != want {
			t.Errorf("%s: %q, want %q", selector, got, want)
		}
	}
	for selector, want := range map[string]string{
		"app=web": "selected", "app in (web,db),tier": "selected", "app notin (db),tier!=back,app": "selected", "app=db": "", "app,!tier": "",
	} {
		if got := list(metav1.ListOptions{LabelSelector: selector}); got != want {
			t.Errorf("%s: %q, want %q", selector, got, want)
		}
	}
	for _, c := range []struct {
		list func(metav1.ListOptions) error
		want string
	}{
		{func(o metav1.ListOptions) error { _, err := admin.CoreV1().Pods("").List(t.Context(), o); return err }, `field label not supported: spec.color`},
		{func(o metav1.ListOptions) error {
			_, err := admin.CoreV1().ConfigMaps("").List(t.Context(), o)
			return err
		}, `"spec.color" is not a known field selector: only "metadata.name", "metadata.namespace"`},
	} {
		if err := c.list(metav1.ListOptions{FieldSelector: "spec.color=red"}); !apierrors.IsBadRequest(err) || err.Error() != c.want {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
}

func TestWatchList(t *testing.T) {
	namespace(t, "watched", nil)
	maps := admin.CoreV1().ConfigMaps("watched")
	for _, name := range []string{"a", "b"} {
		if _, err := maps.Create(t.Context(), newMap(name, nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w, err := maps.Watch(t.Context(), metav1.ListOptions{
		SendInitialEvents: ptr.To(true), AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	next := func() (string, *corev1.ConfigMap) {
		e, ok := <-w.ResultChan()
		if !ok {
			t.Fatal("the watch ended")
		}
		m, ok := e.Object.(*corev1.ConfigMap)
		if !ok {
			t.Fatalf("%s %v", e.Type, e.Object)
		}
		return string(e.Type), m
	}
	var initial []string
	for {
		kind, m := next()
		if kind == string(watch.Bookmark) {
			if m.Annotations[metav1.InitialEventsAnnotationKey] != "true" || m.ResourceVersion == "" {
				t.Errorf("the bookmark after the list: %+v", m.ObjectMeta)
			}
			break
		}
		initial = append(initial, kind+" "+m.Name)
	}
	if !slices.Equal(initial, []string{"ADDED a", "ADDED b"}) {
		t.Errorf("initial events %v", initial)
	}
	if err := maps.Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if kind, m := next(); kind != "DELETED" || m.Name != "a" {
		t.Errorf("then %s %s", kind, m.Name)
	}
}

// TestEventsAreNotCached: no second copy of every event is held for an hour,
// and those who watch get what is there all the same.
func TestEventsAreNotCached(t *testing.T) {
	namespace(t, "eventful", nil)
	events := admin.CoreV1().Events("eventful")
	made := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "eventful", Name: "p"}}
	if _, err := events.Create(t.Context(), made, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w, err := events.Watch(t.Context(), metav1.ListOptions{
		SendInitialEvents: ptr.To(true), AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, FieldSelector: "involvedObject.name=p",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for _, want := range []watch.EventType{watch.Added, watch.Bookmark} {
		if got := <-w.ResultChan(); got.Type != want {
			t.Errorf("%s %v, not %s", got.Type, got.Object, want)
		}
	}
	b, err := admin.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cached := func(resource string) bool {
		return strings.Contains(string(b), `watch_cache_resource_version{group="",resource="`+resource+`"}`)
	}
	if !cached("pods") || cached("events") {
		t.Errorf("pods are cached: %v, events: %v", cached("pods"), cached("events"))
	}
}

func TestBothWireFormatsHoldTheSame(t *testing.T) {
	p := create(t, newPod("wire"), "")
	read := func(contentType string) *corev1.Pod {
		c := server.ClientConfig("admin", "system:masters")
		c.ContentType, c.AcceptContentTypes = contentType, contentType
		client, err := kubernetes.NewForConfig(c)
		if err != nil {
			t.Fatal(err)
		}
		p.Labels = map[string]string{"by": strings.Trim(contentType[len("application/"):][:4], ".")}
		p.ResourceVersion = "" // whatever there is
		got, err := client.CoreV1().Pods("default").Update(t.Context(), p, metav1.UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got.ManagedFields, got.ResourceVersion, got.Labels = nil, "", nil
		return got
	}
	a, b := read("application/json"), read("application/vnd.kubernetes.protobuf")
	if fmt.Sprint(a) != fmt.Sprint(b) || a.Spec.Containers[0].Image != "busybox" {
		t.Errorf("JSON  %v\nproto %v", a, b)
	}
}

func TestNamesFinalizersAndConflicts(t *testing.T) {
	maps := admin.CoreV1().ConfigMaps("default")
	m := newMap("", nil)
	m.GenerateName, m.Finalizers, m.UID = "gen-", []string{"example.com/hold"}, "mine"
	got, err := maps.Create(t.Context(), m, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got.Name, "gen-") || len(got.Name) != len("gen-")+5 || got.UID == "mine" || len(got.UID) != 36 {
		t.Errorf("name %q, uid %q", got.Name, got.UID)
	}
	stale := got.DeepCopy()
	got.Data["a"] = "2"
	if got, err = maps.Update(t.Context(), got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = maps.Update(t.Context(), stale, metav1.UpdateOptions{})
	want := fmt.Sprintf(`Operation cannot be fulfilled on configmaps %q: the object has been modified; please apply your changes to the latest version and try again`, got.Name)
	if !apierrors.IsConflict(err) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	other := types.UID("other")
	err = maps.Delete(t.Context(), got.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "the UID in the precondition (other) does not match the UID in record ("+string(got.UID)+")") {
		t.Errorf("delete of another: %v", err)
	}
	if err := maps.Delete(t.Context(), got.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	held, err := maps.Get(t.Context(), got.Name, metav1.GetOptions{})
	if err != nil || held.DeletionTimestamp == nil {
		t.Fatalf("held by its finalizer: %v, %v", held, err)
	}
	held.Finalizers = nil
	if _, err := maps.Update(t.Context(), held, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(t.Context(), got.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("without its finalizer: %v", err)
	}
	_, err = maps.Create(t.Context(), newMap("twice", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = maps.Create(t.Context(), newMap("twice", nil), metav1.CreateOptions{}); err == nil || err.Error() != `configmaps "twice" already exists` {
		t.Errorf("a second of the name: %v", err)
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	all := []string{metav1.DryRunAll}
	pods := admin.CoreV1().Pods("default")
	if p, err := pods.Create(t.Context(), newPod("dry"), metav1.CreateOptions{DryRun: all}); err != nil || p.UID == "" || len(p.Spec.Volumes) != 1 {
		t.Errorf("a dry create answers as a real one: %v", err)
	}
	if _, err := pods.Get(t.Context(), "dry", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after a dry create: %v", err)
	}
	p := create(t, newPod("wet"), "")
	steps := map[string]func() error{
		"bind": func() error {
			return pods.Bind(t.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "wet"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, metav1.CreateOptions{DryRun: all})
		},
		"patch": func() error {
			_, err := pods.Patch(t.Context(), "wet", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{DryRun: all})
			return err
		},
		"evict": func() error { return evict(t, "wet", &metav1.DeleteOptions{DryRun: all}) },
		"delete": func() error {
			return pods.Delete(t.Context(), "wet", metav1.DeleteOptions{DryRun: all})
		},
		"delete all": func() error {
			return pods.DeleteCollection(t.Context(), metav1.DeleteOptions{DryRun: all}, metav1.ListOptions{FieldSelector: "metadata.name=wet"})
		},
	}
	for name, step := range steps {
		if err := step(); err != nil {
			t.Errorf("dry %s: %v", name, err)
		}
		if got, err := pods.Get(t.Context(), "wet", metav1.GetOptions{}); err != nil || got.ResourceVersion != p.ResourceVersion {
			t.Fatalf("a dry %s wrote: %v, %v", name, got.ObjectMeta, err)
		}
	}
}

func TestStrictFields(t *testing.T) {
	body := []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"strict"},"spec":{"containers":[{"name":"c","image":"i","imaeg":"j"}],"colour":"red","hostIPC":false,"hostIPC":false}}`)
	post := func(mode string) error {
		return admin.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Param("fieldValidation", mode).Param("dryRun", "All").SetHeader("Content-Type", "application/json").Body(body).Do(t.Context()).Error()
	}
	want := `Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.containers[0].imaeg", unknown field "spec.colour", duplicate field "spec.hostIPC"`
	if err := post("Strict"); !apierrors.IsBadRequest(err) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if err := post("Ignore"); err != nil {
		t.Errorf("ignored: %v", err)
	}
	client, warned := withWarnings(t)
	if err := client.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Param("dryRun", "All").SetHeader("Content-Type", "application/json").Body(body).Do(t.Context()).Error(); err != nil {
		t.Errorf("warned: %v", err)
	}
	if got := warned.take(); !slices.Contains(got, `unknown field "spec.colour"`) || !slices.Contains(got, `duplicate field "spec.hostIPC"`) {
		t.Errorf("warnings %q", got)
	}
}

func TestApply(t *testing.T) {
	maps := admin.CoreV1().ConfigMaps("default")
	apply := func(who, value string, force bool) (*corev1.ConfigMap, error) {
		return maps.Apply(t.Context(), applycorev1.ConfigMap("applied", "default").WithData(map[string]string{"key": value, who: "own"}), metav1.ApplyOptions{FieldManager: who, Force: force})
	}
	if _, err := apply("one", "1", false); err != nil {
		t.Fatal(err)
	}
	_, err := apply("two", "2", false)
	want := `Apply failed with 1 conflict: conflict with "one": .data.key`
	if !apierrors.IsConflict(err) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	got, err := apply("two", "2", true)
	if err != nil || got.Data["key"] != "2" || got.Data["one"] != "own" || len(got.ManagedFields) != 2 || got.ManagedFields[0].Operation != metav1.ManagedFieldsOperationApply {
		t.Errorf("forced: %v, %+v, %v", got.Data, got.ManagedFields, err)
	}
	// What a manager no longer applies, and no other owns, goes.
	got, err = maps.Apply(t.Context(), applycorev1.ConfigMap("applied", "default").WithData(map[string]string{"key": "3"}), metav1.ApplyOptions{FieldManager: "two"})
	if err != nil || got.Data["two"] != "" || got.Data["one"] != "own" {
		t.Errorf("applied without a key: %v, %v", got.Data, err)
	}
	pods := admin.CoreV1().Pods("default")
	create(t, newPod("patched"), "")
	for _, c := range []struct {
		kind  types.PatchType
		patch string
	}{
		{types.JSONPatchType, `[{"op":"add","path":"/metadata/labels","value":{"a":"json"}}]`},
		{types.MergePatchType, `{"metadata":{"labels":{"a":"merge"}}}`},
		{types.StrategicMergePatchType, `{"metadata":{"labels":{"a":"strategic"}},"spec":{"containers":[{"name":"c","image":"other"}]}}`},
	} {
		if _, err := pods.Patch(t.Context(), "patched", c.kind, []byte(c.patch), metav1.PatchOptions{}); err != nil {
			t.Errorf("%s: %v", c.kind, err)
		}
	}
	p, err := pods.Get(t.Context(), "patched", metav1.GetOptions{})
	if err != nil || p.Labels["a"] != "strategic" || p.Spec.Containers[0].Image != "other" || len(p.Spec.Containers) != 1 || p.Generation != 2 {
		t.Errorf("after three patches: %v, %v, generation %d, %v", p.Labels, p.Spec.Containers, p.Generation, err)
	}
	_, err = pods.Patch(t.Context(), "patched", types.MergePatchType, []byte(`{"spec":{"hostNetwork":true}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec: Forbidden: pod updates may not change fields other than") {
		t.Errorf("an immutable field: %v", err)
	}
}

// A Table is what kubectl prints.
func TestTables(t *testing.T) {
	create(t, newPod("printed"), "")
	var table metav1.Table
	raw(t, "/api/v1/namespaces/default/pods/printed", "application/json;as=Table;v=v1;g=meta.k8s.io", &table)
	var names []string
	for _, c := range table.ColumnDefinitions {
		names = append(names, c.Name)
	}
	if strings.Join(names, ",") != "Name,Ready,Status,Restarts,Age,IP,Node,Nominated Node,Readiness Gates" || len(table.Rows) != 1 || fmt.Sprint(table.Rows[0].Cells[:4]) != "[printed 0/1 Pending 0]" {
		t.Errorf("columns %v, rows %v", names, table.Rows)
	}
	var part metav1.PartialObjectMetadata
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(map[string]any{}, &part); err != nil {
		t.Fatal(err)
	}
	raw(t, "/api/v1/namespaces/default/pods/printed", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", &part)
	if part.Name != "printed" || part.Kind != "PartialObjectMetadata" {
		t.Errorf("metadata alone: %+v", part)
	}
}
