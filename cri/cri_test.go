// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/cri"
)

// fake is a runtime with two methods.
type fake struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer
	following chan struct{} // closed when somebody follows events
	events    chan *runtimeapi.ContainerEventResponse
}

func newFake() *fake {
	return &fake{following: make(chan struct{}), events: make(chan *runtimeapi.ContainerEventResponse)}
}

func (f *fake) Version(_ context.Context, q *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	if q.Version == "bad" {
		return nil, status.Error(codes.FailedPrecondition, "no such version")
	}
	return &runtimeapi.VersionResponse{RuntimeName: "fake " + q.Version}, nil
}

func (f *fake) GetContainerEvents(_ *runtimeapi.GetEventsRequest, s grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	close(f.following)
	if err := s.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		select {
		case e, ok := <-f.events:
			if !ok {
				return status.Error(codes.ResourceExhausted, "too slow")
			}
			if err := s.Send(e); err != nil {
				return err
			}
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

// serve serves f and returns a client of it.
func serve(t *testing.T, f *fake) cri.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "run", "cri.sock")
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- cri.Serve(ctx, socket, f) }()
	c, closer, err := cri.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closer.Close()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	// Once a call was answered the socket is there.
	if _, err := c.Runtime.Version(t.Context(), &runtimeapi.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{socket: os.ModeSocket | 0o600, filepath.Dir(socket): os.ModeDir | 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, mode)
		}
	}
	return c
}

// TestBothWays: a runtime in the process and one behind a socket behave the
// same.
func TestBothWays(t *testing.T) {
	for name, reach := range map[string]func(*fake) cri.Client{
		"direct": func(f *fake) cri.Client { return cri.Direct(func() cri.Server { return f }) },
		"socket": func(f *fake) cri.Client { return serve(t, f) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			c := reach(f)
			if v, err := c.Runtime.Version(t.Context(), &runtimeapi.VersionRequest{Version: "v1"}); err != nil || v.RuntimeName != "fake v1" {
				t.Errorf("%v, %v", v, err)
			}
			if _, err := c.Runtime.Version(t.Context(), &runtimeapi.VersionRequest{Version: "bad"}); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("an error came as %v", err)
			}
			if _, err := c.Image.ListImages(t.Context(), &runtimeapi.ListImagesRequest{}); status.Code(err) != codes.Unimplemented {
				t.Errorf("a method that is not there: %v", err)
			}
			events, err := c.Runtime.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
			if err == nil {
				_, err = events.Header()
			}
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-f.following:
			default:
				t.Error("events are not followed yet: some would be missed")
			}
			f.events <- &runtimeapi.ContainerEventResponse{ContainerId: "one"}
			close(f.events)
			if e, err := events.Recv(); err != nil || e.ContainerId != "one" {
				t.Errorf("%v, %v", e, err)
			}
			if _, err := events.Recv(); status.Code(err) != codes.ResourceExhausted {
				t.Errorf("end of events: %v", err)
			}
		})
	}
}

// TestDirectCopies: neither side sees what the other does to a message later.
func TestDirectCopies(t *testing.T) {
	f := newFake()
	c := cri.Direct(func() cri.Server { return f })
	events, err := c.Runtime.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	e := &runtimeapi.ContainerEventResponse{ContainerId: "one"}
	f.events <- e
	close(f.events)
	got, err := events.Recv()
	if err != nil {
		t.Fatal(err)
	}
	e.ContainerId = "two"
	if got.ContainerId != "one" {
		t.Error("the message was shared")
	}
}

// TestDirectEndsWithContext: a call that is given up ends on both sides.
func TestDirectEndsWithContext(t *testing.T) {
	f := newFake()
	c := cri.Direct(func() cri.Server { return f })
	ctx, cancel := context.WithCancel(t.Context())
	events, err := c.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := events.Recv(); !errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}

func TestSocketInTheWay(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "cri.sock", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := cri.Serve(t.Context(), filepath.Join(dir, "cri.sock"), newFake()); err == nil {
		t.Error("served on a folder")
	}
}
