// SPDX-License-Identifier: Apache-2.0

package main

import (
	"sync"
	"time"
)

// weather says whether faults are under way. Patience and suspicion count the
// time in which none are.
type weather struct {
	mu       sync.Mutex // guards the fields below
	troubles int
	cleared  time.Time
}

// trouble begins a fault; what it returns ends it.
func (w *weather) trouble() (over func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubles++
	return sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.troubles--
		w.cleared = time.Now()
	})
}

// calmSince is from when on nothing was disturbed, if nothing is.
func (w *weather) calmSince() (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cleared, w.troubles == 0
}

// calm says that there is no fault.
func (w *weather) calm() bool {
	_, calm := w.calmSince()
	return calm
}
