// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/linux"
)

func sized(uid, requests, limits string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{
			Requests: amounts(strings.Fields(requests)...), Limits: amounts(strings.Fields(limits)...),
		}}}},
	}
}

const allControllers = "cpuset cpu io memory hugetlb pids"

// unified is a tree as cgroup v2 has it, with the folders that will be made:
// the kernel puts the files of controllers into them.
func unified(t *testing.T, dirs ...string) *cgroups {
	t.Helper()
	root := t.TempDir()
	for _, d := range append(dirs, "", "peapod", "peapod/kubepods", "peapod/kubepods/burstable", "peapod/kubepods/besteffort") {
		put(t, filepath.Join(root, d, "cgroup.controllers"), allControllers)
		put(t, filepath.Join(root, d, "cgroup.subtree_control"), "cpuset cpu io memory pids")
	}
	return &cgroups{root: "peapod", layout: linux.CgroupLayout{Unified: root, UnifiedControllers: strings.Fields(allControllers)}}
}

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// holds checks what is in files below a folder, "" for none.
func holds(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	for file, text := range want {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(string(b)); got != text {
			t.Errorf("%s has %q, want %q", file, got, text)
		}
	}
}

// TestCgroupV2: what a kubelet writes for each class, in v2's units.
func TestCgroupV2(t *testing.T) {
	g := unified(t)
	for _, p := range []*corev1.Pod{
		sized("g", "cpu=500m memory=64Mi", "cpu=500m memory=64Mi"), sized("b1", "cpu=100m", "memory=1Gi"),
		sized("b2", "cpu=1", "cpu=2"), sized("e", "", ""),
	} {
		if err := g.make(p, limitsOf(p)); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, filepath.Join(g.layout.Unified, "peapod/kubepods"), map[string]string{
		"podg/cpu.weight": "20", "podg/cpu.max": "50000 100000", "podg/memory.max": "67108864",
		"burstable/podb1/cpu.weight": "4", "burstable/podb1/cpu.max": "", "burstable/podb1/memory.max": "1073741824",
		"burstable/podb2/cpu.weight": "39", "burstable/podb2/cpu.max": "200000 100000", "burstable/podb2/memory.max": "",
		"burstable/cpu.weight":       "43", // 1100m
		"besteffort/pode/cpu.weight": "1", "besteffort/pode/memory.max": "", "besteffort/cpu.weight": "1",
	})
	// A Pod that goes no longer counts.
	if err := os.RemoveAll(filepath.Join(g.layout.Unified, "peapod/kubepods/burstable/podb2")); err != nil {
		t.Fatal(err)
	}
	if err := g.remove(sized("b2", "", "")); err != nil {
		t.Fatal(err)
	}
	holds(t, filepath.Join(g.layout.Unified, "peapod/kubepods"), map[string]string{"burstable/cpu.weight": "4"})
}

// TestCgroupV2Delegates: each cgroup down to the Pod's parent hands down what it
// has not yet, and the Pod's own is left to the OCI runtime.
func TestCgroupV2Delegates(t *testing.T) {
	g := unified(t)
	if err := g.make(sized("b", "cpu=1", ""), podLimits{CPURequest: 1000}); err != nil {
		t.Fatal(err)
	}
	holds(t, g.layout.Unified, map[string]string{
		"cgroup.subtree_control": "+hugetlb", "peapod/cgroup.subtree_control": "+hugetlb", "peapod/kubepods/cgroup.subtree_control": "+hugetlb",
		"peapod/kubepods/burstable/cgroup.subtree_control": "+hugetlb", "peapod/kubepods/burstable/podb/cgroup.subtree_control": "",
	})
}

// TestCgroupV2Incomplete: a cgroup that has not been given what the machine has
// is told with its name; what the machine lacks is not needed.
func TestCgroupV2Incomplete(t *testing.T) {
	g := unified(t)
	root := g.layout.Unified
	put(t, filepath.Join(root, "peapod/cgroup.controllers"), "cpu memory")
	put(t, filepath.Join(root, "peapod/cgroup.subtree_control"), "cpu memory")
	err := g.make(sized("e", "", ""), podLimits{})
	if want := `cgroup "` + root + `/peapod" has some missing controllers: cpuset, hugetlb, io, pids`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v\nwant %s", err, want)
	}
	g.layout.UnifiedControllers = []string{"cpu", "memory"}
	if err := g.make(sized("e", "", ""), podLimits{}); err != nil {
		t.Error(err)
	}
}

// TestCgroupV1: the same in v1's units, in each hierarchy.
func TestCgroupV1(t *testing.T) {
	root := t.TempDir()
	g := &cgroups{root: "peapod", layout: linux.CgroupLayout{V1: map[string]string{}}}
	for _, c := range []string{"cpu", "memory", "pids"} {
		g.layout.V1[c] = filepath.Join(root, c)
	}
	for _, p := range []*corev1.Pod{
		sized("g", "cpu=500m memory=64Mi", "cpu=500m memory=64Mi"), sized("b1", "cpu=100m", "memory=1Gi"),
		sized("b2", "cpu=1", "cpu=2"), sized("e", "", ""),
	} {
		if err := g.make(p, limitsOf(p)); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, root, map[string]string{
		"cpu/peapod/kubepods/podg/cpu.shares": "512", "cpu/peapod/kubepods/podg/cpu.cfs_quota_us": "50000", "memory/peapod/kubepods/podg/memory.limit_in_bytes": "67108864",
		"cpu/peapod/kubepods/burstable/podb1/cpu.shares": "102", "memory/peapod/kubepods/burstable/podb1/memory.limit_in_bytes": "1073741824",
		"cpu/peapod/kubepods/burstable/cpu.shares": "1126", "cpu/peapod/kubepods/besteffort/cpu.shares": "2", "cpu/peapod/kubepods/besteffort/pode/cpu.shares": "2",
	})
	for _, c := range []string{"cpu", "memory", "pids"} {
		if _, err := os.Stat(filepath.Join(root, c, "peapod/kubepods/podg")); err != nil {
			t.Error(err)
		}
	}
}

// TestWeight is the table of cgroup v2's cpu.weight for cpu.shares, as kubelets
// and runc convert (KEP-2254).
func TestWeight(t *testing.T) {
	for shares, want := range map[int64]int64{2: 1, 3: 1, 28: 1, 29: 2, 102: 4, 1024: 39, 10240: 391, 262144: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight(%d) = %d, want %d", shares, got, want)
		}
	}
}

// TestOOMGroup: on v2 a container out of memory is killed whole.
func TestOOMGroup(t *testing.T) {
	p := sized("p", "", "memory=1Gi")
	if got := resourcesOf(p, &p.Spec.Containers[0], 1<<30, true).Unified["memory.oom.group"]; got != "1" {
		t.Errorf("v2: %q", got)
	}
	if got := resourcesOf(p, &p.Spec.Containers[0], 1<<30, false).Unified; len(got) > 0 {
		t.Errorf("v1, where runtimes refuse it: %v", got)
	}
}
