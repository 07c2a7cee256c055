// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// crictl runs the stock crictl on the node's CRI socket.
func crictl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	socket := "unix://" + filepath.Join(c.dir, "run/cri.sock")
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "stock/crictl"), append([]string{"--runtime-endpoint", socket, "--image-endpoint", socket}, args...)...)
	cmd.Stderr = &strings.Builder{}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("crictl %s: %v\n%s\n%s", strings.Join(args, " "), err, out, cmd.Stderr)
	}
	return string(out)
}

// TestCrictl: the runtime in the process is also one behind a socket, which
// the stock crictl sees the Pods through.
func TestCrictl(t *testing.T) {
	t.Parallel()
	apply(t, "seen", "terminationGracePeriodSeconds: 1\ncontainers: [{name: looked-at, image: "+image+", command: [sh, -c, 'echo said; exec sleep 1000']}]\n")
	p := await(t, "seen", "runs", ready)
	_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	sandbox := strings.TrimSpace(crictl(t, "pods", "--name", "^seen$", "-q"))
	uid := "uid: " + string(p.UID)
	for _, x := range []struct {
		args []string
		want []string
	}{
		{[]string{"version"}, []string{"RuntimeName:  peapod", "RuntimeApiVersion:  v1"}},
		{[]string{"info"}, []string{`"type": "RuntimeReady"`, `"type": "NetworkReady"`}},
		{[]string{"pods", "--name", "^seen$"}, []string{"POD ID", sandbox[:13], "Ready", "seen", "default"}},
		{[]string{"ps", "--name", "looked-at"}, []string{"CONTAINER", id[:13], "Running", "looked-at", "seen"}},
		{[]string{"images"}, []string{"peapod.dev/examples"}},
		{[]string{"inspect", id}, []string{`"state": "CONTAINER_RUNNING"`, `"pid":`}},
		{[]string{"inspectp", "-o", "yaml", sandbox}, []string{"state: SANDBOX_READY", uid, "ip: " + p.Status.PodIP}},
		{[]string{"inspecti", image}, []string{image}},
		{[]string{"logs", id}, []string{"said"}},
		{[]string{"exec", "-s", id, "echo", "in sync"}, []string{"in sync"}},
		{[]string{"exec", id, "echo", "streamed"}, []string{"streamed"}},
		{[]string{"stats", id}, []string{id[:13], "looked-at"}},
		{[]string{"statsp", sandbox}, []string{sandbox[:13], "seen"}},
	} {
		out := crictl(t, x.args...)
		for _, want := range x.want {
			if !strings.Contains(out, want) {
				t.Errorf("crictl %s has no %q:\n%s", strings.Join(x.args, " "), want, out)
			}
		}
	}
}
