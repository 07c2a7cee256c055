// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/test/machine"
)

// importImage makes an image around busybox and gives it to the node.
func importImage(t *testing.T, ref string, config ispecs.ImageConfig) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := packImage(file, ref, config, nil); err != nil {
		t.Fatal(err)
	}
	if out, err := c.peapod("image", "import", file); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := c.peapod("image", "remove", ref); err != nil {
			t.Errorf("%v %s", err, out)
		}
	})
}

// TestCommandAndArguments: S5, S9. The table of the documentation: what an
// image's ENTRYPOINT and CMD are to a container's command and args, and $(VAR)
// in these.
func TestCommandAndArguments(t *testing.T) {
	t.Parallel()
	const ref = "peapod.dev/commands:1"
	importImage(t, ref, ispecs.ImageConfig{Entrypoint: []string{"echo", "entrypoint"}, Cmd: []string{"cmd"}})
	table := []struct{ container, want string }{
		{"", "entrypoint cmd"},
		{"args: [args]", "entrypoint args"},
		{"command: [echo, command]", "command"},
		{"command: [echo, command], args: [args]", "command args"},
		{"args: ['$(A)', '$$(A)', '$(NONE)', 'x$(A)y'], env: [{name: A, value: a}]", "entrypoint a $(A) $(NONE) xay"},
	}
	spec := "restartPolicy: Never\ncontainers:\n"
	for i, x := range table {
		if x.container != "" {
			x.container = ", " + x.container
		}
		spec += fmt.Sprintf("- {name: c%d, image: %s%s}\n", i, ref, x.container)
	}
	apply(t, "commands", spec)
	await(t, "commands", "has ended", phase(corev1.PodSucceeded))
	for i, x := range table {
		if got := must(t, "logs", "commands", "-c", fmt.Sprint("c", i)); got != x.want+"\n" {
			t.Errorf("%s: %q instead of %q", x.container, got, x.want)
		}
	}
}

// TestImageConfiguration: S9. USER, WORKDIR, ENV and VOLUME of an image, and
// that the Pod's own word counts more.
func TestImageConfiguration(t *testing.T) {
	t.Parallel()
	const ref = "peapod.dev/configured:1"
	importImage(t, ref, ispecs.ImageConfig{
		Cmd: []string{"sh", "-c", "exec 2>&1; id -u; id -g; pwd; echo $A $B; echo kept > /data/f && cat /data/f; touch /f"}, User: "1234:1235", WorkingDir: "/work/there",
		Env: []string{"PATH=/bin", "A=image", "B=image"}, Volumes: map[string]struct{}{"/data": {}},
	})
	apply(t, "configured", `
		restartPolicy: Never
		containers:
		- {name: image, image: `+ref+`}
		- name: pod
		  image: `+ref+`
		  workingDir: /tmp
		  env: [{name: B, value: pod}]
		  securityContext: {runAsUser: 0, runAsGroup: 7, readOnlyRootFilesystem: true}
	`)
	p := await(t, "configured", "has ended", func(p *corev1.Pod) bool { return phase(corev1.PodFailed)(p) })
	// The user may not write into the root; root may not where it is read-only.
	for name, want := range map[string]string{
		"image": "1234\n1235\n/work/there\nimage image\n",
		"pod":   "0\n7\n/tmp\nimage pod\nkept\ntouch: /f: Read-only file system\n",
	} {
		if got := must(t, "logs", "configured", "-c", name); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q instead of %q", name, got, want)
		}
	}
	version := must(t, "get", "node", "n1", "-o", "jsonpath={.status.nodeInfo.containerRuntimeVersion}")
	scheme, _, _ := strings.Cut(version, "://")
	for _, s := range p.Status.ContainerStatuses {
		if got, _, ok := strings.Cut(s.ContainerID, "://"); !ok || got != scheme || scheme == "" {
			t.Errorf("container ID %q on a node with %q", s.ContainerID, version)
		}
	}
	if told := must(t, "get", "events", "--field-selector", "involvedObject.kind=Node,involvedObject.name=n1,reason=NodeReady", "-o", "jsonpath={.items[0].message}"); told != "Node n1 status is now: NodeReady" {
		t.Errorf("of the node it is told %q", told)
	}
	if owner := must(t, "get", "lease", "n1", "-n", "kube-node-lease", "-o", "jsonpath={.metadata.ownerReferences[0].uid}"); owner != must(t, "get", "node", "n1", "-o", "jsonpath={.metadata.uid}") {
		t.Errorf("the node's lease belongs to %q", owner)
	}
	if wide := must(t, "get", "node", "n1", "-o", "wide"); !strings.Contains(wide, version) {
		t.Errorf("get nodes -o wide does not show %s:\n%s", version, wide)
	}
}

// TestPodCgroup: S10, S20. The Pod's cgroup holds those of its containers, and
// its limit is the sum of theirs, or the Pod's own.
func TestPodCgroup(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name, pod, each string
		limit           int64
	}{
		{"sum", "", "{limits: {memory: 32Mi, cpu: 100m}}", 64 << 20},
		{"whole", "resources: {limits: {memory: 48Mi, cpu: 200m}}\n", "{}", 48 << 20},
	} {
		apply(t, "cgroup-"+x.name, x.pod+"terminationGracePeriodSeconds: 1\ncontainers:\n"+
			"- {name: a, image: "+image+", command: [sleep, '1000'], resources: "+x.each+"}\n"+
			"- {name: b, image: "+image+", command: [sleep, '1000'], resources: "+x.each+"}\n")
		p := await(t, "cgroup-"+x.name, "runs", ready)
		dirs := memoryCgroups(p)
		if len(dirs) != 1 {
			t.Fatalf("%s has the cgroups %v", p.Name, dirs)
		}
		if got := number(t, dirs[0], "memory.limit_in_bytes", "memory.max"); got != x.limit {
			t.Errorf("%s: the limit is %d instead of %d", p.Name, got, x.limit)
		}
		for _, s := range p.Status.ContainerStatuses {
			_, id, _ := strings.Cut(s.ContainerID, "://")
			if found, _ := filepath.Glob(filepath.Join(dirs[0], "*"+id+"*")); len(found) != 1 {
				t.Errorf("%s: the cgroup of container %s is not in it", p.Name, s.Name)
			}
		}
	}
	// What two containers may together, each alone may not exceed.
	out, err := kubectl(t, "exec", "cgroup-whole", "-c", "a", "--", "sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1")
	if err == nil {
		t.Errorf("a container got more memory than its Pod may have: %s", out)
	}
}

// memoryCgroups are the folders of a Pod's cgroup where memory is counted.
func memoryCgroups(p *corev1.Pod) (out []string) {
	for _, pattern := range []string{"/sys/fs/cgroup/memory/%s/kubepods/*pod%s", "/sys/fs/cgroup/memory/%s/kubepods/*/pod%s", "/sys/fs/cgroup/%s/kubepods/pod%s", "/sys/fs/cgroup/%s/kubepods/*/pod%s"} {
		found, _ := filepath.Glob(fmt.Sprintf(pattern, machine.Instance(c.dir), p.UID))
		out = append(out, found...)
	}
	return out
}

// number reads a cgroup's figure under its v1 or v2 name.
func number(t *testing.T, dir, v1, v2 string) int64 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, v1))
	if errors.Is(err, os.ErrNotExist) {
		text, err = os.ReadFile(filepath.Join(dir, v2))
	}
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	return n
}
