// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// spy notes what is asked of one resource.
type spy struct {
	next http.RoundTripper
	path string

	mu    sync.Mutex // guards the fields below
	asked []url.Values
	lines []*line
}

func (s *spy) RoundTrip(q *http.Request) (*http.Response, error) {
	a, err := s.next.RoundTrip(q)
	if err != nil || q.Method != http.MethodGet || q.URL.Path != s.path {
		return a, err
	}
	l := &line{ReadCloser: a.Body}
	a.Body = l
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked, s.lines = append(s.asked, q.URL.Query()), append(s.lines, l)
	return a, nil
}

// line is an answer that may be cut off.
type line struct {
	io.ReadCloser
	lost atomic.Bool
}

func (l *line) Read(b []byte) (int, error) {
	n, err := l.ReadCloser.Read(b)
	if err != nil && l.lost.Load() {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// cut ends what is under way, as a lost connection does.
func (s *spy) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lines {
		l.lost.Store(true)
		l.Close()
	}
}

func (s *spy) requests() []url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]url.Values(nil), s.asked...)
}

// TestInformer: client-go's informer fills itself by a watch that begins with
// what is there (WatchList) and never lists; it goes on from where it was when
// its connection is lost.
func TestInformer(t *testing.T) {
	const many = 50
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig(t))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	writer := kubernetes.NewForConfigOrDie(config)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ns, err := writer.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "informer-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := writer.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	add := func(name string) {
		t.Helper()
		if _, err := writer.CoreV1().ConfigMaps(ns.Name).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"of": "test"}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range many {
		add(fmt.Sprintf("m%d", i))
	}

	s := &spy{path: "/api/v1/namespaces/" + ns.Name + "/configmaps"}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		s.next = next
		return s
	})
	f := informers.NewSharedInformerFactoryWithOptions(kubernetes.NewForConfigOrDie(config), 0, informers.WithNamespace(ns.Name),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = "of=test" }))
	seen := names(t, f.Core().V1().ConfigMaps().Informer())
	f.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), f.Core().V1().ConfigMaps().Informer().HasSynced) {
		t.Fatal("it does not fill itself")
	}
	if n := len(f.Core().V1().ConfigMaps().Informer().GetStore().List()); n != many {
		t.Errorf("it has %d of %d", n, many)
	}
	add("later")
	await(ctx, t, seen, "later")
	s.cut()
	add("after-the-cut")
	await(ctx, t, seen, "after-the-cut")
	for i, q := range s.requests() {
		if q.Get("watch") != "true" {
			t.Errorf("request %d is a list: %v", i, q)
		}
		if initial := q.Get("sendInitialEvents") == "true"; initial != (i == 0) {
			t.Errorf("request %d begins with what is there: %v, %v", i, initial, q)
		}
	}
}

// names hands out the names that an informer adds.
func names(t *testing.T, i cache.SharedIndexInformer) <-chan string {
	t.Helper()
	seen := make(chan string, 1000)
	if _, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(o any) { seen <- o.(*corev1.ConfigMap).Name }}); err != nil {
		t.Fatal(err)
	}
	return seen
}

func await(ctx context.Context, t *testing.T, seen <-chan string, name string) {
	t.Helper()
	for {
		select {
		case got := <-seen:
			if got == name {
				return
			}
		case <-ctx.Done():
			t.Fatalf("%s never comes", name)
		}
	}
}
