// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/cri"
	"github.com/peapod/peapod/test/bench/cluster"
	"github.com/peapod/peapod/test/bench/result"
)

// measurePods is the part about the life of single Pods.
func measurePods(ctx context.Context, o options, part *result.Part) error {
	for round := range o.rounds {
		err := o.each(ctx, part, round+1, func(v *visit) error {
			if err := v.firstPod(ctx); err != nil {
				return err
			}
			for _, m := range []struct {
				name string
				do   func(context.Context) error
			}{{"cri", v.overCRI}, {"life", v.lives}, {"exit", v.exits}, {"burst", v.burst}} {
				if err := v.profiled(ctx, m.name, m.do); err != nil {
					return fmt.Errorf("%s: %w", m.name, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := o.withRunc(ctx, part, round+1); err != nil {
			part.Drop(round + 1)
			return fmt.Errorf("peapod with runc, round %d: %w", round+1, err)
		}
	}
	return nil
}

// withRunc measures Peapod over CRI when it starts containers with runc, as
// containerd does.
func (o options) withRunc(ctx context.Context, part *result.Part, round int) error {
	return cluster.With(o.peapod(ctx, "oci"), func(c *cluster.Cluster) error {
		rt, conn, err := cri.Dial(c.CRI)
		if err != nil {
			return err
		}
		defer conn.Close()
		alone := &visit{o, c, &result.Part{}, round}
		for i := range o.pods {
			if err := alone.overCRIOnce(ctx, rt.Runtime, i); err != nil {
				return err
			}
		}
		for _, m := range alone.part.Measurements {
			if m.Name == result.StartOverCRI {
				m.Name = result.StartOverCRIWithRunc
				part.Add(m, m.Samples...)
			}
		}
		return nil
	})
}

// firstPod is P10: the cluster was started in a folder with nothing but the image.
func (v *visit) firstPod(ctx context.Context) error {
	w, err := v.watch(ctx)
	if err != nil {
		return err
	}
	defer w.stop()
	_, at, err := v.create(ctx, w, v.sleeper("first"), running)
	if err != nil {
		return err
	}
	v.time("P10", "empty folder to ready for a Pod", v.Ready.Sub(v.Begun))
	v.time("P10", result.FolderToRunning, at.Sub(v.Begun))
	_, _, err = v.delete(ctx, w, "first")
	return err
}

// lives is P2 and P4: one Pod at a time, created and deleted.
func (v *visit) lives(ctx context.Context) error {
	w, err := v.watch(ctx)
	if err != nil {
		return err
	}
	defer w.stop()
	for i := range v.pods {
		p := v.sleeper("life-" + strconv.Itoa(i))
		begun, at, err := v.create(ctx, w, p, running)
		if err != nil {
			return err
		}
		placed, err := w.until(ctx, p.Name, scheduled)
		if err != nil {
			return err
		}
		v.time("P2", "create to scheduled", placed.Sub(begun))
		v.time("P2", result.CreateToRunning, at.Sub(begun))
		if begun, at, err = v.delete(ctx, w, p.Name); err != nil {
			return err
		}
		v.time("P4", result.DeleteToGone, at.Sub(begun))
	}
	return nil
}

// exits is P5: from the moment a process wrote before it ended, by the clock of
// the machine, to its status in a watch.
func (v *visit) exits(ctx context.Context) error {
	w, err := v.watch(ctx)
	if err != nil {
		return err
	}
	defer w.stop()
	shared, err := os.MkdirTemp("", "bench-exit")
	if err != nil {
		return err
	}
	defer os.RemoveAll(shared)
	for i := range v.pods {
		p := v.pod("exit-"+strconv.Itoa(i), "")
		// The last thing the process does is to make a file.
		p.Spec.Containers[0].Command = []string{"sh", "-c", "until [ -e /shared/go-" + p.Name + " ]; do usleep 1000; done; exec touch /shared/" + p.Name}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
		p.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: shared}}}}
		if _, _, err := v.create(ctx, w, p, running); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(shared, "go-"+p.Name), nil, 0o600); err != nil {
			return err
		}
		at, err := w.until(ctx, p.Name, ended)
		if err != nil {
			return err
		}
		last, err := os.Stat(filepath.Join(shared, p.Name))
		if err != nil {
			return err
		}
		v.time("P5", result.ExitToStatus, at.Sub(last.ModTime()))
		if _, _, err := v.delete(ctx, w, p.Name); err != nil {
			return err
		}
	}
	return nil
}

// burst is P3: many Pods created at once, and deleted at once.
func (v *visit) burst(ctx context.Context) error {
	w, err := v.watch(ctx)
	if err != nil {
		return err
	}
	defer w.stop()
	const many = 100
	name := func(i int) string { return "burst-" + strconv.Itoa(i) }
	begun := time.Now()
	err = together(many, func(i int) error {
		_, _, err := v.create(ctx, w, v.sleeper(name(i)), ready)
		return err
	})
	if err != nil {
		return err
	}
	v.add("P3", result.ManyToReady, "Pods/s", many/time.Since(begun).Seconds())
	begun = time.Now()
	err = together(many, func(i int) error {
		_, _, err := v.delete(ctx, w, name(i))
		return err
	})
	v.add("P3", "100 Pods deleted at once, until all are gone", "Pods/s", many/time.Since(begun).Seconds())
	return err
}

// together calls do for 0 to n-1 at once and returns what went wrong first.
func together(n int, do func(i int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- do(i) }()
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// profiled runs do and, where that is wanted, takes a CPU profile of Peapod
// meanwhile.
func (v *visit) profiled(ctx context.Context, name string, do func(context.Context) error) error {
	if v.profile == "" || v.Subject != result.Peapod {
		return do(ctx)
	}
	const most = 30 * time.Second
	done := make(chan error, 1)
	go func() {
		b, err := v.Client.CoreV1().RESTClient().Get().AbsPath("/debug/pprof/profile").Param("seconds", strconv.Itoa(int(most.Seconds()))).Timeout(2 * most).DoRaw(ctx)
		if err == nil {
			err = os.WriteFile(filepath.Join(v.profile, name+".pprof"), b, 0o644)
		}
		done <- err
	}()
	return errors.Join(do(ctx), <-done)
}
