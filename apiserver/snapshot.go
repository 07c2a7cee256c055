// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/util/sets"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/httplog"
)

// SnapshotPath is where an administrator gets a snapshot of etcd, in etcd's own
// form: its database, followed by the SHA-256 of it. It is the whole cluster,
// Secrets and all; no role but one for every path leads here.
const SnapshotPath = "/peapod/etcd/snapshot"

// revisionBump is how far a restored etcd counts ahead of its snapshot: clients
// may have seen revisions after it, which must not come again with another
// content. It is what etcd's documentation recommends for Kubernetes.
const revisionBump = 1_000_000_000

// RestoreEtcd makes the folder of an embedded etcd from a file that
// SnapshotPath has answered with.
func RestoreEtcd(file, dir string) error {
	err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: file, OutputDataDir: dir, Name: etcdName,
		PeerURLs: []string{etcdPeer}, InitialCluster: etcdName + "=" + etcdPeer,
		RevisionBump: revisionBump, MarkCompacted: true,
	})
	if err != nil {
		return fmt.Errorf("cannot restore etcd: %w", err)
	}
	return nil
}

// giveSnapshot serves SnapshotPath.
func (s *Server) giveSnapshot(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "a snapshot can only be read", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := s.writeSnapshot(r, w); err != nil {
		// The answer is under way: only its end can say that it is not whole.
		httplog.AddKeyValue(r.Context(), "snapshot", err)
		panic(http.ErrAbortHandler)
	}
}

func (s *Server) writeSnapshot(r *http.Request, w io.Writer) error {
	if s.etcd != nil {
		taken := s.etcd.etcd.Server.Backend().Snapshot()
		defer taken.Close()
		sum := sha256.New()
		if _, err := taken.WriteTo(io.MultiWriter(w, sum)); err != nil {
			return err
		}
		_, err := w.Write(sum.Sum(nil))
		return err
	}
	client, err := s.config.Etcd.client(r.Context())
	if err != nil {
		return err
	}
	defer client.Close()
	taken, err := client.SnapshotWithVersion(r.Context())
	if err != nil {
		return err
	}
	defer taken.Snapshot.Close()
	_, err = io.Copy(w, taken.Snapshot)
	return err
}

// longRunning says which requests may take longer than a minute.
func longRunning() genericapirequest.LongRunningRequestCheck {
	usual := filters.BasicLongRunningRequestCheck(sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	return func(r *http.Request, info *genericapirequest.RequestInfo) bool {
		return info.Path == SnapshotPath || usual(r, info)
	}
}
