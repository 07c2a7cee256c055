// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/linux"
)

// images is where a container's image mounts lie (KEP-4639), one numbered
// folder each, with a hold on the image's layers of the same number.
func (c *container) images() string { return filepath.Join(c.dir, "images") }

func (c *container) imageHold(number string) string { return c.ID + "-" + number }

// mountImages mounts the images among the container's mounts, read-only, and
// makes them mounts like any other.
func (r *Runtime) mountImages(ctx context.Context, c *container) error {
	for i, m := range c.config.GetMounts() {
		if m.GetImage() == nil {
			continue
		}
		path, err := r.mountImage(ctx, c, strconv.Itoa(i), m)
		if err != nil {
			return fmt.Errorf("cannot mount image %q at %s: %w", m.GetImage().GetImage(), m.GetContainerPath(), err)
		}
		m = proto.CloneOf(m)
		m.HostPath, m.Readonly = path, true
		c.config.Mounts[i] = m
	}
	return nil
}

func (r *Runtime) mountImage(ctx context.Context, c *container, number string, m *runtimeapi.Mount) (string, error) {
	// The folder first: by it the hold and the mount are found again.
	dir, empty := filepath.Join(c.images(), number), filepath.Join(c.images(), "empty")
	for _, d := range []string{dir, empty} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", err
		}
	}
	lower, err := r.cfg.Images.Hold(ctx, c.imageHold(number), m.GetImage().GetImage())
	if err != nil {
		return "", err
	}
	if len(lower) == 1 {
		lower = append(lower, empty) // the kernel wants two when nothing is above
	}
	if err := linux.Overlay(linux.OverlayMount{Lower: lower}, dir); err != nil {
		return "", err
	}
	// No link in the image leads out of it, and nobody writes there.
	path, err := securejoin.SecureJoin(dir, m.GetImageSubPath())
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("sub path %q: %w", m.GetImageSubPath(), errdefs.ErrNotFound)
	} else if err != nil {
		return "", err
	}
	return path, nil
}

// unmountImages takes back what mountImages made, as far as it came.
func (r *Runtime) unmountImages(c *container) error {
	entries, err := os.ReadDir(c.images())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot unmount images of container %s: %w", c.ID, err)
	}
	for _, e := range entries {
		if err := linux.Detach(filepath.Join(c.images(), e.Name())); err != nil {
			return err
		}
		if err := r.cfg.Images.Release(c.imageHold(e.Name())); err != nil {
			return err
		}
	}
	return nil
}
