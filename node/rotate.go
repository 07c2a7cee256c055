// SPDX-License-Identifier: Apache-2.0

package node

import (
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Logs are rotated as kubelets do (containerLogMaxSize, containerLogMaxFiles,
// containerLogMonitorInterval): a file that has reached logMaxSize is renamed,
// the ones before it are compressed, and at most logMaxFiles are kept, the
// current one included.
const (
	logMaxSize  = 10 << 20
	logMaxFiles = 5
	logPeriod   = 10 * time.Second

	rotatedStamp     = "20060102-150405"
	compressedSuffix = ".gz"
	halfwaySuffix    = ".tmp"
)

// rotator rotates the logs of running containers. The kernel tells it once that
// a log was written to, by inotify; then it looks at the size, at most once a
// period, and only then asks to be told again. So a container that says nothing
// costs nothing, and one that never stops costs one look a period. It works
// with any runtime: CRI has a call to reopen a log, but none for its size.
type rotator struct {
	reopen   func(ctx context.Context, id string) error
	now      func() time.Time
	log      *slog.Logger
	maxSize  int64
	maxFiles int
	period   time.Duration
	bell     chan struct{} // a mailbox of one: wanted has changed

	mu     sync.Mutex // guards wanted
	wanted map[types.UID]map[string]string
	// ---- run's own
	inotify int                     // a file descriptor
	logs    map[string]*followedLog // by container ID
}

// followedLog is one log; lookAt is zero while its watch is armed.
type followedLog struct {
	path   string
	watch  int32
	lookAt time.Time
}

func newRotator(reopen func(ctx context.Context, id string) error, now func() time.Time, log *slog.Logger) *rotator {
	return &rotator{
		reopen: reopen, now: now, log: log, maxSize: logMaxSize, maxFiles: logMaxFiles, period: logPeriod,
		bell: make(chan struct{}, 1), wanted: map[types.UID]map[string]string{}, logs: map[string]*followedLog{},
	}
}

// reopenLog lets the runtime go on in a new file.
func (a *Agent) reopenLog(ctx context.Context, id string) error {
	_, err := a.cfg.CRI.Runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
	return err
}

// followLogs lets the logs of what runs be rotated.
func (x *actor) followLogs(p *corev1.Pod, have *observed) {
	paths := map[string]string{}
	for i := range have.live() {
		if i.logPath != "" {
			paths[i.id] = i.logPath
		}
	}
	x.agent.rotator.follow(p.UID, paths)
}

// follow names the running containers of a Pod and their logs' paths; it
// replaces what was said of the Pod before.
func (r *rotator) follow(uid types.UID, paths map[string]string) {
	r.mu.Lock()
	same := maps.Equal(r.wanted[uid], paths)
	if len(paths) == 0 {
		delete(r.wanted, uid)
	} else {
		r.wanted[uid] = paths
	}
	r.mu.Unlock()
	if same {
		return
	}
	select {
	case r.bell <- struct{}{}:
	default:
	}
}

// run rotates until ctx ends.
func (r *rotator) run(ctx context.Context) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot watch logs: %w", err)
	}
	r.inotify = fd
	f, written, done := os.NewFile(uintptr(fd), "inotify"), make(chan int32), make(chan struct{})
	go func() {
		defer close(done)
		readWatches(ctx, f, written)
	}()
	defer func() {
		f.Close()
		<-done
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.bell:
			r.adjust()
		case w := <-written:
			for _, l := range r.logs {
				if l.watch == w && l.lookAt.IsZero() {
					l.watch, l.lookAt = -1, r.now().Add(r.period)
				}
			}
		case <-timer.C:
		}
		timer.Stop()
		if next := r.look(ctx); !next.IsZero() {
			timer.Reset(max(next.Sub(r.now()), 0))
		}
	}
}

// readWatches gives the watch of each event.
func readWatches(ctx context.Context, f *os.File, written chan<- int32) {
	buf := make([]byte, 64<<10)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return // closed
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			w, length := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[12:])
			b = b[unix.SizeofInotifyEvent+int(length):]
			select {
			case written <- w:
			case <-ctx.Done():
				return
			}
		}
	}
}

// adjust begins and ends to follow; a new log is looked at right away.
func (r *rotator) adjust() {
	r.mu.Lock()
	want := map[string]string{}
	for _, paths := range r.wanted {
		maps.Copy(want, paths)
	}
	r.mu.Unlock()
	for id, path := range want {
		if l := r.logs[id]; l == nil || l.path != path {
			r.logs[id] = &followedLog{path: path, watch: -1, lookAt: r.now()}
		}
	}
	for id, l := range r.logs {
		if _, ok := want[id]; !ok {
			r.disarm(l)
			delete(r.logs, id)
		}
	}
}

