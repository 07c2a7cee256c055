// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// ownEtcd is an etcd as a user may have one.
func ownEtcd(t *testing.T) (endpoint string) {
	t.Helper()
	c := embed.NewConfig()
	c.Dir, c.LogLevel = t.TempDir(), "fatal"
	local := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	c.ListenClientUrls, c.ListenPeerUrls = []url.URL{local}, []url.URL{local}
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return "http://" + e.Clients[0].Addr().String()
}

// What was acknowledged before a snapshot is in it, in the middle of a storm of
// writes, and what is restored counts on from where nobody has been.
func TestASnapshotIsAWholeCluster(t *testing.T) {
	for _, c := range []struct {
		name string
		env  func(*testing.T) []string
	}{
		{"in process", func(*testing.T) []string { return nil }},
		{"the user's etcd", func(t *testing.T) []string { return []string{childEtcd + "=" + ownEtcd(t)} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			p := connect(t, dir, spawn(t, dir, c.env(t)...))
			made := p.read(t, "made", 40)
			b, err := p.CoreV1().RESTClient().Get().AbsPath(SnapshotPath).DoRaw(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p.read(t, "made", 10) // the storm goes on
			after, err := p.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			p.end(t)
			again := t.TempDir()
			file := filepath.Join(again, "snapshot")
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := RestoreEtcd(file, filepath.Join(again, "etcd")); err != nil {
				t.Fatal(err)
			}
			q := connect(t, again, spawn(t, again, childFlags+"="))
			found := q.read(t, "found", 0)
			for _, name := range made {
				if !slices.Contains(found, name) {
					t.Errorf("%s is not in the snapshot", name)
				}
			}
			if len(found) >= len(after.Items) {
				t.Errorf("%d objects, of a time at which there were fewer than %d", len(found), len(after.Items))
			}
			now, err := q.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if was, is := revision(t, after.ResourceVersion), revision(t, now.ResourceVersion); is <= was {
				t.Errorf("the restored cluster is at %d, and %d has been seen", is, was)
			}
			if _, err := q.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{ResourceVersion: after.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact}); !apierrors.IsResourceExpired(err) {
				t.Errorf("a list of a revision that the restored cluster has never had: %v", err)
			}
		})
	}
}

func revision(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A snapshot has every Secret: nobody but an administrator gets one.
func TestSnapshotsAreForAdministrators(t *testing.T) {
	get := func(c *rest.Config) error {
		client, err := rest.UnversionedRESTClientFor(&rest.Config{Host: c.Host, Transport: c.Transport, ContentConfig: rest.ContentConfig{NegotiatedSerializer: server.codecs.WithoutConversion()}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Get().AbsPath(SnapshotPath).DoRaw(t.Context())
		return err
	}
	if err := get(server.ClientConfig("jane", "dev")); !apierrors.IsForbidden(err) {
		t.Errorf("jane: %v", err)
	}
	if err := get(server.ClientConfig("admin", "system:masters")); err != nil {
		t.Errorf("an administrator: %v", err)
	}
	admins, err := rest.HTTPClientFor(server.ClientConfig("admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := admins.Post("http://in-memory"+SnapshotPath, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("a POST: %s", r.Status)
	}
}
