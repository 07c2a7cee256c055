// SPDX-License-Identifier: Apache-2.0

// Package machine says what the tests find of a node on the machine beside it:
// it asks the kernel and the file system, never the node.
package machine

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Instance is the short name a data folder's things carry on the machine.
func Instance(dir string) string {
	h := fnv.New32a()
	h.Write([]byte(dir))
	return fmt.Sprintf("peapod-%08x", h.Sum32())
}

// Belongings is everything on the machine that belongs to the node of a data
// folder: processes, mounts, links, rules, cgroups, and what its Pods keep in
// the folder. With about, only what names that.
func Belongings(dir, about string) (out []string) {
	for _, list := range [][]string{Processes(dir), mounts(dir), links(dir), Tables(dir), cgroups(dir), records(dir)} {
		for _, s := range list {
			if strings.Contains(s, about) {
				out = append(out, s)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Processes are those in the node's cgroups, and its keeper.
func Processes(dir string) (out []string) {
	for _, p := range all() {
		if group, ok := p.group(dir); ok {
			out = append(out, "process "+p.command()+" in "+group)
		} else if c := p.command(); strings.Contains(c, dir+"/keeper") || strings.Contains(c, dir+"/runtime") {
			out = append(out, "process "+c)
		}
	}
	return out
}

// Keeper is the pid of the node's keeper, as that has written it down.
func Keeper(dir string) (int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "keeper", "keeper.json"))
	if err != nil {
		return 0, err
	}
	var keeper struct {
		Process struct {
			Pid int `json:"pid"`
		} `json:"process"`
	}
	err = json.Unmarshal(b, &keeper)
	return keeper.Process.Pid, err
}

// Member is a living process of a container. A process that has ended and
// waits for its parent does not live.
type Member struct {
	Pid            int
	UID, Container string // of its Pod; the container's id in the runtime
}

// Members are the living processes in the cgroups of a node's containers.
func Members(dir string) (out []Member) {
	for _, p := range all() {
		group, ok := p.group(dir)
		if !ok || p.state() == "Z" {
			continue
		}
		// .../pod<uid>/<container>
		names := strings.Split(group, "/")
		for i, name := range names[:len(names)-1] {
			if uid, ok := strings.CutPrefix(name, "pod"); ok && names[i+1] != "" {
				out = append(out, Member{p.pid, uid, names[i+1]})
			}
		}
	}
	return out
}

// process is one that was there a moment ago; what is asked of it later may be
// empty.
type process struct {
	pid    int
	groups string
}

// all are the machine's processes, without those that only wait for its init.
func all() (out []process) {
	found, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range found {
		pid, err := strconv.Atoi(filepath.Base(dir))
		groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if p := (process{pid, string(groups)}); err == nil && !p.adopted() {
			out = append(out, p)
		}
	}
	return out
}

func (p process) read(file string) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.pid, file))
	return string(b)
}

func (p process) command() string {
	return strings.TrimSpace(strings.ReplaceAll(p.read("cmdline"), "\x00", " "))
}

// group is its cgroup, from the node's own on.
func (p process) group(dir string) (string, bool) {
	i := strings.Index(p.groups, "/"+Instance(dir)+"/")
	if i < 0 {
		return "", false
	}
	group, _, _ := strings.Cut(p.groups[i:], "\n")
	return group, true
}

// state is the kernel's letter for what it does.
func (p process) state() string {
	_, rest, _ := strings.Cut(p.read("stat"), ") ")
	state, _, _ := strings.Cut(rest, " ")
	return state
}

// adopted: it is dead, its parent too, and it waits for the machine's init to
// look: nothing of ours can hasten that.
func (p process) adopted() bool {
	_, rest, _ := strings.Cut(p.read("stat"), ") ")
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
	h.Write([]byte(Instance(dir)))
	all, _ := net.Interfaces()
	for _, l := range all {
		if strings.HasPrefix(l.Name, fmt.Sprintf("pea%04x-", h.Sum32()&0xffff)) {
			out = append(out, "link "+l.Name)
		}
	}
	return out
}

// Tables are the node's nftables tables with what is in their sets and maps.
func Tables(dir string) (out []string) {
	for _, family := range []string{"ip", "ip6"} {
		b, err := exec.Command("nft", "list", "table", family, Instance(dir)).Output()
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
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + Instance(dir))
	for _, root := range append(roots, "/sys/fs/cgroup/"+Instance(dir)) {
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
	for _, p := range []string{"runtime/sandboxes/*", "runtime/containers/*", "runtime/oci/*/*", "node/pods/*", "log/pods/*", "network/sandboxes/*", "images/holds/*", "keeper/run/*", "volumes/*"} {
		found, _ := filepath.Glob(filepath.Join(dir, p))
		for _, f := range found {
			out = append(out, "record "+strings.TrimPrefix(f, dir))
		}
	}
	return out
}
