// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// StoreOptions are about the etcd in this process.
type StoreOptions struct {
	// Quota is how large its database may become, in bytes.
	Quota int64
}

// defaultQuota is the most that etcd's documentation recommends.
const defaultQuota = 8 << 30

// AddFlags adds the flag by its name in etcd.
func (o *StoreOptions) AddFlags(fs *pflag.FlagSet) {
	fs.Int64Var(&o.Quota, "quota-backend-bytes", o.Quota, "how large the database of the etcd in this process may become; then writes are refused until there is room again")
}

// Validate finds a quota that nothing fits in.
func (o *StoreOptions) Validate() error {
	if o.Quota < 8<<20 {
		return fmt.Errorf("--quota-backend-bytes %d: want at least 8388608", o.Quota)
	}
	return nil
}

const (
	// writeReserve is the room on the disk below which nothing more is written:
	// etcd's log takes 64 MiB ahead, its database grows in steps, and neither
	// survives a disk that is full.
	writeReserve = 128 << 20
	// deleteReserve is the same for what makes room.
	deleteReserve = 32 << 20
	// reclaimPause is how long a reclaim that did not help is not tried again.
	reclaimPause = 10 * time.Second
)

// roomy is the etcd of this process for who writes: a write that there is no
// room for is refused with what to do, before it harms; reads go on. It finds
// out by the writes themselves when there is room again.
type roomy struct {
	clientv3.KV
	client    *clientv3.Client
	server    *etcdserver.EtcdServer
	dir       string
	quota     int64
	mu        sync.Mutex // guards what follows, and is held while room is made
	reclaimed time.Time
}

// Txn is how all objects are written.
func (r *roomy) Txn(ctx context.Context) clientv3.Txn {
	return &roomyTxn{room: r, ctx: ctx}
}

// roomyTxn remembers what it is made of, so that it can be tried again.
type roomyTxn struct {
	room    *roomy
	ctx     context.Context
	cmps    []clientv3.Cmp
	ok, not []clientv3.Op
}

// If and those below are of clientv3.Txn.
func (t *roomyTxn) If(cmps ...clientv3.Cmp) clientv3.Txn { t.cmps = cmps; return t }
func (t *roomyTxn) Then(ops ...clientv3.Op) clientv3.Txn { t.ok = ops; return t }
func (t *roomyTxn) Else(ops ...clientv3.Op) clientv3.Txn { t.not = ops; return t }

// Commit refuses a write that there is no room for. One that would not have
// come about is answered as ever: what is there already, or has changed.
func (t *roomyTxn) Commit() (*clientv3.TxnResponse, error) {
	answer, refused := t.write()
	if _, ours := refused.(*apierrors.StatusError); !ours {
		return answer, refused
	}
	answer, err := t.room.KV.Txn(t.ctx).If(t.cmps...).Else(t.not...).Commit()
	if err == nil && !answer.Succeeded {
		return answer, nil
	}
	return nil, refused
}

// write makes room once if etcd has none.
func (t *roomyTxn) write() (*clientv3.TxnResponse, error) {
	if err := t.room.onDisk(t.ok); err != nil {
		return nil, err
	}
	answer, err := t.try()
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		return answer, err
	}
	if err := t.room.reclaim(); err != nil {
		return nil, err
	}
	answer, err = t.try()
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return nil, t.room.full()
	}
	return answer, err
}

// try is the write itself. The one that fills its database etcd carries out and
// refuses all the same: that is found out here.
func (t *roomyTxn) try() (*clientv3.TxnResponse, error) {
	answer, err := t.room.KV.Txn(t.ctx).If(t.cmps...).Then(t.ok...).Else(t.not...).Commit()
	if !errors.Is(err, rpctypes.ErrNoSpace) || len(t.ok) != 1 || !t.ok[0].IsPut() {
		return answer, err
	}
	got, failed := t.room.KV.Get(t.ctx, string(t.ok[0].KeyBytes()))
	if failed != nil || len(got.Kvs) == 0 || !bytes.Equal(got.Kvs[0].Value, t.ok[0].ValueBytes()) {
		return answer, err
	}
	got.Header.Revision = got.Kvs[0].ModRevision
	return &clientv3.TxnResponse{Header: got.Header, Succeeded: true}, nil
}

// onDisk refuses what the disk has no room for.
func (r *roomy) onDisk(ops []clientv3.Op) error {
	need := int64(0)
	for _, op := range ops {
		switch {
		case op.IsPut():
			need = writeReserve
		case op.IsDelete():
			need = max(need, deleteReserve)
		}
	}
	if need == 0 {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(r.dir, &fs); err != nil {
		return fmt.Errorf("cannot see whether %s has room: %w", r.dir, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < need {
		return apierrors.NewInternalError(fmt.Errorf("cannot write: the disk of %s has %d MiB left, and %d are kept free; make room on it, and writes go on", r.dir, free>>20, need>>20))
	}
	return nil
}

func (r *roomy) full() error {
	return apierrors.NewInternalError(fmt.Errorf("cannot write: the database of etcd has reached its quota of %d MiB; delete objects, and writes go on, or start with a larger --quota-backend-bytes", r.quota>>20))
}

// reclaim gives up history and what was deleted, and lets etcd write again if
// there is room then.
func (r *roomy) reclaim() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.reclaimed) < reclaimPause {
		return nil // by another who was refused; whether it helped is seen by the next try
	}
	ctx, cancel := context.WithTimeout(r.client.Ctx(), time.Minute)
	defer cancel()
	now, err := r.KV.Get(ctx, "/registry/health", clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("cannot make room in etcd: %w", err)
	}
	if _, err := r.KV.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("cannot make room in etcd: %w", err)
	}
	if err := r.server.Backend().Defrag(); err != nil {
		return fmt.Errorf("cannot make room in etcd: %w", err)
	}
	r.reclaimed = time.Now()
	if r.server.Backend().Size() >= r.quota {
		return r.full()
	}
	if _, err := r.client.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
		return fmt.Errorf("cannot make room in etcd: %w", err)
	}
	return nil
}
