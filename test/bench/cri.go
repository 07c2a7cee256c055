// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/cri"
	"github.com/peapod/peapod/test/bench/result"
)

// overCRI is the CRI part of P1, and P11: the runtime over its socket, with no
// agent and no API in between.
func (v *visit) overCRI(ctx context.Context) error {
	c, conn, err := cri.Dial(v.CRI)
	if err != nil {
		return err
	}
	defer conn.Close()
	for i := range v.pods {
		if err := v.overCRIOnce(ctx, c.Runtime, i); err != nil {
			return err
		}
	}
	return nil
}

func (v *visit) overCRIOnce(ctx context.Context, rt runtimeapi.RuntimeServiceClient, i int) error {
	sandbox := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "cri-" + strconv.Itoa(i), Namespace: "bench", Uid: "cri-" + strconv.Itoa(i)},
		Hostname: "cri", Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: v.CgroupParent},
	}
	container := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: v.image},
		Command: []string{"sleep", "3600"},
		Linux:   &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{CpuShares: 100}},
	}
	begin := time.Now()
	last := begin
	step := func(what string) {
		now := time.Now()
		v.time("P1", what, now.Sub(last))
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
	v.time("P1", result.StartOverCRI, last.Sub(begin))
	begin = time.Now()
	if _, err := rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: made.ContainerId, Cmd: []string{"true"}, Timeout: 10}); err != nil {
		return fmt.Errorf("ExecSync: %w", err)
	}
	v.time("P11", result.ExecTrue, time.Since(begin))
	begin = time.Now()
	if _, err := rt.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("StopPodSandbox: %w", err)
	}
	if _, err := rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("RemovePodSandbox: %w", err)
	}
	v.time("P1", "StopPodSandbox + RemovePodSandbox", time.Since(begin))
	return nil
}
