// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/peapod/peapod/linux"
)

// file is one file of a volume made of data.
type file struct {
	data []byte
	mode int32
	uid  *int64
}

// files by their path inside the volume.
type files map[string]file

// dataLink is what a volume's files are reached through: switching it shows
// all new files at once.
const dataLink = "..data"

// write makes a volume whose content is data, on a tmpfs so that secrets do
// not reach a disk.
func (m *Mounter) write(_ context.Context, p *corev1.Pod, name, kind string, mode *int32, make func() (files, error)) (string, error) {
	content, err := make()
	if err != nil {
		return "", err
	}
	path := m.path(p, kind, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", err
	}
	mounted, err := linux.IsMountPoint(path)
	if err != nil {
		return "", err
	}
	if !mounted && kind != "configmap" && kind != "downward-api" {
		if err := linux.Tmpfs(path, 0, 0o777|os.ModeSticky, 0); err != nil {
			return "", err
		}
	}
	def := int32(0o644)
	if mode != nil {
		def = *mode
	}
	for k, f := range content {
		if f.mode == 0 {
			f.mode = def
		}
		content[k] = f
	}
	return path, publish(path, content, fsGroup(p))
}

// publish puts content in place of what is there, in one step: a new folder is
// filled, and the link ..data is switched to it. No file is touched when
// nothing differs. What a kill left of an earlier try is mended.
func publish(dir string, content files, group *int64) error {
	for path := range content {
		if !filepath.IsLocal(path) || strings.HasPrefix(path, "..") {
			return fmt.Errorf("invalid path: %s", path)
		}
	}
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if current == "" || !same(filepath.Join(dir, current), content) {
		if current, err = fill(dir, content, group); err != nil {
			return err
		}
	}
	if err := linkTops(dir, content); err != nil {
		return err
	}
	return removeOld(dir, current)
}

// fill makes the new folder and switches to it.
func fill(dir string, content files, group *int64) (string, error) {
	fresh, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return "", err
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return "", err
	}
	for path, f := range content {
		if err := writeFile(filepath.Join(fresh, path), f); err != nil {
			return "", err
		}
	}
	if group != nil {
		if err := errors.Join(own(fresh, *group, 0o440), ownOne(dir, *group, 0o440)); err != nil {
			return "", err
		}
	}
	tmp := filepath.Join(dir, "..data_tmp")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := os.Symlink(filepath.Base(fresh), tmp); err != nil {
		return "", err
	}
	return filepath.Base(fresh), os.Rename(tmp, filepath.Join(dir, dataLink))
}

// removeOld removes the folders that are not the current one.
func removeOld(dir, current string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), "..") && e.Name() != current {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeFile(path string, f file) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, f.data, 0o600); err != nil {
		return err
	}
	if f.uid != nil {
		if err := os.Chown(path, int(*f.uid), -1); err != nil {
			return err
		}
	}
	// Past the umask.
	return os.Chmod(path, fs.FileMode(f.mode))
}

// own gives a tree to a group, with at least the given permissions; what is
// made in it later belongs to the group too.
func own(root string, group int64, permissions fs.FileMode) error {
	return filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return ownOne(path, group, permissions)
	})
}

func ownOne(path string, group int64, permissions fs.FileMode) error {
	if err := os.Lchown(path, -1, int(group)); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return err
	}
	if info.IsDir() {
		permissions |= fs.ModeSetgid | 0o110
	}
	return os.Chmod(path, info.Mode()|permissions)
}

// linkTops makes one link per top name into ..data, and removes those of files
// that are gone.
func linkTops(dir string, content files) error {
	tops := map[string]bool{}
	for path := range content {
		top, _, _ := strings.Cut(path, "/")
		tops[top] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !tops[e.Name()] {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for top := range tops {
		err := os.Symlink(filepath.Join(dataLink, top), filepath.Join(dir, top))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func same(dir string, content files) bool {
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if f, ok := content[rel]; err != nil || !ok || !bytes.Equal(b, f.data) {
			return fs.ErrInvalid
		}
		n++
		return nil
	})
	return err == nil && n == len(content)
}

func (m *Mounter) configMap(ctx context.Context, p *corev1.Pod, s *corev1.ConfigMapVolumeSource) (files, error) {
	c, err := m.Sources.ConfigMap(ctx, p.Namespace, s.Name)
	if apierrors.IsNotFound(err) && optional(s.Optional) {
		return files{}, nil
	}
	if err != nil {
		return nil, err
	}
	data := map[string][]byte{}
	for k, v := range c.Data {
		data[k] = []byte(v)
	}
	for k, v := range c.BinaryData {
		data[k] = v
	}
	return project(data, s.Items, optional(s.Optional), "configmap")
}

func (m *Mounter) secret(ctx context.Context, p *corev1.Pod, s *corev1.SecretVolumeSource) (files, error) {
	o, err := m.Sources.Secret(ctx, p.Namespace, s.SecretName)
	if apierrors.IsNotFound(err) && optional(s.Optional) {
		return files{}, nil
	}
	if err != nil {
		return nil, err
	}
	return project(o.Data, s.Items, optional(s.Optional), "secret")
}

func optional(o *bool) bool { return o != nil && *o }

// project picks the keys asked for, or all.
func project(data map[string][]byte, items []corev1.KeyToPath, optional bool, kind string) (files, error) {
	out := files{}
	if len(items) == 0 {
		for k, v := range data {
			out[k] = file{data: v}
		}
		return out, nil
	}
	for _, i := range items {
		v, ok := data[i.Key]
		if !ok {
			if optional {
				continue
			}
			if kind == "configmap" {
				return nil, fmt.Errorf("configmap references non-existent config key: %s", i.Key)
			}
			return nil, fmt.Errorf("references non-existent secret key: %s", i.Key)
		}
		out[filepath.Clean(i.Path)] = file{data: v, mode: modeOf(i.Mode)}
	}
	return out, nil
}

func modeOf(m *int32) int32 {
	if m == nil {
		return 0
	}
	return *m
}

// sortedKeys is for output that must not depend on map order.
func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
