// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/test/imagefile"
)

// TestImageVolume: the content of an image is mounted, read-only, whole or in
// part; it stays while it is used, also when the image is removed and the
// program was down, and goes with the container.
func TestImageVolume(t *testing.T) {
	b := newBench(t)
	b.importImage(t, "data:1", ispecs.ImageConfig{}, imagefile.Entry{Path: "/data/page", Mode: 0o644, Data: []byte("hello")})
	_, id := b.create(t, "image-volume", "cat /all/data/page /part/page; echo x >/all/x; echo; exec sleep 1000", func(_ *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/all", Image: &runtimeapi.ImageSpec{Image: "data:1"}},
			{ContainerPath: "/part", Image: &runtimeapi.ImageSpec{Image: "data:1"}, ImageSubPath: "data"},
		}
	})
	b.stop()
	b.open(t)
	if _, err := b.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: "data:1"}}); err != nil {
		t.Fatal(err)
	}
	b.launch(t, id)
	x, err := b.ExecSync(context.Background(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "cat /part/page && ! touch /part/y"}, Timeout: 30})
	if err != nil || x.ExitCode != 0 || string(x.Stdout) != "hello" {
		t.Errorf("%v, %v", x, err)
	}
	st, err := b.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil || st.Status.Mounts[0].GetImage().GetImage() != "data:1" {
		t.Errorf("mounts are %v, %v", st.GetStatus().GetMounts(), err)
	}
	if log := b.log(t, "image-volume"); !strings.Contains(log, "stdout F hellohello") || !strings.Contains(log, "Read-only file system") {
		t.Errorf("it says %q", log)
	}
	if _, err := b.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if holds, err := os.ReadDir(filepath.Join(b.dir, "images/holds")); err != nil || len(holds) > 0 {
		t.Errorf("layers are still held: %v, %v", holds, err)
	}
}

// TestImageVolumeMissing: what is not there is said so, and nothing is left.
func TestImageVolumeMissing(t *testing.T) {
	b := newBench(t)
	config := b.sandbox(t, "missing")
	p, err := b.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	for want, m := range map[string]*runtimeapi.Mount{
		`cannot mount image "nope:1" at /data`:     {ContainerPath: "/data", Image: &runtimeapi.ImageSpec{Image: "nope:1"}},
		`sub path "no/such": not found`:            {ContainerPath: "/data", Image: &runtimeapi.ImageSpec{Image: "bb:1"}, ImageSubPath: "no/such"},
		`sub path "../../../../etc/debian_version`: {ContainerPath: "/data", Image: &runtimeapi.ImageSpec{Image: "bb:1"}, ImageSubPath: "../../../../etc/debian_version"},
	} {
		_, err = b.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: p.PodSandboxId, SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "bb:1"}, Mounts: []*runtimeapi.Mount{m},
		}})
		if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if mounts, err := linux.MountsBelow(filepath.Join(b.dir, "rt/containers")); err != nil || len(mounts) > 0 {
		t.Errorf("mounts are left: %v, %v", mounts, err)
	}
}
