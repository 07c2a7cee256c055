// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Progress is told how many bytes of how many known ones are there. Calls do
// not overlap.
type Progress func(done, total int64)

// meter adds up what a pull has fetched.
type meter struct {
	mu          sync.Mutex // guards the fields below, and calls of report
	done, total int64
	report      Progress
}

func (m *meter) expect(n int64)  { m.count(0, n) }
func (m *meter) arrived(n int64) { m.count(n, 0) }

func (m *meter) count(done, total int64) {
	if m.report == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += done
	m.total += total
	m.report(m.done, m.total)
}

// ingester writes blobs under names that no other process uses, and tells of
// each byte that is there.
type ingester struct {
	content.Store
	prefix  string
	arrived func(int64)
}

// Writer begins a blob or goes on with it.
func (i ingester) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	w, err := i.Store.Writer(ctx, content.WithRef(i.prefix+o.Ref), content.WithDescriptor(o.Desc))
	if err != nil {
		return nil, err
	}
	if st, err := w.Status(); err == nil && st.Offset > 0 {
		i.arrived(st.Offset)
	}
	return ingesting{w, i.arrived}, nil
}

type ingesting struct {
	content.Writer
	arrived func(int64)
}

func (w ingesting) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	w.arrived(int64(n))
	return n, err
}

// fetch brings one blob, unless it is here or another pull in this process is
// bringing it. It goes on where an earlier try stopped.
func (s *Store) fetch(ctx context.Context, from remotes.Fetcher, d ispecs.Descriptor, m *meter) error {
	unlock, err := s.busy.lock(ctx, "blob "+d.Digest.String())
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.content.Info(ctx, d.Digest); err == nil {
		m.arrived(d.Size)
		return nil
	}
	prefix, err := s.ingestPrefix()
	if err != nil {
		return err
	}
	ctx, alive, stop := stalling(ctx, s.options.Stall)
	defer stop()
	in := ingester{s.content, prefix, func(n int64) { alive(); m.arrived(n) }}
	plain := ispecs.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, URLs: d.URLs}
	err = remotes.Fetch(ctx, in, from, plain)
	if err == nil || errdefs.IsAlreadyExists(err) {
		return nil
	}
	if !worthKeeping(err) {
		err = errors.Join(err, ignoring(s.content.Abort(context.WithoutCancel(ctx), prefix+remotes.MakeRefKey(ctx, plain)), errdefs.ErrNotFound))
	}
	return fmt.Errorf("cannot fetch %s: %w", d.Digest, stalled(ctx, err))
}

// worthKeeping says whether a broken fetch can go on later: not when what came
// is not what was asked for, and not when there is no room for it.
func worthKeeping(err error) bool {
	return !errdefs.IsFailedPrecondition(err) && !errdefs.IsInvalidArgument(err) && !outOfSpace(err)
}

func outOfSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

func ignoring(err, fine error) error {
	if errors.Is(err, fine) {
		return nil
	}
	return err
}

// stalling ends ctx when alive has not been called for so long.
func stalling(ctx context.Context, d time.Duration) (_ context.Context, alive, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	t := time.AfterFunc(d, func() { cancel(fmt.Errorf("the registry sent nothing for %s: %w", d, context.DeadlineExceeded)) })
	return ctx, func() { t.Reset(d) }, func() { t.Stop(); cancel(nil) }
}

// stalled names the reason for which a context ended, where that is what
// broke off a request.
func stalled(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		return cause
	}
	return err
}
