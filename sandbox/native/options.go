// SPDX-License-Identifier: Apache-2.0

package native

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountOptions are the options of a mount, sorted by who takes them.
type mountOptions struct {
	// set are attributes of the mount (MOUNT_ATTR_*), all those of the mounts
	// below it.
	set, all uint64
	// propagation is an MS_ constant or 0; below: also of the mounts below it.
	propagation uint64
	below       bool
	// recursive: the mounts below the source come along.
	recursive bool
	// data is for the filesystem, as key=value or key.
	data []string
}

// attributes are the words for what a mount can have. Those that take
// something away are what a new mount is without being told; on a bind mount
// they would widen what the machine has narrowed, and are not listened to.
func attributes() map[string]uint64 {
	return map[string]uint64{
		"ro": unix.MOUNT_ATTR_RDONLY, "nosuid": unix.MOUNT_ATTR_NOSUID, "nodev": unix.MOUNT_ATTR_NODEV, "noexec": unix.MOUNT_ATTR_NOEXEC,
		"noatime": unix.MOUNT_ATTR_NOATIME, "nodiratime": unix.MOUNT_ATTR_NODIRATIME, "strictatime": unix.MOUNT_ATTR_STRICTATIME,
		"nosymfollow": unix.MOUNT_ATTR_NOSYMFOLLOW,
		"rw":          0, "suid": 0, "dev": 0, "exec": 0, "atime": 0, "diratime": 0, "relatime": 0, "defaults": 0,
	}
}

// parseOptions sorts the options of a mount. Words of nobody are the
// filesystem's; a bind mount has none.
func parseOptions(m specs.Mount) (mountOptions, error) {
	var o mountOptions
	words := attributes()
	for _, w := range m.Options {
		attr, known := words[w]
		r, recursive := strings.CutPrefix(w, "r")
		rattr, rknown := words[r]
		switch {
		case known:
			o.set |= attr
		case recursive && rknown && (rattr != 0 || w == "rrw"):
			if rattr == 0 {
				return o, fmt.Errorf("option %q of mount %s is not supported", w, m.Destination)
			}
			o.all |= rattr
		case w == "bind":
		case w == "rbind":
			o.recursive = true
		case w == "private", w == "rprivate":
			o.propagation, o.below = unix.MS_PRIVATE, w != "private"
		case w == "slave", w == "rslave":
			o.propagation, o.below = unix.MS_SLAVE, w != "slave"
		case w == "shared", w == "rshared":
			o.propagation, o.below = unix.MS_SHARED, w != "shared"
		case w == "unbindable", w == "runbindable":
			o.propagation, o.below = unix.MS_UNBINDABLE, w != "unbindable"
		case m.Type == "bind", w == "tmpcopyup", w == "idmap", w == "ridmap", w == "nofail", w == "sync", w == "dirsync", w == "mand", w == "silent":
			return o, fmt.Errorf("option %q of mount %s is not supported", w, m.Destination)
		default:
			o.data = append(o.data, w)
		}
	}
	return o, nil
}

// atime completes an attribute mask for mount_setattr, which wants the times
// cleared before another is set.
func atime(set uint64) (clr uint64) {
	if set&(unix.MOUNT_ATTR_NOATIME|unix.MOUNT_ATTR_STRICTATIME) != 0 {
		return unix.MOUNT_ATTR__ATIME
	}
	return 0
}

// apply gives a detached or attached mount what o says of it.
func (o mountOptions) apply(fd int) error {
	setattr := func(a unix.MountAttr, recursive bool) error {
		if a == (unix.MountAttr{}) {
			return nil
		}
		flags := uint(unix.AT_EMPTY_PATH)
		if recursive {
			flags |= unix.AT_RECURSIVE
		}
		return unix.MountSetattr(fd, "", flags, &a)
	}
	if err := setattr(unix.MountAttr{Attr_set: o.set, Attr_clr: atime(o.set)}, false); err != nil {
		return err
	}
	if err := setattr(unix.MountAttr{Attr_set: o.all, Attr_clr: atime(o.all)}, true); err != nil {
		return err
	}
	return setattr(unix.MountAttr{Propagation: o.propagation}, o.below)
}

// newMount makes a filesystem, with what more there is to be said of it, and a
// detached mount of it.
func newMount(fstype, source string, o mountOptions, more ...func(fs int) error) (int, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if source != "" {
		if err := unix.FsconfigSetString(fs, "source", source); err != nil {
			return -1, err
		}
	}
	for _, say := range more {
		if err := say(fs); err != nil {
			return -1, err
		}
	}
	for _, d := range o.data {
		key, value, pair := strings.Cut(d, "=")
		if pair {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return -1, fmt.Errorf("option %s: %w", d, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(o.set))
}

// showing makes a procfs that of a PID namespace, which is the maker's else. A
// kernel before 6.18 cannot.
func showing(pids int) func(fs int) error {
	return func(fs int) error { return unix.FsconfigSetFd(fs, "pidns", pids) }
}

// canShow tells whether a procfs can be made for a PID namespace from outside.
func canShow(pids int) bool {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fs)
	return showing(pids)(fs) == nil
}

// clone makes a detached mount of what is open.
func clone(fd int, recursive bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return unix.OpenTree(fd, "", flags)
}

// attach puts a detached mount on what is open as target.
func attach(mount, target int) error {
	return unix.MoveMount(mount, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}
