// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	corev1 "k8s.io/api/core/v1"
)

// envFileLimit bounds what is read of a file that containers have written.
const envFileLimit = 1 << 20

// envFromFile reads a variable that an earlier container has left in a volume
// (KEP-3721); ok is false for an optional one that is not there, or is empty.
func (a *Agent) envFromFile(ctx context.Context, p *corev1.Pod, r *corev1.FileKeySelector) (v string, ok bool, err error) {
	i := slices.IndexFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == r.VolumeName })
	if i < 0 {
		return "", false, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef", r.VolumeName)
	}
	root, err := a.volumes.Mount(ctx, p, p.Spec.Volumes[i])
	if err != nil {
		return "", false, fmt.Errorf("failed to get host path for volume %q: %w", r.VolumeName, err)
	}
	path, err := securejoin.SecureJoin(root, r.Path)
	if err != nil {
		return "", false, err
	}
	f, err := os.Open(path)
	if err == nil {
		v, err = envLine(io.LimitReader(f, envFileLimit), r.Key)
		f.Close()
	}
	switch {
	case err != nil:
		a.cfg.Log.Info("environment file cannot be used", "pod", key(p), "volume", r.VolumeName, "path", r.Path, "err", err)
		return "", false, errors.New("couldn't parse env file")
	case v == "" && !is(r.Optional):
		return "", false, fmt.Errorf("environment variable key %q not found in file %q", r.Key, path)
	}
	return v, v != "", nil
}

// envLine finds NAME='value' in a file of the POSIX shell's assignments, of
// which only the single-quoted are allowed; a value may go over lines. All
// before the name must be well-formed.
func envLine(r io.Reader, name string) (string, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := strings.TrimLeft(lines.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		left, value, ok := strings.Cut(line, "=")
		switch {
		case !ok:
			return "", errors.New("a line has no '='")
		case left == "" || strings.TrimRight(left, " \t") != left:
			return "", errors.New("a line has no name before '='")
		case strings.TrimLeft(value, " \t") != value: // nothing is assigned, as in a shell
			value = "''"
		case !strings.HasPrefix(value, "'"):
			return "", fmt.Errorf("the value of %s is not in single quotes", left)
		}
		value, rest, ok := strings.Cut(value[1:], "'")
		for !ok {
			if !lines.Scan() {
				return "", fmt.Errorf("the value of %s has no end", left)
			}
			var more string
			more, rest, ok = strings.Cut(lines.Text(), "'")
			value += "\n" + more
		}
		if rest = strings.TrimLeft(rest, " \t"); rest != "" && rest[0] != '#' {
			return "", fmt.Errorf("something follows the value of %s", left)
		}
		if left == name {
			return value, nil
		}
	}
	return "", lines.Err()
}
