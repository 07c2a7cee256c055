// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// instanceOf is the short name a data folder's things carry on the machine.
func instanceOf(dir string) string {
	h := fnv.New32a()
	h.Write([]byte(dir))
	return fmt.Sprintf("peapod-%08x", h.Sum32())
}

// belongings is everything on the machine that belongs to the node of a data
// folder: processes, mounts, links, rules, cgroups, and what its Pods keep in
// the folder. With about, only what names that.
func belongings(dir, about string) (out []string) {
	for _, list := range [][]string{processes(dir), mounts(dir), links(dir), tables(dir), cgroups(dir), records(dir)} {
		for _, s := range list {
			if strings.Contains(s, about) {
				out = append(out, s)
			}
		}
	}
	slices.Sort(out)
	return out
}

// processes are those in the node's cgroups, and its keeper.
func processes(dir string) (out []string) {
	found, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range found {
		groups, _ := os.ReadFile(filepath.Join(p, "cgroup"))
		line, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		command := strings.TrimSpace(string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		if adopted(p) {
			continue
		}
		if i := strings.Index(string(groups), "/"+instanceOf(dir)+"/"); i >= 0 {
			group, _, _ := strings.Cut(string(groups[i:]), "\n")
			out = append(out, "process "+command+" in "+group)
		} else if strings.Contains(command, dir+"/keeper") || strings.Contains(command, dir+"/runtime") {
			out = append(out, "process "+command)
		}
	}
	return out
}

// adopted: it is dead, its parent too, and it waits for the machine's init to
// look: nothing of ours can hasten that.
func adopted(proc string) bool {
	b, _ := os.ReadFile(filepath.Join(proc, "stat"))
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "Z 1 ")
}

func mounts(dir string) (out []string) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for _, l := range strings.Split(string(b), "\n") {
		if f := strings.Fields(l); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			out = append(out, "mount "+f[4])
		}
	}
	return out
}

// links are the machine's ends; a Pod's own end goes with it.
func links(dir string) (out []string) {
	h := fnv.New32a()
	h.Write([]byte(instanceOf(dir)))
	all, _ := net.Interfaces()
	for _, l := range all {
		if strings.HasPrefix(l.Name, fmt.Sprintf("pea%04x-", h.Sum32()&0xffff)) {
			out = append(out, "link "+l.Name)
		}
	}
	return out
}

// tables are the node's nftables tables with what is in their sets and maps.
func tables(dir string) (out []string) {
	for _, family := range []string{"ip", "ip6"} {
		b, err := exec.Command("nft", "list", "table", family, instanceOf(dir)).Output()
		if err != nil {
			continue // there is none
		}
		out = append(out, "table "+family)
		for _, l := range strings.Split(string(b), "\n") {
			if l = strings.TrimSpace(l); strings.HasPrefix(l, "elements") {
				out = append(out, "rule "+l)
			}
		}
	}
	return out
}

func cgroups(dir string) (out []string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + instanceOf(dir))
	for _, root := range append(roots, "/sys/fs/cgroup/"+instanceOf(dir)) {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				out = append(out, "cgroup "+path)
			}
			return nil // it may go while we look
		})
	}
	return out
}

// records are the folders and files kept for each Pod, container and address.
func records(dir string) (out []string) {
	for _, p := range []string{"runtime/sandboxes/*", "runtime/containers/*", "runtime/oci/*/*", "node/pods/*", "log/pods/*", "network/sandboxes/*", "images/holds/*", "keeper/run/*"} {
		found, _ := filepath.Glob(filepath.Join(dir, p))
		for _, f := range found {
			out = append(out, "record "+strings.TrimPrefix(f, dir))
		}
	}
	return out
}

// leftovers is what the machine holds of a Pod.
func leftovers(t *testing.T, uid types.UID) []string {
	t.Helper()
	return belongings(c.dir, string(uid))
}

// moment is the machine's monotonic clock in milliseconds, as witness has it.
func moment(t *testing.T) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano() / 1e6
}
