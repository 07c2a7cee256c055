// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/api/v3/version"
	etcdtransport "go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	etcdkubernetes "go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
)

// compactionInterval is kube-apiserver's: history older than this is dropped,
// so watches can resume for at least as long.
const compactionInterval = 5 * time.Minute

// The one member of the etcd in this process. Nobody reaches it by its address.
const etcdName, etcdPeer = "peapod", "http://localhost:0"

// embedded is etcd in this process: one member, no sockets. The API server
// calls it as functions, without gRPC in between.
type embedded struct {
	etcd      *embed.Etcd
	client    *etcdkubernetes.Client
	compactor etcd3.Compactor
}

// startEtcd opens the store in dir and waits until it serves.
func startEtcd(ctx context.Context, dir string, quota int64) (*embedded, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot open etcd: %w", err)
	}
	c := embed.NewConfig()
	c.Name, c.Dir = etcdName, dir
	// etcd would end the process on a store it cannot read; this one is to end
	// with a message instead.
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(zapcore.NewNopCore(), zap.WithFatalHook(zapcore.WriteThenPanic)))
	// A single member elects itself; a short time for it only makes that quick,
	// and the fewest ticks that etcd takes wake an idle program least.
	c.TickMs, c.ElectionMs = 20, 100
	c.QuotaBackendBytes = quota
	c.SnapshotCount = 10_000
	peer, err := url.Parse(etcdPeer)
	if err != nil {
		return nil, err
	}
	c.AdvertisePeerUrls, c.InitialCluster = []url.URL{*peer}, c.Name+"="+etcdPeer
	c.ListenPeerUrls, c.ListenClientUrls, c.AdvertiseClientUrls = nil, nil, nil
	e, err := openEtcd(c)
	if err != nil {
		return nil, err
	}
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		e.Close()
		return nil, fmt.Errorf("cannot start etcd in %s: %w", dir, err)
	case <-ctx.Done():
		e.Close()
		return nil, ctx.Err()
	}
	client := v3client.New(e.Server)
	client.KV = &roomy{KV: etcd3.NewETCDLatencyTracker(client.KV), client: client, server: e.Server, dir: dir, quota: quota}
	etcdfeature.DefaultFeatureSupportChecker.CheckClient(client.Ctx(), inProcess{}, storage.RequestWatchProgress)
	k := &etcdkubernetes.Client{Client: client}
	k.Kubernetes = k
	return &embedded{etcd: e, client: k, compactor: etcd3.NewCompactor(client, compactionInterval, clock.RealClock{}, func() {})}, nil
}

// openEtcd starts etcd on a store that can be read. etcd panics on one that
// cannot, for its database even on a goroutine of its own: that one is looked
// at first.
func openEtcd(c *embed.Config) (e *embed.Etcd, err error) {
	damaged := func(cause any) error {
		return fmt.Errorf("cannot open etcd in %s: the store is damaged, move it away or restore it from a backup: %v", c.Dir, cause)
	}
	file := filepath.Join(c.Dir, "member", "snap", "db")
	if _, err := os.Stat(file); err == nil {
		db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
		switch {
		case errors.Is(err, berrors.ErrTimeout):
			return nil, fmt.Errorf("cannot open etcd in %s: another process uses it", c.Dir)
		case err != nil:
			return nil, damaged(err)
		}
		if err := db.Close(); err != nil {
			return nil, damaged(err)
		}
	}
	defer func() {
		if p := recover(); p != nil {
			e, err = nil, damaged(p)
		}
	}()
	if e, err = embed.StartEtcd(c); err != nil {
		return nil, damaged(err)
	}
	return e, nil
}

// etcdPatience is how long a start waits for an etcd of the user's.
const etcdPatience = 10 * time.Second

// reachEtcd asks an external etcd for a key, so that one that does not answer
// is a message and not a start without an end.
func reachEtcd(ctx context.Context, c EtcdConfig) error {
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	bounded, cancel := context.WithTimeout(ctx, etcdPatience)
	defer cancel()
	if _, err := client.Get(bounded, "/registry/health", clientv3.WithCountOnly()); err != nil {
		return fmt.Errorf("cannot reach etcd at %s within %s: %w", strings.Join(c.Endpoints, ", "), etcdPatience, err)
	}
	return nil
}

