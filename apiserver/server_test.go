// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/auth"
)

// One server serves all tests of the package: the library allows one a process.
var (
	server *Server
	admin  kubernetes.Interface
)

func TestMain(m *testing.M) {
	run := func() (int, error) { return withServer(m) }
	if dir := os.Getenv(childEnv); dir != "" {
		run = func() (int, error) { return 0, child(dir) } // see restart_test.go
	}
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// start makes a server on dir and waits until it is ready. stop ends it.
func start(ctx context.Context, dir string, o *Options, etcd ...string) (s *Server, stop func() error, err error) {
	pki, err := auth.EnsurePKI(dir+"/pki", auth.Names{Node: "n1"}, time.Now)
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	port := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	ctx, cancel := context.WithCancel(ctx)
	s, err = New(ctx, Config{
		DataDir: dir, Listen: []netip.AddrPort{port}, Etcd: EtcdConfig{Endpoints: etcd}, PKI: pki,
		Services: netip.MustParsePrefix("10.96.0.0/16"), Version: "v1.37.2", Options: o, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		cancel()
		return nil, nil, err
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = func() error { cancel(); return <-done }
	select {
	case <-s.Ready():
		return s, stop, nil
	case err := <-done:
		cancel()
		return nil, nil, err
	}
}

func withServer(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "apiserver")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	var stop func() error
	if server, stop, err = start(ctx, dir, nil); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	admin, err = kubernetes.NewForConfig(server.ClientConfig("admin", "system:masters"))
	if err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func newPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "busybox"}}}}
}

// create makes a Pod, bound to a node when node is not empty, and removes it
// when the test is over.
func create(t *testing.T, p *corev1.Pod, node string) *corev1.Pod {
	t.Helper()
	pods := admin.CoreV1().Pods("default")
	got, err := pods.Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := pods.Delete(context.Background(), got.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	if node == "" {
		return got
	}
	if err := bind(t.Context(), got.Name, node); err != nil {
		t.Fatal(err)
	}
	got, err = pods.Get(t.Context(), got.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func bind(ctx context.Context, pod, node string) error {
	return admin.CoreV1().Pods("default").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}, metav1.CreateOptions{})
}

// No controller runs here: a server that is ready has what the first Pod of a
// system namespace needs.
func TestReadyMeansFirstObjects(t *testing.T) {
	for _, ns := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		if _, err := admin.CoreV1().ServiceAccounts(ns).Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
		m, err := admin.CoreV1().ConfigMaps(ns).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		if err != nil || m.Data["ca.crt"] != string(server.config.PKI.CAPEM) {
			t.Errorf("%s: %v, %v", ns, m.Data, err)
		}
	}
}

func TestPodIsDefaultedAndAdmitted(t *testing.T) {
	p := create(t, newPod("defaulted"), "")
	if p.Spec.RestartPolicy != corev1.RestartPolicyAlways || p.Spec.ServiceAccountName != "default" || *p.Spec.Priority != 0 || p.Generation != 1 {
		t.Errorf("spec is %+v", p.Spec)
	}
	if len(p.Spec.Tolerations) != 2 || len(p.Spec.Volumes) != 1 || p.Spec.Volumes[0].Projected == nil {
		t.Errorf("admission left tolerations %v, volumes %v", p.Spec.Tolerations, p.Spec.Volumes)
	}
	if p.Status.Phase != corev1.PodPending || p.Status.QOSClass != corev1.PodQOSBestEffort {
		t.Errorf("status is %+v", p.Status)
	}
}

func TestInvalidPodNamesItsFields(t *testing.T) {
	_, err := admin.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "Bad_Name"}}, metav1.CreateOptions{})
	want := `Pod "Bad_Name" is invalid: [metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*'), spec.containers: Required value]`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %v", err, want)
	}
}

