// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Bind makes source appear at target, which must exist. With recursive the
// mounts below source come along.
func Bind(source, target string, recursive bool) error {
	flags := uintptr(unix.MS_BIND)
	if recursive {
		flags |= unix.MS_REC
	}
	if err := unix.Mount(source, target, "", flags, ""); err != nil {
		return fmt.Errorf("cannot bind %s to %s: %w", source, target, err)
	}
	return nil
}

// Tmpfs mounts an empty tmpfs of at most size bytes (0: the kernel's default,
// half of the memory) with the given mode bits at target. Nothing in it may be
// a device or a set-user-ID program; flags adds to that, as unix.MS_NOEXEC.
func Tmpfs(target string, size int64, mode os.FileMode, flags uintptr) error {
	opts := "mode=" + strconv.FormatUint(uint64(unixMode(mode)), 8)
	if size > 0 {
		opts += ",size=" + strconv.FormatInt(size, 10)
	}
	if err := unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|flags, opts); err != nil {
		return fmt.Errorf("cannot mount tmpfs on %s: %w", target, err)
	}
	return nil
}

func unixMode(m os.FileMode) uint32 {
	bits := uint32(m.Perm())
	if m&os.ModeSticky != 0 {
		bits |= unix.S_ISVTX
	}
	if m&os.ModeSetgid != 0 {
		bits |= unix.S_ISGID
	}
	if m&os.ModeSetuid != 0 {
		bits |= unix.S_ISUID
	}
	return bits
}

// OverlayMount names the folders of an overlay. Lower is ordered top first, as
// the kernel wants it. Without Upper and Work it is read-only.
type OverlayMount struct {
	Lower       []string
	Upper, Work string
	// Options are further options of the overlay filesystem, such as
	// "index=off" or "userxattr".
	Options []string
}

// Overlay mounts o at target. It speaks the newer mount interface, where each
// lower folder is an option of its own, so neither the number nor the names
// of layers are limited by the size of a page; a kernel before 6.7, which
// cannot do that, gets mount(2).
func Overlay(o OverlayMount, target string) error {
	if len(o.Lower) == 0 {
		return fmt.Errorf("cannot mount overlay on %s: no lower folder", target)
	}
	err := overlayNew(o, target)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		err = overlayOld(o, target)
	}
	if err != nil {
		return fmt.Errorf("cannot mount overlay on %s: %w", target, err)
	}
	return nil
}

func overlayNew(o OverlayMount, target string) error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fd)
	set := func(key, value string) {
		if err == nil {
			if err = unix.FsconfigSetString(fd, key, value); err != nil {
				err = fmt.Errorf("%s=%s: %w", key, value, err)
			}
		}
	}
	set("source", "overlay")
	for _, l := range o.Lower {
		set("lowerdir+", l)
	}
	if o.Upper != "" {
		set("upperdir", o.Upper)
		set("workdir", o.Work)
	}
	for _, opt := range o.Options {
		key, value, isPair := strings.Cut(opt, "=")
		if isPair {
			set(key, value)
		} else if err == nil {
			err = unix.FsconfigSetFlag(fd, key)
		}
	}
	if err != nil {
		return err
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	mfd, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("fsmount: %w", err)
	}
	defer unix.Close(mfd)
	if err := unix.MoveMount(mfd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

func overlayOld(o OverlayMount, target string) error {
	opts := "lowerdir=" + strings.Join(escapeAll(o.Lower), ":")
	if o.Upper != "" {
		opts += ",upperdir=" + escape(o.Upper) + ",workdir=" + escape(o.Work)
	}
	for _, x := range o.Options {
		opts += "," + x
	}
	if len(opts) >= os.Getpagesize() {
		return fmt.Errorf("the names of %d layers do not fit into one page: %w", len(o.Lower), unix.E2BIG)
	}
	return unix.Mount("overlay", target, "overlay", 0, opts)
}

func escapeAll(paths []string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = escape(p)
	}
	return out
}

// escape protects the separators of the overlay option string.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`).Replace(path)
}

// Unmount takes the topmost mount off target; one that is busy is an error. A
// target that is no mount point, or is not there, is fine.
func Unmount(target string) error { return umount(target, 0) }

// Detach takes all mounts off target at once, also busy ones: who still uses
// one keeps it until done. A target that is no mount point, or is not there,
// is fine.
func Detach(target string) error {
	for {
		mounted, err := IsMountPoint(target)
		if err != nil || !mounted {
			return err
		}
		if err := umount(target, unix.MNT_DETACH); err != nil {
			return err
		}
	}
}

func umount(target string, flags int) error {
	err := unix.Unmount(target, flags|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot unmount %s: %w", target, err)
	}
	return nil
}

// IsMountPoint tells whether something is mounted exactly on path. A path that
// is not there is not one.
func IsMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot stat %s: %w", path, err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// MountsBelow returns the mount points of our mount namespace at or below dir,
// deepest and latest first: the order in which they can be taken off.
func MountsBelow(dir string) ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot list mounts: %w", err)
	}
	dir = filepath.Clean(dir)
	var out []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		p := unescape(f[4])
		if p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/") {
			out = append([]string{p}, out...)
		}
	}
	return out, nil
}

// unescape undoes the octal escapes of proc_pid_mountinfo(5).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Propagation tells whether the mount that path lies on is shared, and whether
// it is a slave (mount_namespaces(7)); it may be both or neither.
func Propagation(path string) (shared, slave bool, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		return false, false, fmt.Errorf("cannot stat %s: %w", path, err)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, false, fmt.Errorf("cannot list mounts: %w", err)
	}
	id := strconv.FormatUint(st.Mnt_id, 10)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 7 || f[0] != id {
			continue
		}
		for _, tag := range f[6:] {
			if tag == "-" {
				break
			}
			shared = shared || strings.HasPrefix(tag, "shared:")
			slave = slave || strings.HasPrefix(tag, "master:")
		}
		return shared, slave, nil
	}
	return false, false, fmt.Errorf("cannot find mount of %s", path)
}
