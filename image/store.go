// SPDX-License-Identifier: Apache-2.0

// Package image owns the images of one node: references, pulls, imports, the
// unpacked layers that containers mount, and their removal. It does not mount
// anything and knows neither containers nor Pods.
//
// All state is files, so that `peapod image import` works while a node runs:
//
//	content/               blobs, as an OCI content store, and unfinished ones
//	records/<config>.json  one per image: names, layers, size
//	layers/<chain ID>/     fs/ is an unpacked layer in overlay's form, shared by
//	                       all images built on it; layer.json is its size
//	holds/<name>.json      the layers somebody uses, whatever becomes of the image
//	partial/<hash>.json    the blobs an unfinished pull has use for when it goes on
//	empty/                 the lower folder of an image without layers
//	locks/                 store: shared while something is added, exclusive to
//	                       collect; records: exclusive to change records;
//	                       ingest-<n>: held by the n-th process that fetches
//
// Nothing is visible before it is complete: a layer appears by a rename, after
// its content is on disk and has the digest that its image names; an image
// appears with its record, written last.
package image

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// Options change how a store behaves.
type Options struct {
	// HostsDir holds registry settings as containerd's hosts.toml files
	// (mirrors, certificates); it need not exist.
	HostsDir string
	// Stall is how long a registry may send nothing before a pull gives up. 0
	// means 5 minutes.
	Stall time.Duration
	// KeepPartial is how long the finished part of a broken pull waits for the
	// next try. 0 means 1 hour.
	KeepPartial time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Store is the images in one folder. It is safe for concurrent use, also by
// several processes.
type Store struct {
	dir     string
	options Options
	content content.Store
	busy    keyed        // one worker per pull, blob and layer in this process
	adding  sync.RWMutex // held shared while adding, exclusively to collect
	cache   recordCache

	mu      sync.Mutex // guards slot and imports
	slot    *os.File
	imports int
}

// Open opens the store in dir, makes it if it is not there, and clears away
// what dead processes left unfinished.
func Open(dir string, o Options) (*Store, error) {
	for _, sub := range []string{"records", "layers", "holds", "partial", "locks", "empty", "content/blobs"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("cannot open image store: %w", err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "empty"), 0o755); err != nil { // a root folder that anyone may enter
		return nil, fmt.Errorf("cannot open image store: %w", err)
	}
	// It warns of file systems without fs-verity, which are most.
	log.L.Logger.SetLevel(log.ErrorLevel)
	c, err := local.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		return nil, fmt.Errorf("cannot open image store: %w", err)
	}
	if err := os.Chmod(filepath.Join(dir, "content"), 0o700); err != nil {
		return nil, fmt.Errorf("cannot open image store: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Stall == 0 {
		o.Stall = 5 * time.Minute
	}
	if o.KeepPartial == 0 {
		o.KeepPartial = time.Hour
	}
	s := &Store{dir: dir, options: o, content: c}
	s.tidy()
	return s, nil
}

// Close lets go of the store's files. Nothing may be under way.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slot == nil {
		return nil
	}
	defer func() { s.slot = nil }()
	return s.slot.Close()
}

// lockFile takes a lock of the store: how is LOCK_SH or LOCK_EX, with LOCK_NB
// not to wait. Closing the file lets go.
func (s *Store) lockFile(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "locks", name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock image store: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err == nil {
			return f, nil
		}
		if err != unix.EINTR {
			f.Close()
			return nil, fmt.Errorf("cannot lock image store: %w", err)
		}
	}
}

// add keeps collectors, of this and other processes, away while f runs.
func (s *Store) add(f func() error) error {
	s.adding.RLock()
	defer s.adding.RUnlock()
	lock, err := s.lockFile("store", unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer lock.Close()
	return f()
}

// ingestPrefix names this process among those that write blobs, so that two of
// them never write to one unfinished blob. The lowest free number is taken: a
// node that starts again finds what it had fetched.
func (s *Store) ingestPrefix() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := 0; s.slot == nil; n++ {
		f, err := s.lockFile("ingest-"+strconv.Itoa(n), unix.LOCK_EX|unix.LOCK_NB)
		if err != nil && n < 100 {
			continue
		}
		if err != nil {
			return "", err
		}
		s.slot = f
	}
	return filepath.Base(s.slot.Name()) + "/", nil
}

// keyed lets one caller at a time work on each key.
type keyed struct {
	mu      sync.Mutex
	waiters map[string]*turn
}

// turn is the right to work on a key: whoever fills the channel has it.
type turn struct {
	taken chan struct{}
	users int
}

// lock waits for the key, or for ctx to end.
func (k *keyed) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	if k.waiters == nil {
		k.waiters = map[string]*turn{}
	}
	t := k.waiters[key]
	if t == nil {
		t = &turn{taken: make(chan struct{}, 1)}
		k.waiters[key] = t
	}
	t.users++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(k.waiters, key)
		}
	}
	select {
	case t.taken <- struct{}{}:
		return func() { <-t.taken; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}
