// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
)

// identities are the components of this process. Each client made by
// ClientConfig carries a random token that lives as long as the process.
type identities struct {
	mu     sync.RWMutex // guards tokens
	tokens map[string]user.Info
}

func (i *identities) add(u user.Info) (token string) {
	token = "peapod-" + rand.Text()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.tokens == nil {
		i.tokens = map[string]user.Info{}
	}
	i.tokens[token] = u
	return token
}

// AuthenticateToken knows the tokens it gave out, and only on requests that
// came through the in-memory transport.
func (i *identities) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	if ctx.Value(inMemory{}) == nil {
		return nil, false, nil
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	u, ok := i.tokens[token]
	if !ok {
		return nil, false, nil
	}
	return &authenticator.Response{User: u}, true, nil
}

type inMemory struct{}

// ClientConfig is a client of this server for a component of this process: it
// calls the handler chain directly, with the given identity and the same
// authorization, admission and audit as any other client.
func (s *Server) ClientConfig(name string, groups ...string) *rest.Config {
	token := s.identities.add(&user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)})
	return &rest.Config{
		Host: "http://in-memory",
		ContentConfig: rest.ContentConfig{
			ContentType:        "application/vnd.kubernetes.protobuf",
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json",
		},
		UserAgent: "peapod/" + name,
		QPS:       -1,
		Transport: transport{server: s, token: token},
	}
}

// transport is an http.RoundTripper without a network.
type transport struct {
	server *Server
	token  string
}

var errClosed = errors.New("the API server of this process has stopped")

// RoundTrip serves the request on a goroutine of its own, which ends with the
// response's body or the request's context.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	handler := t.server.handler()
	if handler == nil {
		return nil, errClosed
	}
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), inMemory{}, true))
	q := r.Clone(ctx)
	if q.Body == nil {
		q.Body = http.NoBody
	}
	q.RequestURI, q.Host = q.URL.RequestURI(), "in-memory"
	q.RemoteAddr = "127.0.0.1:0"
	q.Proto, q.ProtoMajor, q.ProtoMinor = "HTTP/2.0", 2, 0
	q.Header.Set("Authorization", "Bearer "+t.token)
	read, write := io.Pipe()
	w := &memoryWriter{gone: make(chan bool, 1), header: http.Header{}, body: write, read: read, request: r, started: make(chan *http.Response, 1)}
	go func() {
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				w.fail(fmt.Errorf("the API server aborted the request: %v", p))
			}
		}()
		handler.ServeHTTP(w, q)
		w.WriteHeader(http.StatusOK)
		write.Close()
	}()
	select {
	case response := <-w.started:
		response.Body = body{read, cancel}
		return response, nil
	case <-r.Context().Done():
		cancel()
		read.CloseWithError(r.Context().Err())
		return nil, r.Context().Err()
	}
}

// body ends the request when the client closes it.
type body struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b body) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// memoryWriter hands a response over as soon as its header is written. It has
// the optional faces that the library's watch and timeout filters ask for.
type memoryWriter struct {
	header  http.Header
	body    *io.PipeWriter
	read    *io.PipeReader
	request *http.Request
	once    sync.Once
	started chan *http.Response
	gone    chan bool
}

func (w *memoryWriter) Header() http.Header { return w.header }

func (w *memoryWriter) WriteHeader(code int) {
	w.once.Do(func() {
		w.started <- &http.Response{
			StatusCode: code, Status: fmt.Sprint(code, " ", http.StatusText(code)),
			Proto: "HTTP/2.0", ProtoMajor: 2, Header: w.header.Clone(),
			Request: w.request, ContentLength: -1,
		}
	})
}

func (w *memoryWriter) fail(err error) {
	w.WriteHeader(http.StatusInternalServerError)
	w.body.CloseWithError(err)
}

func (w *memoryWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// CloseNotify is asked for by the library and read by nobody: the request's
// context says when the client has gone.
func (w *memoryWriter) CloseNotify() <-chan bool { return w.gone }

func (w *memoryWriter) Flush()                           { w.WriteHeader(http.StatusOK) }
func (w *memoryWriter) SetReadDeadline(time.Time) error  { return nil }
func (w *memoryWriter) SetWriteDeadline(time.Time) error { return nil }
