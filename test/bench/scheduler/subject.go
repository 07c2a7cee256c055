// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/peapod/peapod/scheduler"
	"github.com/peapod/peapod/test/bench/cluster"
)

// Both schedulers are programs of their own and speak to the same store in the
// same way: protobuf over HTTP/2 and TLS on loopback, without limits of rate.
const stockConfig = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
clientConnection: {kubeconfig: %q, qps: 100000, burst: 100000, contentType: application/vnd.kubernetes.protobuf}
`

// subject is a scheduler that runs.
type subject struct {
	cmd  *exec.Cmd
	said bytes.Buffer
	done chan struct{}
}

// start runs a scheduler: kube-scheduler at the path, or with none ours.
func start(stock, folder string, kubeconfig []byte, profile string) (*subject, error) {
	config := filepath.Join(folder, "kubeconfig")
	if err := os.WriteFile(config, kubeconfig, 0o600); err != nil {
		return nil, fmt.Errorf("cannot start a scheduler: %w", err)
	}
	x := &subject{done: make(chan struct{})}
	if stock == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("cannot start a scheduler: %w", err)
		}
		x.cmd = exec.Command(self, "-run", config, "-profile", profile)
	} else {
		file := filepath.Join(folder, "stock.yaml")
		if err := os.WriteFile(file, fmt.Appendf(nil, stockConfig, config), 0o600); err != nil {
			return nil, fmt.Errorf("cannot start a scheduler: %w", err)
		}
		x.cmd = exec.Command(stock, "--config", file, "--authentication-kubeconfig", config, "--authorization-kubeconfig", config,
			"--authentication-skip-lookup", "--secure-port", "0", "--cert-dir", folder)
	}
	x.cmd.Stdout, x.cmd.Stderr = &x.said, &x.said
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := x.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start a scheduler: %w", err)
	}
	go func() {
		_ = x.cmd.Wait()
		close(x.done)
	}()
	return x, nil
}

// end stops it and waits for its end.
func (x *subject) end() {
	_ = x.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-x.done:
	case <-time.After(5 * time.Second):
		_ = x.cmd.Process.Kill()
		<-x.done
	}
}

// cpu is the time that it has spent on processors.
func (x *subject) cpu() (time.Duration, error) {
	u, err := cluster.Processes{"scheduler": {x.cmd.Process.Pid}}.Usage()
	return u["scheduler"].CPU, err
}

// runOurs is the scheduler of this tree as a program: what the daemon does,
// with informers of client-go.
func runOurs(ctx context.Context, config, profile string) error {
	c, err := clientcmd.BuildConfigFromFlags("", config)
	if err != nil {
		return err
	}
	c.QPS, c.Burst = 100000, 100000
	c.ContentType, c.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return err
	}
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	f := informers.NewSharedInformerFactory(client, 0)
	core, apps := f.Core().V1(), f.Apps().V1()
	s := scheduler.New(scheduler.Config{Client: client, Log: slog.Default(), Informers: scheduler.Informers{
		Pods: core.Pods().Informer(), Nodes: core.Nodes().Informer(), Namespaces: core.Namespaces().Informer(), Services: core.Services().Informer(),
		ReplicationControllers: core.ReplicationControllers().Informer(), ReplicaSets: apps.ReplicaSets().Informer(), StatefulSets: apps.StatefulSets().Informer(),
		Budgets: f.Policy().V1().PodDisruptionBudgets().Informer(), Claims: core.PersistentVolumeClaims().Informer(), Volumes: core.PersistentVolumes().Informer(),
		StorageClasses: f.Storage().V1().StorageClasses().Informer(),
	}})
	f.StartWithContext(ctx)
	defer f.Shutdown()
	return s.Run(ctx)
}
