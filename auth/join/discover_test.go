// SPDX-License-Identifier: Apache-2.0

package join

import (
	"testing"
	"time"

	"github.com/peapod/peapod/auth"
)

// Another CA beside the one that is named would be trusted as well.
func TestEachCAIsPinned(t *testing.T) {
	authority := func() []byte {
		p, err := auth.EnsurePKI(t.TempDir(), auth.Names{Node: "n"}, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		return p.CAPEM
	}
	ours := authority()
	known, err := auth.Hashes(ours)
	if err != nil {
		t.Fatal(err)
	}
	both := append(ours[:len(ours):len(ours)], authority()...)
	if err := pinned(ours, known); err != nil {
		t.Errorf("the one that is named: %v", err)
	}
	if err := pinned(both, known); err == nil {
		t.Error("another one beside it is taken")
	}
	if err := pinned(both, nil); err != nil {
		t.Errorf("without pins: %v", err)
	}
}
