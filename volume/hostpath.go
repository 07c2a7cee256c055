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
	if h.Type == nil || *h.Type == corev1.HostPathUnset {
		return h.Path, nil
	}
	_, err := os.Stat(h.Path)
	missing := errors.Is(err, fs.ErrNotExist)
	want, expected := *h.Type, ""
	switch *h.Type {
	case corev1.HostPathDirectoryOrCreate:
		if missing {
			return h.Path, os.MkdirAll(h.Path, 0o755)
		}
		want, expected = corev1.HostPathDirectory, "directory"
	case corev1.HostPathDirectory:
		expected = "directory"
	case corev1.HostPathFileOrCreate:
		if missing {
			return h.Path, makeFile(h.Path)
		}
		want, expected = corev1.HostPathFile, "file"
	case corev1.HostPathFile:
		expected = "file"
	case corev1.HostPathSocket:
		expected = "socket file"
	case corev1.HostPathCharDev:
		expected = "character device"
	case corev1.HostPathBlockDev:
		expected = "block device"
	default:
		return "", fmt.Errorf("%s is an invalid volume type", *h.Type)
	}
	is, err := typeOf(h.Path)
	if err != nil {
		return "", fmt.Errorf("hostPath type check failed, %s is not a %s, unable to determine its type: %w", h.Path, expected, err)
	}
	if is != want {
		return "", fmt.Errorf("hostPath type check failed: %s is not a %s, it's a %s", h.Path, expected, is)
	}
	return h.Path, nil
}

func makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// typeOf finds what a path is, behind links.
func typeOf(path string) (corev1.HostPathType, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("path %q does not exist", path)
	}
	if err != nil {
		return "", err
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return corev1.HostPathDirectory, nil
	case mode.IsRegular():
		return corev1.HostPathFile, nil
	case mode&fs.ModeSocket != 0:
		return corev1.HostPathSocket, nil
	case mode&fs.ModeCharDevice != 0:
		return corev1.HostPathCharDev, nil
	case mode&fs.ModeDevice != 0:
		return corev1.HostPathBlockDev, nil
	}
	return "", errors.New("only recognise file, directory, socket, block device and character device")
}
