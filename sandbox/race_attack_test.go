// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/sandbox"
)

// TestAttackExchange: CVE-2021-30465. In a volume a folder and a link to a
// folder of the machine are exchanged without end, while containers are started
// that want something mounted in the folder.
func TestAttackExchange(t *testing.T) {
	for name, up := range map[string]string{"absolute": "", "relative": strings.Repeat("../", 32)} {
		t.Run(name, func(t *testing.T) { exchange(t, newPod(t, sandbox.NativeName), up) })
	}
}

func exchange(t *testing.T, p *pod, up string) {
	p.addApplet("true")
	outside, folder, link := filepath.Join(p.dir, "outside"), p.dir+"/volume/d", p.dir+"/volume/l"
	err := errors.Join(os.Mkdir(outside, 0o755), os.Mkdir(folder, 0o755), os.Symlink(up+outside, link), os.Mkdir(p.dir+"/more", 0o755), os.WriteFile(p.dir+"/file", nil, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	before, err := linux.MountsBelow(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	stopped := make(chan int, 1)
	go func() {
		n := 0
		for ctx.Err() == nil {
			if unix.Renameat2(unix.AT_FDCWD, folder, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE) == nil {
				n++
			}
		}
		stopped <- n
	}()
	started := 0
	for i := range 50 {
		in := p.input(strconv.Itoa(i), "true")
		in.Container.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/v", HostPath: p.dir + "/volume"},
			{ContainerPath: "/v/d/made" + in.ID, HostPath: p.dir + "/more"},
			{ContainerPath: "/v/d/deep" + in.ID + "/f", HostPath: p.dir + "/file"},
		}
		if _, err := p.run(in); err == nil {
			started++
		} else if err := errors.Join(p.launcher.Delete(t.Context(), in.ID, true), p.host.Cgroups.Remove(t.Context(), in.CgroupsPath)); err != nil {
			t.Error(err)
		}
	}
	stop()
	exchanged := <-stopped
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside of the root there is %v, %v", left, err)
	}
	if after, err := linux.MountsBelow(p.dir); err != nil || !slices.Equal(after, before) {
		t.Errorf("mounts of the machine were %v and are %v, %v", before, after, err)
	}
	// Without both it was no race.
	in, inRoot := made(t, p.dir+"/volume"), made(t, filepath.Join(p.dir, "rootfs", outside))
	if started == 0 || in == 0 || inRoot == 0 {
		t.Errorf("%d started, %d things were made in the folder and %d where the link leads in the root, with %d exchanges", started, in, inRoot, exchanged)
	}
}

// made counts what is in a folder and below.
func made(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && (strings.HasPrefix(d.Name(), "made") || strings.HasPrefix(d.Name(), "deep")) {
			n++
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return n
}
