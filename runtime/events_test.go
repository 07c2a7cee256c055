// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestFollowersAreCutOff: who reads too slowly, and who follows a runtime that
// is going down, now or later: it must turn to the next one.
func TestFollowersAreCutOff(t *testing.T) {
	var h hub
	over := func(what string, c chan *runtimeapi.ContainerEventResponse) {
		t.Helper()
		for range len(c) {
			<-c
		}
		select {
		case _, open := <-c:
			if !open {
				return
			}
		default:
		}
		t.Errorf("%s still follows", what)
	}
	slow := h.follow()
	for range backlog + 1 {
		h.send(&runtimeapi.ContainerEventResponse{})
	}
	over("a slow reader", slow)
	early := h.follow()
	h.close()
	over("who came before the end", early)
	over("who came after the end", h.follow())
	h.leave(early)
}