func TestSecondBindIsAConflict(t *testing.T) {
	p := create(t, newPod("bound"), "n1")
	if p.Spec.NodeName != "n1" || p.Generation != 1 || len(p.Status.Conditions) != 1 || p.Status.Conditions[0].Type != corev1.PodScheduled {
		t.Errorf("after binding: node %q, generation %d, conditions %v", p.Spec.NodeName, p.Generation, p.Status.Conditions)
	}
	err := bind(t.Context(), "bound", "n2")
	if !apierrors.IsConflict(err) {
		t.Fatalf("second bind: %v", err)
	}
	if want := `Operation cannot be fulfilled on pods/binding "bound": pod bound is already assigned to node "n1"`; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

// TestTermination walks features.md 0.1 as far as the API server goes.
func TestTermination(t *testing.T) {
	pods := admin.CoreV1().Pods("default")
	del := func(name string, o metav1.DeleteOptions) error { return pods.Delete(t.Context(), name, o) }
	grace := func(n int64) metav1.DeleteOptions { return metav1.DeleteOptions{GracePeriodSeconds: &n} }
	get := func(name string) *corev1.Pod {
		t.Helper()
		p, err := pods.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Run("unscheduled goes at once", func(t *testing.T) {
		create(t, newPod("t0"), "")
		if err := del("t0", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := pods.Get(t.Context(), "t0", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("get after delete: %v", err)
		}
	})
	t.Run("scheduled is marked", func(t *testing.T) {
		create(t, newPod("t1"), "n1")
		if err := del("t1", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		p := get("t1")
		if *p.DeletionGracePeriodSeconds != 30 || p.Generation != 2 || time.Until(p.DeletionTimestamp.Time) < 25*time.Second {
			t.Errorf("grace %d, generation %d, deletion %v", *p.DeletionGracePeriodSeconds, p.Generation, p.DeletionTimestamp)
		}
		first := p.DeletionTimestamp
		if err := del("t1", grace(100)); err != nil {
			t.Fatal(err)
		}
		if p := get("t1"); !p.DeletionTimestamp.Equal(first) || *p.DeletionGracePeriodSeconds != 30 {
			t.Errorf("a longer grace moved the deletion to %v", p.DeletionTimestamp)
		}
		if err := del("t1", grace(5)); err != nil {
			t.Fatal(err)
		}
		if p := get("t1"); *p.DeletionGracePeriodSeconds != 5 || first.Sub(p.DeletionTimestamp.Time) != 25*time.Second {
			t.Errorf("shortened to %v, grace %d", p.DeletionTimestamp, *p.DeletionGracePeriodSeconds)
		}
		other := types.UID("other")
		if err := del("t1", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}}); !apierrors.IsConflict(err) {
			t.Errorf("delete with another UID: %v", err)
		}
	})
	t.Run("force is one update and the removal", func(t *testing.T) {
		create(t, newPod("t2"), "n1")
		w, err := pods.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=t2", ResourceVersion: get("t2").ResourceVersion})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		if err := del("t2", grace(0)); err != nil {
			t.Fatal(err)
		}
		var got []watch.EventType
		for e := range w.ResultChan() {
			got = append(got, e.Type)
			if e.Type == watch.Deleted {
				break
			}
			if p := e.Object.(*corev1.Pod); *p.DeletionGracePeriodSeconds != 0 {
				t.Errorf("update shows grace %d", *p.DeletionGracePeriodSeconds)
			}
		}
		if fmt.Sprint(got) != "[MODIFIED DELETED]" {
			t.Errorf("events %v", got)
		}
	})
	t.Run("negative is one", func(t *testing.T) {
		create(t, newPod("t3"), "n1")
		if err := del("t3", grace(-7)); err != nil {
			t.Fatal(err)
		}
		if p := get("t3"); *p.DeletionGracePeriodSeconds != 1 {
			t.Errorf("grace %d", *p.DeletionGracePeriodSeconds)
		}
	})
}

func TestTokensAndRBAC(t *testing.T) {
	account, err := admin.CoreV1().ServiceAccounts("default").Get(t.Context(), "default", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := server.Tokens().Sign(auth.Request{Account: account, Seconds: 600})
	if err != nil {
		t.Fatal(err)
	}
	r, ok, err := server.Tokens().AuthenticateToken(t.Context(), token)
	if err != nil || !ok || r.User.GetName() != "system:serviceaccount:default:default" {
		t.Fatalf("%v, %v, %v", r, ok, err)
	}
	if _, ok, _ := server.Tokens().AuthenticateToken(t.Context(), token[:len(token)-2]+"xx"); ok {
		t.Error("a token with another signature is accepted")
	}
	user, err := kubernetes.NewForConfig(server.ClientConfig("jane"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := user.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a user without roles: %v", err)
	}
}
