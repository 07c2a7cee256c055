// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// backlog is how far a follower of events may fall behind before it is told
// to list again.
const backlog = 1024

// hub hands every event to every follower.
type hub struct {
	mu        sync.Mutex // guards the fields below
	followers map[chan *runtimeapi.ContainerEventResponse]bool
	closed    bool
}

// follow returns a channel of all that happens from now on. It is closed when
// its reader falls too far behind, and when there is no more to tell.
func (h *hub) follow() chan *runtimeapi.ContainerEventResponse {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		c := make(chan *runtimeapi.ContainerEventResponse)
		close(c)
		return c
	}
	if h.followers == nil {
		h.followers = map[chan *runtimeapi.ContainerEventResponse]bool{}
	}
	c := make(chan *runtimeapi.ContainerEventResponse, backlog)
	h.followers[c] = true
	return c
}

func (h *hub) leave(c chan *runtimeapi.ContainerEventResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.followers[c] {
		delete(h.followers, c)
		close(c)
	}
}

// close cuts all followers off, those to come too: this runtime has no more
// to tell.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for c := range h.followers {
		delete(h.followers, c)
		close(c)
	}
}

// send never waits: a follower whose backlog is full is cut off.
func (h *hub) send(e *runtimeapi.ContainerEventResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.followers {
		select {
		case c <- e:
		default:
			delete(h.followers, c)
			close(c)
		}
	}
}

// publish tells followers of a container, with the state it is in now.
func (r *Runtime) publish(c *container, t runtimeapi.ContainerEventType) {
	e := &runtimeapi.ContainerEventResponse{ContainerId: c.ID, ContainerEventType: t, CreatedAt: now().UnixNano()}
	r.mu.Lock()
	p := r.sandboxes[c.SandboxID]
	r.mu.Unlock()
	if p != nil {
		e.PodSandboxStatus = p.status()
	}
	if t != runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT {
		e.ContainersStatuses = []*runtimeapi.ContainerStatus{c.status()}
	}
	r.events.send(e)
}

// GetContainerEvents streams what happens to containers. A client that falls
// too far behind gets an error and must list again.
func (r *Runtime) GetContainerEvents(_ *runtimeapi.GetEventsRequest, s grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	c := r.events.follow()
	defer r.events.leave(c)
	// Whoever has the header misses nothing from then on.
	if err := s.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		select {
		case e, ok := <-c:
			if !ok {
				return status.Error(codes.ResourceExhausted, "no more events from here: follow and list again")
			}
			if err := s.Send(e); err != nil {
				return err
			}
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}
