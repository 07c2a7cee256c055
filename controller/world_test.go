// SPDX-License-Identifier: Apache-2.0

package controller

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

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/auth"
	"github.com/peapod/peapod/volume"
)

// world is an API server with all controllers on it, but without a node or a
// scheduler: a process has room for one.
var world client.WithWatch

// worldConfig reaches it as a component of it.
var worldConfig *rest.Config

// folders are the world's volumes on the node n1.
var folders volume.Folders

func TestMain(m *testing.M) {
	code, err := withWorld(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withWorld(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "controller")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	klog.SetLogger(logr.Discard())
	ctrl.SetLogger(logr.Discard())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, pki, err := newServer(ctx, dir)
	if err != nil {
		return 1, err
	}
	done := make(chan error, 2)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-done:
		return 1, err
	}
	worldConfig = s.ClientConfig("system:kube-controller-manager", "system:masters")
	folders = volume.Folders{Root: dir + "/volumes"}
	manager, err := control(worldConfig, pki)
	if err == nil {
		world, err = client.NewWithWatch(worldConfig, client.Options{Scheme: clientscheme.Scheme})
	}
	if err != nil {
		return 1, err
	}
	loops, stop := context.WithCancel(ctx)
	go func() { done <- manager(loops) }()
	code = m.Run()
	stop()
	err = <-done
	cancel()
	return code, errors.Join(err, <-done)
}

func newServer(ctx context.Context, dir string) (s *apiserver.Server, pki *auth.PKI, err error) {
	pki, err = auth.EnsurePKI(dir+"/pki", auth.Names{Node: "n1"}, time.Now)
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	port := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	s, err = apiserver.New(ctx, apiserver.Config{
		DataDir: dir, Listen: []netip.AddrPort{port}, PKI: pki,
		Services: netip.MustParsePrefix("10.96.0.0/16"), Version: "v1.37.2", Log: slog.New(slog.DiscardHandler),
	})
	return s, pki, err
}

func control(config *rest.Config, pki *auth.PKI) (run func(context.Context) error, err error) {
	m, err := NewManager(config, logr.Discard())
	if err != nil {
		return nil, err
	}
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return m.Start, Add(m, Config{RootCA: pki.CAPEM, Issue: pki.Issue, Client: c, DNS: netip.MustParseAddr("10.96.0.10"), NodeName: "n1", Folders: &folders})
}

// space makes a namespace that goes with the test.
func space(t *testing.T) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	put(t, ns)
	return ns.Name
}

// put creates objects and deletes them when the test is over.
func put(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := world.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := world.Delete(context.Background(), o, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		})
	}
}

// until reads a list again after each change until it is so.
func until(t *testing.T, what string, list client.ObjectList, so func() bool, opts ...client.ListOption) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if err := world.List(ctx, list, opts...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if so() {
			return
		}
		w, err := world.Watch(ctx, list, append(opts, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}})...)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		_, more := <-w.ResultChan()
		w.Stop()
		if !more && ctx.Err() != nil {
			t.Fatalf("%s: not in time", what)
		}
	}
}