func (r *rotator) disarm(l *followedLog) {
	if l.watch >= 0 {
		// It may be gone already, with its file or after its one event.
		_, _ = unix.InotifyRmWatch(r.inotify, uint32(l.watch))
	}
}

// arm asks to be told once when the log is written to, or is another file.
func (r *rotator) arm(l *followedLog) error {
	watch, err := unix.InotifyAddWatch(r.inotify, l.path, unix.IN_MODIFY|unix.IN_ATTRIB|unix.IN_MOVE_SELF|unix.IN_ONESHOT)
	if err == nil {
		l.watch = int32(watch)
	}
	return err
}

// look looks at the logs whose time has come; next is when to look again.
func (r *rotator) look(ctx context.Context) (next time.Time) {
	now := r.now()
	for id, l := range r.logs {
		if !l.lookAt.IsZero() && !l.lookAt.After(now) {
			if err := r.check(ctx, id, l); err != nil && ctx.Err() == nil {
				r.log.Warn("cannot rotate log", "container", id, "path", l.path, "err", err)
				l.lookAt = r.now().Add(r.period)
			}
		}
		next = sooner(next, l.lookAt)
	}
	return next
}

// check rotates one log if it is time to, and asks to be told of its next
// change. A log that somebody has removed is written anew.
func (r *rotator) check(ctx context.Context, id string, l *followedLog) error {
	// Armed before the size is read: what is written in between is told.
	err := r.arm(l)
	if errors.Is(err, unix.ENOENT) {
		if err := r.reopen(ctx, id); err != nil {
			return err
		}
		err = r.arm(l)
	}
	if err != nil {
		return err
	}
	l.lookAt = time.Time{}
	st, err := os.Stat(l.path)
	if err != nil || st.Size() < r.maxSize {
		return err
	}
	r.disarm(l)
	l.watch, l.lookAt = -1, r.now().Add(r.period)
	return r.rotate(ctx, id, l.path)
}

// rotate makes room among the rotated logs, compresses them, and renames the
// current one; that stays as it is, so that who reads it can finish.
func (r *rotator) rotate(ctx context.Context, id, path string) error {
	old, err := rotatedLogs(path)
	if err != nil {
		return err
	}
	keep := max(len(old)-max(r.maxFiles-2, 0), 0)
	for _, f := range old[:keep] {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	for _, f := range old[keep:] {
		if strings.HasSuffix(f, compressedSuffix) {
			continue
		}
		if err := compress(f); err != nil {
			return fmt.Errorf("cannot compress %s: %w", f, err)
		}
	}
	rotated := nextName(path, r.now(), old)
	if err := os.Rename(path, rotated); err != nil {
		return err
	}
	if err := r.reopen(ctx, id); err != nil {
		return errors.Join(err, os.Rename(rotated, path))
	}
	return nil
}

// nextName is what a log is called that is rotated now; old are the former
// ones. It comes after them, also when the clock does not: their names are
// their order, and none must be lost to another of its name.
func nextName(path string, now time.Time, old []string) string {
	if len(old) > 0 {
		stamp := strings.TrimSuffix(strings.TrimPrefix(old[len(old)-1], path+"."), compressedSuffix)
		if last, err := time.ParseInLocation(rotatedStamp, stamp, now.Location()); err == nil && !now.Truncate(time.Second).After(last) {
			now = last.Add(time.Second)
		}
	}
	return path + "." + now.Format(rotatedStamp)
}

// rotatedLogs are the former logs of a path, oldest first. What a compression
// left that did not come to its end is removed.
func rotatedLogs(path string) (out []string, err error) {
	names, err := entries(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if !strings.HasPrefix(n, filepath.Base(path)+".") {
			continue
		}
		f := filepath.Join(filepath.Dir(path), n)
		if strings.HasSuffix(n, halfwaySuffix) || slices.Contains(names, n+compressedSuffix) {
			if err := os.Remove(f); err != nil {
				return nil, err
			}
			continue
		}
		out = append(out, f)
	}
	return out, nil
}

// compress replaces a file by its gzip(1) form.
func compress(path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(path+halfwaySuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, st.Mode())
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(out)
	_, err = io.Copy(zip, in)
	if err = errors.Join(err, zip.Close(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(out.Name()))
	}
	if err := os.Rename(out.Name(), path+compressedSuffix); err != nil {
		return err
	}
	return os.Remove(path)
}

// removeLogs removes a container's log and its former ones.
func removeLogs(path string) error {
	old, err := rotatedLogs(path)
	if err != nil {
		return err
	}
	for _, f := range append(old, path) {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
