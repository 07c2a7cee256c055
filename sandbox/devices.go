// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// devices: the device cgroup denies all but what every container may use and
// what it asked for; a privileged one may use all.
func (in Input) devices(s *specs.Spec) error {
	s.Linux.Devices = in.Devices
	r := s.Linux.Resources
	if in.privileged() {
		r.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return nil
	}
	r.Devices = append([]specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, defaultDevices()...)
	for i, d := range in.Devices {
		access := "rwm"
		if i < len(in.Permissions) && in.Permissions[i] != "" {
			access = in.Permissions[i]
		}
		if strings.Trim(access, "rwm") != "" {
			return invalid("device %q: permissions %q are not of r, w and m", d.Path, access)
		}
		r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: access})
	}
	return nil
}

// defaultDevices are null, zero, full, random, urandom, tty, console, ptmx and
// the terminals of devpts; nodes of all kinds may be made.
func defaultDevices() []specs.LinuxDeviceCgroup {
	out := []specs.LinuxDeviceCgroup{
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
	}
	for _, d := range [][2]int64{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {5, 2}, {136, -1}} {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &d[0], Access: "rwm"}
		if d[1] >= 0 {
			rule.Minor = &d[1]
		}
		out = append(out, rule)
	}
	return out
}

// ContainerDevices looks up the devices that a CRI container asks for, with
// their permissions. A folder stands for all devices in it.
func ContainerDevices(asked []*runtimeapi.Device) (devices []specs.LinuxDevice, permissions []string, err error) {
	for _, a := range asked {
		path, err := filepath.EvalSymlinks(a.GetHostPath())
		if err != nil {
			return nil, nil, fmt.Errorf("cannot find device: %w", err)
		}
		found, err := devicesAt(path)
		if err != nil {
			return nil, nil, err
		}
		for _, d := range found {
			inside := a.GetContainerPath()
			if inside == "" {
				inside = a.GetHostPath()
			}
			d.Path = filepath.Join(inside, strings.TrimPrefix(d.Path, path))
			devices = append(devices, d)
			permissions = append(permissions, a.GetPermissions())
		}
	}
	return devices, permissions, nil
}

func devicesAt(path string) ([]specs.LinuxDevice, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot find device: %w", err)
	}
	if info.IsDir() {
		return devicesBelow(path)
	}
	d, err := device(path)
	if err != nil {
		return nil, err
	}
	return []specs.LinuxDevice{d}, nil
}

var errNoDevice = errors.New("not a device")

func device(path string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return specs.LinuxDevice{}, fmt.Errorf("cannot find device %s: %w", path, err)
	}
	mode := fs.FileMode(st.Mode & 0o7777)
	d := specs.LinuxDevice{Path: path, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: &mode, UID: &st.Uid, GID: &st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return d, fmt.Errorf("cannot use device %s: %w", path, errNoDevice)
	}
	return d, nil
}

// AllDevices returns the devices of the machine, for a privileged container:
// all below /dev but terminals and what a container has of its own.
func AllDevices() ([]specs.LinuxDevice, error) { return devicesBelow("/dev") }

func devicesBelow(root string) ([]specs.LinuxDevice, error) {
	var out []specs.LinuxDevice
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went while we looked
		}
		if err != nil {
			return err
		}
		switch path {
		case "/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts", "/dev/.udev":
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case "/dev/console", "/dev/ptmx":
			return nil
		}
		if e.Type()&fs.ModeDevice == 0 {
			return nil
		}
		d, err := device(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoDevice) {
			return nil
		}
		out = append(out, d)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list devices: %w", err)
	}
	return out, nil
}
