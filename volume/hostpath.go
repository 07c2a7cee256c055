// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	corev1 "k8s.io/api/core/v1"
)

// hostPath checks that the node's path is what the Pod expects, and makes it
// where it may.
func hostPath(h *corev1.HostPathVolumeSource) (string, error) {
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	info, err := os.Stat(h.Path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return "", err
	}
	is := func(ok bool, what string) (string, error) {
		if missing || !ok {
			return "", fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, what)
		}
		return h.Path, nil
	}
	mode := fs.FileMode(0)
	if info != nil {
		mode = info.Mode()
	}
	switch kind {
	case corev1.HostPathDirectoryOrCreate:
		if missing {
			return h.Path, os.MkdirAll(h.Path, 0o755)
		}
		return is(mode.IsDir(), "directory")
	case corev1.HostPathDirectory:
		return is(mode.IsDir(), "directory")
	case corev1.HostPathFileOrCreate:
		if missing {
			f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_EXCL, 0o644)
			if err != nil {
				return "", err
			}
			return h.Path, f.Close()
		}
		return is(mode.IsRegular(), "file")
	case corev1.HostPathFile:
		return is(mode.IsRegular(), "file")
	case corev1.HostPathSocket:
		return is(mode&fs.ModeSocket != 0, "socket file")
	case corev1.HostPathCharDev:
		return is(mode&fs.ModeCharDevice != 0, "character device")
	case corev1.HostPathBlockDev:
		return is(mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0, "block device")
	}
	return h.Path, nil
}
