// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc/grpclog"

	"github.com/peapod/peapod/cri"
	"github.com/peapod/peapod/image"
	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/runtime"
	"github.com/peapod/peapod/sandbox"
)

// serveEtcd is an etcd cluster of one that is not Peapod's.
func serveEtcd(t *testing.T) (endpoint string) {
	t.Helper()
	at := func() url.URL { return url.URL{Scheme: "http", Host: "127.0.0.1:" + freePort(t)} }
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)) // it is loud when clients go
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.LogOutputs = t.TempDir(), "fatal", []string{"stderr"}
	client, peer := at(), at()
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster = c.Name + "=" + peer.String()
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return client.String()
}

// TestExternalEtcd: the state is in the user's etcd, and nowhere else.
func TestExternalEtcd(t *testing.T) {
	endpoint := serveEtcd(t)
	n := newLive(t, shortDir(t), 7)
	u := n.up("--etcd-endpoints", endpoint)
	n.do("kubectl", "create", "configmap", "kept", "--from-literal=a=b")
	if code := u.end(syscall.SIGTERM); code != 0 {
		t.Errorf("up ended with code %d", code)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	got, err := client.Get(t.Context(), "/registry/configmaps/default/kept")
	if err != nil || got.Count != 1 {
		t.Errorf("in etcd: %v, %v", got, err)
	}
	if out, err := exec.Command("find", n.dir, "-path", "*etcd*").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("etcd in the data folder: %s, %v", out, err)
	}
	// It outlives the data folder.
	n.do("down", "--purge")
	n.up("--etcd-endpoints", endpoint)
	if out := n.do("kubectl", "get", "configmap", "kept", "-o", "jsonpath={.data.a}"); out != "b" {
		t.Errorf("after down --purge: %q", out)
	}
}

// TestEtcdAway: the wait has an end, and the message says for what it was.
func TestEtcdAway(t *testing.T) {
	n := newLive(t, shortDir(t), 8)
	endpoint := "http://127.0.0.1:" + freePort(t)
	out, code := n.peapod(append(append([]string{"up"}, n.flags...), "--etcd-endpoints", endpoint)...)
	if code != 1 || !strings.HasPrefix(out, "peapod: cannot reach etcd at "+endpoint) {
		t.Errorf("code %d\n%s", code, out)
	}
	n.nothingLeft()
}

// serveRuntime serves CRI on a socket as any runtime of the user's would: it
// runs what it is told and knows no node.
func serveRuntime(t *testing.T, images io.Reader) (socket string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(filepath.Dir(shortDir(t)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	log := slog.New(slog.DiscardHandler)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	self, err := exec.LookPath("peapod")
	must(err)
	binary := filepath.Join(filepath.Dir(self), "peapod-keeper")
	store, err := image.Open(filepath.Join(dir, "images"), image.Options{Log: log})
	must(err)
	_, err = store.ImportStream(ctx, "", images)
	must(err)
	launcher, err := sandbox.Find(ctx, []string{"crun", "runc"}, filepath.Join(dir, "trial"), filepath.Join(dir, "oci"))
	must(err)
	k, err := keeper.Launch(ctx, keeper.Config{Binary: binary, Dir: filepath.Join(dir, "keeper")})
	must(err)
	netConfig := network.Config{Dir: filepath.Join(dir, "network"), Instance: "peapod-cri-test", PodCIDR: netip.MustParsePrefix("10.218.0.0/24"), Log: log}
	pods, err := network.Open(ctx, netConfig)
	must(err)
	r, err := runtime.New(ctx, runtime.Config{
		Dir: filepath.Join(dir, "runtime"), Version: "v0", Launchers: map[string]sandbox.Launcher{"": launcher}, Keeper: k,
		KeeperBinary: binary, Images: store, Network: pods, CgroupRoot: "/peapod-cri-test", Log: log,
	})
	must(err)
	socket = filepath.Join(dir, "cri.sock")
	ended := make(chan error, 2)
	go func() { ended <- r.Run(ctx) }()
	go func() { ended <- cri.Serve(ctx, socket, r) }()
	t.Cleanup(func() {
		err := r.Down(ctx)
		cancel()
		if err := errors.Join(err, <-ended, <-ended, k.Stop(context.WithoutCancel(ctx), true), network.Remove(context.Background(), netConfig), store.Close()); err != nil {
			t.Error(err)
		}
	})
	// Nothing tells when the socket is there.
	for {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
			return socket
		}
		if len(ended) > 0 {
			t.Fatal(<-ended)
		}
	}
}

// TestExternalRuntime: Pods on a CRI socket of the user's come, stay and go as
// on the built-in runtime.
func TestExternalRuntime(t *testing.T) {
	n := newLive(t, shortDir(t), 9)
	socket := serveRuntime(t, busyboxArchive(t))
	told := newFIFO(t)
	u := n.up("--runtime-endpoint", "unix://"+socket)
	n.sleeper(told, 30, true)
	id := n.containerID()
	if code := u.end(syscall.SIGTERM); code != 0 {
		t.Errorf("up ended with code %d", code)
	}
	// Its Pods are not lost to a change of mind.
	out, code := n.peapod(append([]string{"up"}, n.flags...)...)
	if want := fmt.Sprintf("peapod: the Pods of %s are on the runtime at %s; end them with `peapod down` before they can be started on the built-in runtime\n", n.dir, socket); code != 1 || out != want {
		t.Errorf("up with another runtime: code %d, %q, want %q", code, out, want)
	}
	n.up("--runtime-endpoint", socket)
	if again := n.containerID(); again != id {
		t.Errorf("after another up the container is %s, was %s", again, id)
	}
	heard := make(chan string, 1)
	go func() { heard <- told.hear() }()
	n.do("down")
	if said := <-heard; said != "term" {
		t.Errorf("the container said %q at the end", said)
	}
	n.nothingLeft()
	u = n.up() // the built-in runtime may have the Pod now
	if said := told.hear(); said != "started" {
		t.Errorf("the container said %q", said)
	}
	u.end(syscall.SIGTERM)
	n.do("down", "--purge", "--grace=1s")
}

// TestNoRuntime: a socket that is not there, and one that speaks of other
// things.
func TestNoRuntime(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other.sock")
	l, err := net.Listen("unix", other)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "220 mail.example.com ready\r\n")
			c.Close()
		}
	}()
	n := newLive(t, shortDir(t), 10)
	for socket, want := range map[string]string{
		filepath.Join(dir, "missing.sock"): "no such file or directory",
		other:                              "it does not speak CRI v1: ",
	} {
		out, code := n.peapod(append(append([]string{"up"}, n.flags...), "--runtime-endpoint", "unix://"+socket)...)
		if code != 1 || !strings.HasPrefix(out, "peapod: cannot use the container runtime at "+socket+": ") || !strings.Contains(out, want) || strings.Count(out, "\n") != 1 {
			t.Errorf("%s: code %d\n%s", socket, code, out)
		}
		n.nothingLeft()
	}
}
