// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

// TestPodsAreAResource: S1, S96f. The API's list of what Pods have is that of
// Kubernetes 1.37, and containers are no objects.
func TestPodsAreAResource(t *testing.T) {
	t.Parallel()
	var got, want metav1.APIResourceList
	if err := json.Unmarshal([]byte(must(t, "get", "--raw", "/api/v1")), &got); err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile("testdata/pods-discovery.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(golden, &want); err != nil {
		t.Fatal(err)
	}
	got.APIResources = slices.DeleteFunc(got.APIResources, func(r metav1.APIResource) bool {
		name, _, _ := strings.Cut(r.Name, "/")
		return name != "pods"
	})
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("discovery of pods:\n%s", d)
	}
	resources := must(t, "api-resources", "-o", "name")
	if !strings.Contains(resources, "pods\n") || strings.Contains(resources, "containers") {
		t.Errorf("api-resources:\n%s", resources)
	}
}

// TestExplain: S96g. Each field of the Pod's specification is explained.
func TestExplain(t *testing.T) {
	t.Parallel()
	text := must(t, "explain", "pod.spec", "--recursive")
	missing := 0
	var walk func(reflect.Type, int)
	walk = func(ty reflect.Type, depth int) {
		for i := range ty.NumField() {
			f := ty.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			inner := f.Type
			for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
				inner = inner.Elem()
			}
			ours := inner.Kind() == reflect.Struct && inner.PkgPath() == "k8s.io/api/core/v1"
			if name == "" {
				if ours {
					walk(inner, depth)
				}
				continue
			}
			if !strings.Contains(text, "\n"+strings.Repeat("  ", depth)+name+"\t<") {
				t.Errorf("explain does not have %s at depth %d", name, depth)
				missing++
			}
			if ours && missing < 10 {
				walk(inner, depth+1)
			}
		}
	}
	walk(reflect.TypeFor[corev1.PodSpec](), 1)
	if one := must(t, "explain", "pod.spec.terminationGracePeriodSeconds"); !strings.Contains(one, "FIELD: terminationGracePeriodSeconds <integer>") || !strings.Contains(one, "Defaults to 30 seconds.") {
		t.Errorf("explain of one field:\n%s", one)
	}
}

// TestIdentityIsTheServers: S23, S24. A UID is the server's, a node is given
// once.
func TestIdentityIsTheServers(t *testing.T) {
	t.Parallel()
	pods := c.client.CoreV1().Pods("default")
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "bound-", UID: "11111111-2222-3333-4444-555555555555"}}
	p.Spec = corev1.PodSpec{SchedulerName: "nobody", Containers: []corev1.Container{{Name: "c", Image: image, Command: []string{"sleep", "1000"}}}, TerminationGracePeriodSeconds: ptr.To(int64(1))}
	p, err := pods.Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	removeLater(t, "pod/"+p.Name)
	if p.UID == "11111111-2222-3333-4444-555555555555" || len(p.UID) != 36 || !strings.HasPrefix(p.Name, "bound-") {
		t.Errorf("uid %s, name %s", p.UID, p.Name)
	}
	bind := func() error {
		return pods.Bind(t.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}, metav1.CreateOptions{})
	}
	if err := bind(); err != nil {
		t.Fatal(err)
	}
	await(t, p.Name, "runs where it was bound", ready)
	if err := bind(); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "pod "+p.Name+" is already assigned to node \"n1\"") {
		t.Errorf("a second bind: %v", err)
	}
}

