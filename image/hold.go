// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/peapod/peapod/linux"
)

// hold is what one user of layers has written down.
type hold struct {
	Version int             `json:"version"`
	Image   digest.Digest   `json:"image"`
	Layers  []digest.Digest `json:"layers"`
}

// Hold keeps the layers of an image for a user with this name until Release,
// also when the image is removed, and returns them as overlay lower folders,
// topmost first; there is always one. Repeating it is no error. An image that
// is missing, or has lost a layer, is errdefs.ErrNotFound.
func (s *Store) Hold(_ context.Context, name, ref string) (lower []string, err error) {
	err = s.add(func() error {
		r, err := s.find(ref)
		if err != nil {
			return err
		}
		for _, chain := range slices.Backward(r.Layers) {
			if !s.unpacked(chain) {
				return fmt.Errorf("layer %s: %w", chain, errdefs.ErrNotFound)
			}
			lower = append(lower, filepath.Join(s.layerPath(chain), "fs"))
		}
		if len(lower) == 0 {
			lower = []string{filepath.Join(s.dir, "empty")}
		}
		b, err := json.Marshal(hold{1, r.ID, r.Layers})
		if err != nil {
			return err
		}
		return linux.ReplaceFile(s.holdPath(name), append(b, '\n'), 0o600)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot use image %s: %w", ref, err)
	}
	return lower, nil
}

func (s *Store) holdPath(name string) string {
	return filepath.Join(s.dir, "holds", filepath.Base(name)+".json")
}

// Release ends a Hold. An unknown name is no error. The layers of an image
// that has been removed meanwhile go with their last holder.
func (s *Store) Release(name string) error {
	path := s.holdPath(name)
	h, err := readHold(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	orphan := err != nil
	if err == nil {
		_, ferr := s.find(h.Image.String())
		orphan = errdefs.IsNotFound(ferr)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot release layers of %s: %w", name, err)
	}
	if orphan {
		return s.Collect()
	}
	return nil
}

func readHold(path string) (h hold, err error) {
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &h)
	}
	return h, err
}
