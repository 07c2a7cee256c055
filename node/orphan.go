// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// adoptOrphans ends what is here of Pods that the API has not: they were
// deleted by force while nobody watched, or the program died while it cleaned
// up after them.
func (a *Agent) adoptOrphans(ctx context.Context) error {
	list, err := a.cfg.CRI.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	var found []*corev1.Pod
	for _, s := range list.Items {
		found = append(found, podOfSandbox(s))
	}
	remnants, err := a.remnants()
	if err != nil {
		return fmt.Errorf("cannot find what is left of pods: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range append(found, remnants...) {
		if p.UID == "" || a.actors[p.UID] != nil {
			continue
		}
		a.cfg.Log.Info("pod without an object ends", "pod", key(p), "uid", p.UID)
		a.begin(ctx, newActor(a, p, true))
	}
	return nil
}

// remnants are the Pods that have a folder of volumes or a cgroup here. Their
// logs tell their names; a folder of logs alone may be another program's.
func (a *Agent) remnants() (out []*corev1.Pod, err error) {
	logs, err := entries(a.cfg.LogDir)
	if err != nil {
		return nil, err
	}
	names := map[types.UID][2]string{}
	for _, l := range logs {
		if f := strings.Split(l, "_"); len(f) == 3 {
			names[types.UID(f[2])] = [2]string{f[0], f[1]}
		}
	}
	volumes, err := entries(filepath.Dir(a.volumes.PodDir("x")))
	if err != nil {
		return nil, err
	}
	uids, err := a.cgroups.pods()
	if err != nil {
		return nil, err
	}
	for _, uid := range volumes {
		uids = append(uids, types.UID(uid))
	}
	for _, uid := range uids {
		out = append(out, formerPod(names[uid][0], names[uid][1], uid))
	}
	return out, nil
}

// entries are the names in a folder, none if it is not there.
func entries(dir string) (names []string, err error) {
	list, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names, err
}

// podOfSandbox is as much of a Pod as its sandbox's labels tell.
func podOfSandbox(s *runtimeapi.PodSandbox) *corev1.Pod {
	return formerPod(s.Labels[labelPodNamespace], s.Labels[labelPodName], types.UID(s.Labels[labelPodUID]))
}

func formerPod(namespace, name string, uid types.UID) *corev1.Pod {
	grace := int64(30)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, UID: uid},
		Spec:       corev1.PodSpec{TerminationGracePeriodSeconds: &grace, SecurityContext: &corev1.PodSecurityContext{}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

// unmountRemnants removes the volumes of Pods that have no sandbox any more:
// the program died while it cleaned up after them.
func (a *Agent) unmountRemnants() error {
	left, err := a.remnants()
	if err != nil {
		return fmt.Errorf("cannot find what is left of pods: %w", err)
	}
	var errs []error
	for _, p := range left {
		errs = append(errs, a.volumes.Unmount(p.UID))
	}
	return errors.Join(errs...)
}

// logMark is the file by which a Pod's folder of logs is known to be of one
// node: others may keep theirs beside it, and it outlives the sandbox. It holds
// the name of the node's root cgroup, and no log collector looks for it.
const logMark = ".peapod"

func (a *Agent) makeLogDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, logMark), []byte(a.cfg.CgroupRoot+"\n"), 0o644)
}

// RemoveLogs removes the logs of all Pods of the node with that root cgroup,
// and their folder when nobody else has any there.
func RemoveLogs(dir, cgroupRoot string) error {
	list, err := entries(dir)
	for _, name := range list {
		mark, readErr := os.ReadFile(filepath.Join(dir, name, logMark))
		if readErr == nil && string(mark) == cgroupRoot+"\n" {
			err = errors.Join(err, removeLast(filepath.Join(dir, name), logMark))
		}
	}
	if err != nil {
		return err
	}
	if err = os.Remove(dir); errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EBUSY) {
		return nil // also where it is a mount point
	}
	return err
}

// removeLast removes a folder, that file in it last: until then it is found
// again.
func removeLast(dir, file string) error {
	list, err := entries(dir)
	for _, name := range list {
		if name != file {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
		}
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
