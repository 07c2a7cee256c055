// SPDX-License-Identifier: Apache-2.0

package native

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// root is an open folder that paths are looked up in as if it were "/": no
// link in it leads out, and no magic link of procfs is followed.
type root struct{ fd int }

const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// open opens what is at path, by default for nothing but to refer to it.
func (r root) open(path string, flags int) (int, error) {
	return linux.OpenAt(r.fd, path, unix.O_PATH|flags, inRoot)
}

// makeDir opens the folder at path, and makes what is missing of it. A link
// that leads to nothing is taken as the folder it names: images have /var/run
// as a link to a /run that is not there.
func (r root) makeDir(path string) (int, error) {
	fd, err := r.open(path, unix.O_DIRECTORY)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	clean, err := r.resolve(path)
	if err != nil {
		return -1, err
	}
	if fd, err = unix.Dup(r.fd); err != nil {
		return -1, err
	}
	unix.CloseOnExec(fd)
	for name := range strings.SplitSeq(clean, "/") {
		if name == "" {
			continue
		}
		// What another puts in the way meanwhile is not followed.
		if err := unix.Mkdirat(fd, name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			unix.Close(fd)
			return -1, err
		}
		next, err := linux.OpenAt(fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
		unix.Close(fd)
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

// resolve follows the links of path as far as there are any. The calling
// thread's own root must be r.
func (r root) resolve(path string) (string, error) { return securejoin.SecureJoin("/", path) }

// parent opens the folder that path is in, made if missing, and gives the last
// part of its name.
func (r root) parent(path string) (int, string, error) {
	clean, err := r.resolve(path)
	if err != nil {
		return -1, "", err
	}
	if clean == "/" {
		return -1, "", unix.EISDIR
	}
	fd, err := r.makeDir(filepath.Dir(clean))
	return fd, filepath.Base(clean), err
}

// makeFile refers to the file at path, an empty one if there is none.
func (r root) makeFile(path string) (int, error) {
	fd, err := r.open(path, 0)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	dir, name, err := r.parent(path)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	fd, err = unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o755)
	if err == nil {
		unix.Close(fd)
	} else if !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return linux.OpenAt(dir, name, unix.O_PATH|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
}

func isDir(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// onFilesystem checks the kind of filesystem a descriptor is of.
func onFilesystem(fd int, magic int64, name string) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	if int64(st.Type) != magic {
		return fmt.Errorf("it is not of type %s", name)
	}
	return nil
}