// TestGeneralMachinery: K1, K2. Pages, watches, patches that conflict, dry
// runs, finalizers, field owners, preconditions.
func TestGeneralMachinery(t *testing.T) {
	t.Parallel()
	maps := c.client.CoreV1().ConfigMaps("default")
	for i := range 5 {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("page-%d", i), Labels: map[string]string{"page": "yes"}}}
		if _, err := maps.Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	removeLater(t, "configmap", "-l", "page=yes")
	var names []string
	o := metav1.ListOptions{LabelSelector: "page=yes", Limit: 2}
	for {
		list, err := maps.List(t.Context(), o)
		if err != nil || len(list.Items) > 2 {
			t.Fatalf("%d items, %v", len(list.Items), err)
		}
		for _, m := range list.Items {
			names = append(names, m.Name)
		}
		if o.Continue = list.Continue; o.Continue == "" {
			break
		}
	}
	if want := []string{"page-0", "page-1", "page-2", "page-3", "page-4"}; !slices.Equal(names, want) {
		t.Errorf("pages hold %v", names)
	}
	// WatchList: first what is there, then a bookmark that says so, then news.
	w, err := maps.Watch(t.Context(), metav1.ListOptions{LabelSelector: "page=yes", SendInitialEvents: ptr.To(true), AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for range 5 {
		if e := <-w.ResultChan(); e.Type != watch.Added {
			t.Fatalf("an initial event is %s %+v", e.Type, e.Object)
		}
	}
	if e := <-w.ResultChan(); e.Type != watch.Bookmark || e.Object.(*corev1.ConfigMap).Annotations[metav1.InitialEventsAnnotationKey] != "true" {
		t.Errorf("after the initial events came %s %+v", e.Type, e.Object)
	}
	if out := must(t, "patch", "configmap", "page-0", "-p", `{"data":{"dry":"run"}}`, "--dry-run=server", "-o", "jsonpath={.data.dry}"); out != "run" {
		t.Errorf("a dry run answers %q", out)
	}
	must(t, "patch", "configmap", "page-0", "-p", `{"metadata":{"finalizers":["example.com/hold"],"labels":{"wet":"run"}}}`)
	if e := <-w.ResultChan(); e.Type != watch.Modified || e.Object.(*corev1.ConfigMap).Data["dry"] != "" || e.Object.(*corev1.ConfigMap).Labels["wet"] != "run" {
		t.Errorf("the watch says %s %+v", e.Type, e.Object)
	}
	must(t, "delete", "configmap", "page-0", "--wait=false")
	held, err := maps.Get(t.Context(), "page-0", metav1.GetOptions{})
	if err != nil || held.DeletionTimestamp == nil {
		t.Errorf("a finalizer does not hold: %v", err)
	}
	must(t, "patch", "configmap", "page-0", "--type=json", "-p", `[{"op":"remove","path":"/metadata/finalizers"}]`)
	must(t, "wait", "--for=delete", "configmap/page-0", "--timeout=30s")
	// Server-side apply: a field has one owner, unless forced.
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: page-3}\ndata: {owner: %s}\n"
	if out, err := kubectlIn(t, fmt.Sprintf(manifest, "one"), "apply", "--server-side", "--field-manager=one", "-f", "-"); err != nil {
		t.Errorf("%v %s", err, out)
	}
	if out, err := kubectlIn(t, fmt.Sprintf(manifest, "two"), "apply", "--server-side", "--field-manager=two", "-f", "-"); err == nil || !strings.Contains(out, `conflict with "one": .data.owner`) {
		t.Errorf("a conflict: %v %s", err, out)
	}
	if out, err := kubectlIn(t, fmt.Sprintf(manifest, "two"), "apply", "--server-side", "--force-conflicts", "--field-manager=two", "-f", "-"); err != nil {
		t.Errorf("%v %s", err, out)
	}
	// An update of what has changed meanwhile is refused.
	stale, err := maps.Get(t.Context(), "page-4", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	must(t, "label", "configmap", "page-4", "newer=yes")
	if _, err := maps.Update(t.Context(), stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("a stale update: %v", err)
	}
	if err := maps.Delete(t.Context(), "page-4", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: ptr.To(types.UID("other"))}}); !apierrors.IsConflict(err) {
		t.Errorf("a delete of another uid: %v", err)
	}
}

// TestNamespaceEnds: K4, S18. A namespace goes with all it holds; its label
// says which Pods it takes.
func TestNamespaceEnds(t *testing.T) {
	t.Parallel()
	must(t, "create", "namespace", "ends")
	removeLater(t, "namespace/ends")
	must(t, "create", "configmap", "x", "-n", "ends", "--from-literal=a=b")
	must(t, "run", "p", "-n", "ends", "--image="+image, "--command", "--", "sh", "-c", "trap 'exit 0' TERM; while :; do usleep 50000; done")
	must(t, "wait", "-n", "ends", "--for=condition=Ready", "pod/p", "--timeout=60s")
	must(t, "label", "ns", "ends", "pod-security.kubernetes.io/enforce=baseline")
	out, err := kubectlIn(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: ipc, namespace: ends}\nspec: {hostIPC: true, containers: [{name: c, image: "+image+"}]}\n", "apply", "-f", "-")
	if err == nil || !strings.Contains(out, `pods "ipc" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostIPC=true)`) {
		t.Errorf("hostIPC in a baseline namespace: %v %s", err, out)
	}
	uid := must(t, "get", "pod", "p", "-n", "ends", "-o", "jsonpath={.metadata.uid}")
	must(t, "delete", "namespace", "ends", "--timeout=50s")
	if left := leftovers(t, types.UID(uid)); len(left) > 0 {
		t.Errorf("left of the namespace's pod: %v", left)
	}
	if out, err := kubectl(t, "get", "configmap", "x", "-n", "ends"); err == nil {
		t.Errorf("left in the namespace: %s", out)
	}
}

// TestWatchLines: S1. get -w tells a life in lines.
func TestWatchLines(t *testing.T) {
	t.Parallel()
	// A list, which may be empty: of one Pod kubectl drops the first thing it hears,
	// and by then the Pod may run already.
	w := c.command(t.Context(), "get", "pods", "--field-selector", "metadata.name=watched", "-w", "--no-headers")
	out, err := w.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = w.Process.Kill() // it watches until it is ended
		_ = w.Wait()
	}()
	// A watch that never says it is ended, and with it its lines.
	late := time.AfterFunc(patience, func() { _ = w.Process.Kill() })
	defer late.Stop()
	lines := bufio.NewScanner(out)
	until := func(want string) {
		t.Helper()
		var seen []string
		for lines.Scan() {
			if seen = append(seen, lines.Text()); strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Fatalf("no %s in\n%s", want, strings.Join(seen, "\n"))
	}
	apply(t, "watched", "terminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: "+image+", command: [sh, -c, \"trap 'exit 0' TERM; while :; do usleep 50000; done\"]}]\n")
	until("Running")
	must(t, "delete", "pod", "watched")
	until("Terminating")
}
