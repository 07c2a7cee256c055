// SPDX-License-Identifier: Apache-2.0

// Package cri is the Go face of the Container Runtime Interface v1: what a
// client holds, the way to a runtime in this process, the way to one behind a
// socket, and the socket itself. It does not own any behaviour of containers.
package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxMessage is the size of a message that kubelets accept.
const maxMessage = 16 << 20

// Client is one container runtime.
type Client struct {
	Runtime runtimeapi.RuntimeServiceClient
	Image   runtimeapi.ImageServiceClient
}

// Dial connects to a runtime's socket, "unix:///path" or a path.
func Dial(endpoint string) (Client, io.Closer, error) {
	if !strings.Contains(endpoint, "://") {
		endpoint = "unix://" + endpoint
	}
	// A runtime that was away for a while is found again as soon as kubelets
	// find it; gRPC's own pauses grow to two minutes.
	again := backoff.DefaultConfig
	again.BaseDelay, again.MaxDelay = 100*time.Millisecond, 3*time.Second
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return Client{}, nil, fmt.Errorf("cannot reach container runtime at %s: %w", endpoint, err)
	}
	return Client{runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)}, conn, nil
}

// Serve serves a runtime on a unix socket, 0600, until ctx ends.
func Serve(ctx context.Context, socket string, runtime Server) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return fmt.Errorf("cannot serve CRI: %w", err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot serve CRI: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("cannot serve CRI: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("cannot serve CRI: %w", err)
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	runtimeapi.RegisterRuntimeServiceServer(s, runtime)
	runtimeapi.RegisterImageServiceServer(s, runtime)
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	if err := s.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("cannot serve CRI on %s: %w", socket, err)
	}
	return nil
}

// Server is a runtime: both services in one.
type Server interface {
	runtimeapi.RuntimeServiceServer
	runtimeapi.ImageServiceServer
}

// Direct is the way to a runtime in this process: calls are function calls.
// Requests and answers are copied, so neither side sees the other's changes.
// current is asked at each call, as the runtime may be made anew while its
// clients live.
func Direct(current func() Server) Client {
	c := &direct{methods: map[string]grpc.MethodHandler{}, streams: map[string]grpc.StreamHandler{}, current: current}
	c.add(&runtimeapi.RuntimeService_ServiceDesc)
	c.add(&runtimeapi.ImageService_ServiceDesc)
	return Client{runtimeapi.NewRuntimeServiceClient(c), runtimeapi.NewImageServiceClient(c)}
}

// direct is a gRPC connection without a network or an encoding.
type direct struct {
	methods map[string]grpc.MethodHandler
	streams map[string]grpc.StreamHandler
	current func() Server
}

func (d *direct) add(desc *grpc.ServiceDesc) {
	for _, m := range desc.Methods {
		d.methods["/"+desc.ServiceName+"/"+m.MethodName] = m.Handler
	}
	for _, s := range desc.Streams {
		d.streams["/"+desc.ServiceName+"/"+s.StreamName] = s.Handler
	}
}

// Invoke calls one method.
func (d *direct) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	handler, ok := d.methods[method]
	if !ok {
		return fmt.Errorf("cannot call %s: no such method", method)
	}
	out, err := handler(d.current(), ctx, func(in any) error { return copyMessage(in, args) }, nil)
	if err != nil {
		return err
	}
	return copyMessage(reply, out)
}

func copyMessage(into, from any) error {
	proto.Merge(into.(proto.Message), from.(proto.Message))
	return nil
}

// NewStream starts a call whose answers are many.
func (d *direct) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	handler, ok := d.streams[method]
	if !ok {
		return nil, fmt.Errorf("cannot call %s: no such method", method)
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{ctx: ctx, request: make(chan proto.Message, 1), answers: make(chan proto.Message, 64), begun: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer cancel()
		s.err = handler(d.current(), serverSide{s})
		close(s.done)
	}()
	return s, nil
}

// stream is the client's side; serverSide that of the handler's goroutine,
// which ends with the handler or the context.
type stream struct {
	ctx     context.Context
	request chan proto.Message
	answers chan proto.Message
	once    sync.Once
	begun   chan struct{} // closed with the header or the first answer
	done    chan struct{}
	err     error // set before done is closed
}

func (s *stream) Header() (metadata.MD, error) { return nil, nil }
func (s *stream) Trailer() metadata.MD         { return nil }
func (s *stream) Context() context.Context     { return s.ctx }

// CloseSend returns when the handler has begun to answer: who follows events
// and then lists misses none.
func (s *stream) CloseSend() error {
	select {
	case <-s.begun:
	case <-s.done:
	case <-s.ctx.Done():
	}
	return nil
}

func (s *stream) begin() { s.once.Do(func() { close(s.begun) }) }

func (s *stream) SendMsg(m any) error {
	s.request <- proto.Clone(m.(proto.Message))
	return nil
}

func (s *stream) RecvMsg(m any) error {
	select {
	case a := <-s.answers:
		return copyMessage(m, a)
	default:
	}
	select {
	case a := <-s.answers:
		return copyMessage(m, a)
	case <-s.done:
		// What was sent before the end still counts.
		select {
		case a := <-s.answers:
			return copyMessage(m, a)
		default:
		}
		if s.err == nil {
			return io.EOF
		}
		return s.err
	}
}

type serverSide struct{ *stream }

func (serverSide) SetHeader(metadata.MD) error { return nil }
func (serverSide) SetTrailer(metadata.MD)      {}

func (s serverSide) SendHeader(metadata.MD) error {
	s.begin()
	return nil
}

func (s serverSide) SendMsg(m any) error {
	s.begin()
	select {
	case s.answers <- proto.Clone(m.(proto.Message)):
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (s serverSide) RecvMsg(m any) error {
	select {
	case r := <-s.request:
		return copyMessage(m, r)
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}
