// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/sandbox"
)

// Level says how bad a finding is.
type Level int

const (
	Good  Level = iota // as it should be
	Poor               // Pods run, something is worse than it could be
	Fatal              // Pods cannot run
)

// Finding is one thing `peapod doctor` looked at.
type Finding struct {
	Subject string
	Level   Level
	Found   string
	Mend    string // what to do about it; empty when Good
}

// Examine looks at everything a node needs of this machine. dataDir is where
// the state would be kept.
func Examine(ctx context.Context, dataDir string) []Finding {
	return append(examineFatal(dataDir, true), examineRuntimes(ctx), examineOOM(), examineFiles())
}

// examineFatal is the quick part that `up` runs before it starts anything. The
// OCI runtime is left to the launcher's own trial start; with an external CRI
// runtime much is that one's business.
func examineFatal(dataDir string, builtIn bool) []Finding {
	found := []Finding{examineRoot(), examineKernel(), examineCgroups("/proc/self/mountinfo")}
	if builtIn {
		found = append(found, examineOverlay("/proc/filesystems"), examineNftables(), examineForwarding(), examineDataDir(dataDir), examineKeeper())
	}
	return found
}

// fit turns the fatal findings into one error.
func fit(findings []Finding) error {
	var bad []error
	for _, f := range findings {
		if f.Level == Fatal {
			bad = append(bad, fmt.Errorf("%s: %s (mend: %s)", f.Subject, f.Found, f.Mend))
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnfit, errors.Join(bad...))
}

func examineRoot() Finding {
	f := Finding{Subject: "privileges", Found: "root, with CAP_SYS_ADMIN and CAP_NET_ADMIN"}
	if os.Geteuid() != 0 {
		f.Level, f.Found, f.Mend = Fatal, "not root", "run peapod with sudo"
		return f
	}
	for name, bit := range map[string]int{"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_NET_ADMIN": unix.CAP_NET_ADMIN} {
		if !haveCapability(bit) {
			f.Level, f.Found, f.Mend = Fatal, "root without "+name, "start peapod outside the container, or give the container this capability"
		}
	}
	return f
}

func haveCapability(bit int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return false
	}
	return data[bit/32].Effective&(1<<(bit%32)) != 0
}

// examineKernel asks for 5.9, the first with everything used on a Pod's path:
// pidfd (5.3), openat2 (5.6), close_range (5.9).
func examineKernel() Finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Finding{"kernel", Fatal, "uname: " + err.Error(), "report this"}
	}
	release := unix.ByteSliceToString(u.Release[:])
	major, minor := kernelVersion(release)
	switch {
	case major < 5 || major == 5 && minor < 9:
		return Finding{"kernel", Fatal, release, "boot Linux 5.9 or later"}
	case major < 6 || major == 6 && minor < 15:
		return Finding{Subject: "kernel", Found: release + " (exit codes that fall into a crash of the keeper are lost before 6.15)"}
	}
	return Finding{Subject: "kernel", Found: release}
}

// kernelVersion reads the first two numbers of a kernel release.
func kernelVersion(release string) (major, minor int) {
	parts := strings.FieldsFunc(release, func(r rune) bool { return r < '0' || r > '9' })
	if len(parts) > 0 {
		major, _ = strconv.Atoi(parts[0])
	}
	if len(parts) > 1 {
		minor, _ = strconv.Atoi(parts[1])
	}
	return major, minor
}

// examineCgroups looks for the controllers in mountinfo: v2, v1 or both.
func examineCgroups(mountinfo string) Finding {
	b, err := os.ReadFile(mountinfo)
	if err != nil {
		return Finding{"cgroups", Fatal, err.Error(), "mount /proc"}
	}
	v1, v2 := cgroupMounts(string(b))
	need := []string{"cpu", "memory", "pids"}
	if v2 != "" {
		have, _ := os.ReadFile(filepath.Join(v2, "cgroup.controllers"))
		if missing := lacking(need, strings.Fields(string(have))); len(missing) == 0 {
			return Finding{Subject: "cgroups", Found: "v2"}
		}
	}
	if missing := lacking(need, v1); len(missing) > 0 {
		return Finding{"cgroups", Fatal, "no controller for " + strings.Join(missing, ", "), "mount cgroup v2 at /sys/fs/cgroup with these controllers enabled"}
	}
	kind := "v1"
	if v2 != "" {
		kind = "hybrid (controllers on v1)"
	}
	return Finding{Subject: "cgroups", Found: kind}
}

// cgroupMounts reads the v1 controllers and the v2 mount point.
func cgroupMounts(mountinfo string) (v1 []string, v2 string) {
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields, fs := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(fs) < 3 {
			continue
		}
		switch fs[0] {
		case "cgroup2":
			v2 = fields[4]
		case "cgroup":
			v1 = append(v1, strings.Split(fs[2], ",")...)
		}
	}
	return v1, v2
}

