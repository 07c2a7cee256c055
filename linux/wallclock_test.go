// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestWaitUntil(t *testing.T) {
	at := time.Now().Add(50 * time.Millisecond)
	if err := WaitUntil(t.Context(), at); err != nil || time.Now().Before(at) {
		t.Errorf("back before %s: %v", at, err)
	}
	for _, past := range []time.Time{time.Now().Add(-time.Hour), {}} {
		if err := WaitUntil(t.Context(), past); err != nil {
			t.Errorf("%s, which is over: %v", past, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- WaitUntil(ctx, time.Now().Add(time.Hour)) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of its context: %v", err)
	}
	if err := WaitUntil(ctx, time.Now().Add(time.Hour)); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}
