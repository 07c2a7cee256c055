// SPDX-License-Identifier: Apache-2.0

// Package world is an API server with controllers on it, but without a node or a
// scheduler, for the tests of the controllers: a process has room for one.
package world

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
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/auth"
	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/volume"
)

// Client speaks to the world's API server.
var Client client.WithWatch

// Config reaches it as a component of it.
var Config *rest.Config

// URL is where it listens, and Keys the folder of its keys.
var URL, Keys string

// Folders are the world's volumes on the node n1.
var Folders volume.Folders

// Main runs the tests of a package, and controllers beside them.
func Main(m *testing.M, controllers ...func(manager.Manager, loop.Config) error) {
	code, err := withWorld(m, controllers)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withWorld(m *testing.M, controllers []func(manager.Manager, loop.Config) error) (code int, err error) {
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
	Config = s.ClientConfig("system:kube-controller-manager", "system:masters")
	Folders = volume.Folders{Root: dir + "/volumes"}
	manager, err := control(Config, pki, controllers)
	if err == nil {
		Client, err = client.NewWithWatch(Config, client.Options{Scheme: clientscheme.Scheme})
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
	URL, Keys = "https://"+port.String(), dir+"/pki"
	l.Close()
	s, err = apiserver.New(ctx, apiserver.Config{
		DataDir: dir, Listen: []netip.AddrPort{port}, PKI: pki,
		Services: netip.MustParsePrefix("10.96.0.0/16"), Version: "v1.37.2", Log: slog.New(slog.DiscardHandler),
	})
	return s, pki, err
}

func control(config *rest.Config, pki *auth.PKI, controllers []func(manager.Manager, loop.Config) error) (run func(context.Context) error, err error) {
	m, err := loop.NewManager(config, logr.Discard())
	if err != nil {
		return nil, err
	}
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return m.Start, loop.Add(m, loop.Config{RootCA: pki.CAPEM, Issue: pki.Issue, Client: c, DNS: netip.MustParseAddr("10.96.0.10"), NodeName: "n1", Folders: &Folders}, controllers...)
}