func lacking(need, have []string) (missing []string) {
	for _, n := range need {
		if !slices.Contains(have, n) {
			missing = append(missing, n)
		}
	}
	return missing
}

func examineOverlay(filesystems string) Finding {
	b, err := os.ReadFile(filesystems)
	if err == nil && strings.Contains(string(b), "\toverlay\n") {
		return Finding{Subject: "overlayfs", Found: "in the kernel"}
	}
	if err := exec.Command("modprobe", "overlay").Run(); err == nil {
		return Finding{Subject: "overlayfs", Found: "loaded as a module"}
	}
	return Finding{"overlayfs", Fatal, "not in the kernel and no module", "boot a kernel with CONFIG_OVERLAY_FS"}
}

func examineNftables() Finding {
	path, err := exec.LookPath("nft")
	if err != nil {
		return Finding{"nftables", Fatal, "nft is not on PATH", "apt-get install nftables"}
	}
	if out, err := exec.Command(path, "list", "tables").CombinedOutput(); err != nil {
		return Finding{"nftables", Fatal, strings.TrimSpace(string(out)), "boot a kernel with CONFIG_NF_TABLES"}
	}
	return Finding{Subject: "nftables", Found: path}
}

func examineForwarding() Finding {
	const path = "/proc/sys/net/ipv4/ip_forward"
	b, err := os.ReadFile(path)
	if err != nil {
		return Finding{"forwarding", Fatal, err.Error(), "mount /proc"}
	}
	if strings.TrimSpace(string(b)) == "1" {
		return Finding{Subject: "forwarding", Found: "on"}
	}
	if err := unix.Access(path, unix.W_OK); err != nil {
		return Finding{"forwarding", Fatal, "off, and /proc/sys is read-only", "sysctl -w net.ipv4.ip_forward=1"}
	}
	return Finding{Subject: "forwarding", Found: "off; `peapod up` turns it on and `peapod down` off again"}
}

// examineDataDir asks whether overlay can keep its upper layers there.
func examineDataDir(dir string) Finding {
	at := dir
	for at != "/" {
		info, err := os.Stat(at)
		if err == nil && !info.IsDir() {
			return Finding{"data folder", Fatal, at + " is not a folder", "choose another with --data-dir"}
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			break
		}
		at = filepath.Dir(at)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return Finding{"data folder", Fatal, fmt.Sprintf("%s: %v", at, err), "choose another with --data-dir"}
	}
	switch st.Type {
	case unix.OVERLAYFS_SUPER_MAGIC, unix.NFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC:
		return Finding{"data folder", Fatal, dir + " is on a file system that overlayfs cannot write on", "choose a folder on a local disk with --data-dir"}
	}
	free := int64(st.Bavail) * st.Bsize
	f := Finding{Subject: "data folder", Found: fmt.Sprintf("%s, %.1f GB free", dir, float64(free)/1e9)}
	if free < 1e9 {
		f.Level, f.Mend = Poor, "free some space: images are kept there"
	}
	return f
}

// examineKeeper looks for the program that holds the containers' output.
func examineKeeper() Finding {
	path, err := keeperBinary()
	if err != nil {
		return Finding{"keeper", Fatal, err.Error(), "put peapod-keeper into the folder of peapod; `make build` makes both"}
	}
	return Finding{Subject: "keeper", Found: path}
}

// examineOOM tells why critical Pods may not be protected from the kernel's
// out-of-memory killer.
func examineOOM() Finding {
	if haveCapability(unix.CAP_SYS_RESOURCE) {
		return Finding{Subject: "oom scores", Found: "can be lowered"}
	}
	return Finding{"oom scores", Poor, "cannot be lowered without CAP_SYS_RESOURCE: Guaranteed Pods are killed no later than others when memory runs out", "give peapod CAP_SYS_RESOURCE"}
}

func examineFiles() Finding {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return Finding{"open files", Poor, err.Error(), "report this"}
	}
	f := Finding{Subject: "open files", Found: fmt.Sprintf("limit %d", r.Max)}
	if r.Max < 16384 {
		f.Level, f.Mend = Poor, "raise the hard limit (ulimit -Hn) to 65536 for hundreds of Pods"
	}
	return f
}

// examineRuntimes tries the OCI runtimes, as `up` does.
func examineRuntimes(ctx context.Context) Finding {
	dir, err := os.MkdirTemp("", "peapod-doctor-")
	if err != nil {
		return Finding{"OCI runtime", Fatal, err.Error(), "free some space in the folder for temporary files"}
	}
	defer os.RemoveAll(dir)
	l, err := sandbox.Find(ctx, []string{"crun", "runc"}, filepath.Join(dir, "trial"), filepath.Join(dir, "oci"))
	if err != nil {
		return Finding{"OCI runtime", Fatal, err.Error(), "apt-get install runc"}
	}
	return Finding{Subject: "OCI runtime", Found: l.Name() + " " + l.Version() + " (passed a trial start)"}
}
