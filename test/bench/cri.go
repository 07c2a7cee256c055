// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/cri"
)

// measureCRI is the CRI part of P1, and P11: the runtime over its socket, with
// no agent and no API in between.
func measureCRI(ctx context.Context, o options, n *node, r *report) error {
	c, conn, err := cri.Dial("unix://" + filepath.Join(n.dir, "run", "cri.sock"))
	if err != nil {
		return err
	}
	defer conn.Close()
	for i := range o.pods {
		if err := criPod(ctx, c.Runtime, o.image, i, r); err != nil {
			return err
		}
	}
	return nil
}

func criPod(ctx context.Context, rt runtimeapi.RuntimeServiceClient, image string, i int, r *report) error {
	sandbox := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "cri-" + strconv.Itoa(i), Namespace: "bench", Uid: "cri-" + strconv.Itoa(i)},
		Hostname: "cri", Linux: &runtimeapi.LinuxPodSandboxConfig{},
	}
	container := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: image},
		Command: []string{"sleep", "3600"},
		Linux:   &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{CpuShares: 100}},
	}
	begin := time.Now()
	last := begin
	step := func(what string) {
		now := time.Now()
		r.add("P1", what, now.Sub(last))
		last = now
	}
	s, err := rt.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		return fmt.Errorf("RunPodSandbox: %w", err)
	}
	step("RunPodSandbox")
	id := s.PodSandboxId
	made, err := rt.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: id, Config: container, SandboxConfig: sandbox})
	if err != nil {
		return fmt.Errorf("CreateContainer: %w", err)
	}
	step("CreateContainer")
	if _, err := rt.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		return fmt.Errorf("StartContainer: %w", err)
	}
	step("StartContainer")
	r.add("P1", "sandbox + create + start", last.Sub(begin))
	begin = time.Now()
	if _, err := rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: made.ContainerId, Cmd: []string{"true"}, Timeout: 10}); err != nil {
		return fmt.Errorf("ExecSync: %w", err)
	}
	r.add("P11", "ExecSync true", time.Since(begin))
	begin = time.Now()
	if _, err := rt.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("StopPodSandbox: %w", err)
	}
	if _, err := rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("RemovePodSandbox: %w", err)
	}
	r.add("P1", "stop + remove", time.Since(begin))
	return nil
}