// client is one of the user's etcd, until ctx ends.
func (c EtcdConfig) client(ctx context.Context) (*clientv3.Client, error) {
	files := etcdtransport.TLSInfo{TrustedCAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile}
	config := clientv3.Config{Endpoints: c.Endpoints, Context: ctx, Logger: zap.NewNop()}
	if c.CAFile != "" || c.CertFile != "" {
		t, err := files.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("cannot use the keys of etcd: %w", err)
		}
		config.TLS = t
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("cannot use etcd at %s: %w", strings.Join(c.Endpoints, ", "), err)
	}
	return client, nil
}

// inProcess tells the library which etcd it has: without an endpoint that it can
// ask, it would do without watch progress, and so without streaming lists and
// lists from the watch cache.
type inProcess struct{}

func (inProcess) Endpoints() []string { return []string{"in-process"} }
func (inProcess) Status(context.Context, string) (*clientv3.StatusResponse, error) {
	return &clientv3.StatusResponse{Version: version.Version}, nil
}

// check reads a key through consensus, as kube-apiserver's health does.
func (e *embedded) check(r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if _, err := e.client.Client.Get(ctx, "/registry/health", clientv3.WithCountOnly()); err != nil {
		return fmt.Errorf("cannot read from etcd: %w", err)
	}
	return nil
}

func (e *embedded) close() error {
	err := e.client.Close()
	e.etcd.Close()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// A list from the watch cache first asks etcd how far the cache must have come,
// at most once in progressPause: that spares a network which is not here, and
// would make one of two lists wait for it.
const (
	progressPause = 100 * time.Millisecond // the library's
	promptPause   = time.Millisecond
)

// promptClock is the real clock but for that pause. Nothing ticks while nobody
// waits.
type promptClock struct{ clock.RealClock }

func (c promptClock) NewTimer(d time.Duration) clock.Timer {
	t := c.RealClock.NewTimer(d)
	if d != progressPause {
		return t
	}
	return promptTimer{t}
}

type promptTimer struct{ clock.Timer }

func (t promptTimer) Reset(d time.Duration) bool { return t.Timer.Reset(min(d, promptPause)) }

// uncached resources are read from the store, as kube-apiserver's are: of events
// there are many, and hardly anybody looks at one.
func uncached(r schema.GroupResource) bool { return r == corev1.Resource("events") }

// directOptions makes every store call the etcd of this process.
type directOptions struct {
	generic.RESTOptionsGetter
	etcd *embedded
	// patience is how long a store that is made waits for its watch cache to be
	// filled; until then it tells who lists to come again.
	patience time.Duration
}

func (d directOptions) GetRESTOptions(gr schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	o, err := d.RESTOptionsGetter.GetRESTOptions(gr, example)
	o.Decorator = d.decorate
	return o, err
}

func (d directOptions) decorate(c *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error), newObject, newList func() runtime.Object, attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
	transformer := c.Transformer
	if transformer == nil {
		transformer = identity.NewEncryptCheckTransformer()
	}
	versioner := storage.APIObjectVersioner{}
	s, err := etcd3.New(d.etcd.client, d.etcd.compactor, c.Codec, newObject, newList, c.Prefix, prefix, c.GroupResource, transformer, c.LeaseManagerConfig, etcd3.NewDefaultDecoder(c.Codec, versioner), versioner)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open the store of %s: %w", c.GroupResource, err)
	}
	if uncached(c.GroupResource) {
		var once sync.Once
		return s, func() { once.Do(s.Close) }, nil
	}
	watched, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage: s, Versioner: versioner, GroupResource: c.GroupResource, EventsHistoryWindow: c.EventsHistoryWindow,
		ResourcePrefix: prefix, KeyFunc: key, NewFunc: newObject, NewListFunc: newList,
		GetAttrsFunc: attrs, IndexerFuncs: triggers, Indexers: indexers, Codec: c.Codec, Clock: promptClock{},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open the watch cache of %s: %w", c.GroupResource, err)
	}
	if d.patience > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), d.patience)
		defer cancel()
		_ = watched.Wait(ctx) // what is not filled by then says so itself
	}
	delegate := cacher.NewCacheDelegator(watched, s)
	var once sync.Once
	return delegate, func() { once.Do(func() { delegate.Stop(); watched.Stop(); s.Close() }) }, nil
}
