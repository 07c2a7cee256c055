// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// image has a busybox and the example programs.
const image = "peapod.dev/examples:1"

// kinds of lives, with how often each is drawn.
var lives = []struct {
	name   string
	weight int
	live   func(*life) error
}{
	{"pod", 6, livePod},
	{"writes", 3, liveWrites},
	{"files", 2, liveFiles},
	{"crash", 2, liveCrash},
	{"oom", 1, liveOOM},
	{"deployment", 3, liveDeployment},
	{"stateful", 3, liveStatefulSet},
	{"job", 3, liveJob},
	{"service", 2, liveService},
}

// stay goes on until it is told to end; its child has to be killed.
const stay = "trap 'exit 0' TERM; (setsid sleep 1000 &); while :; do usleep 50000; done"

// shell is a Pod with one container that runs a shell command.
func shell(name, command string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](1),
			Containers:                    []corev1.Container{{Name: "c", Image: image, Command: []string{"sh", "-c", command}}},
		},
	}
}

func running(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// drawPod is a Pod with a random part of what leaves traces on a machine.
func drawPod(l *life) *corev1.Pod {
	p := shell(l.name, stay)
	s, c := &p.Spec, &p.Spec.Containers[0]
	s.Volumes = []corev1.Volume{
		{Name: "d", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "m", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
	}
	mounts := []corev1.VolumeMount{{Name: "d", MountPath: "/d"}, {Name: "m", MountPath: "/m"}}
	c.VolumeMounts = mounts
	s.ShareProcessNamespace = ptr.To(l.r.IntN(4) == 0)
	if l.r.IntN(2) == 0 {
		s.InitContainers = append(s.InitContainers, corev1.Container{Name: "i", Image: image, Command: []string{"touch", "/d/f"}, VolumeMounts: mounts})
	}
	if l.r.IntN(4) == 0 {
		s.InitContainers = append(s.InitContainers, corev1.Container{Name: "s", Image: image, Command: []string{"sh", "-c", stay}, RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)})
	}
	if l.r.IntN(3) == 0 {
		s.Containers = append(s.Containers, corev1.Container{Name: "b", Image: image, Command: []string{"sh", "-c", "usleep 100000; exit 3"}, VolumeMounts: mounts})
	}
	c = &p.Spec.Containers[0]
	if l.r.IntN(4) == 0 {
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: int32(26500 + l.r.IntN(2000))}}
	}
	if l.r.IntN(4) == 0 {
		c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"usleep", "200000"}}}}
	}
	if l.r.IntN(4) == 0 {
		c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}}, PeriodSeconds: 1}
	}
	if l.r.IntN(4) == 0 {
		c.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi"), corev1.ResourceCPU: resource.MustParse("500m")}
	}
	return p
}

// livePod: a Pod of any form runs, is asked and written to, and ends at any
// moment, softly or by force.
func livePod(l *life) error {
	e, err := l.create(pods, drawPod(l))
	if err != nil {
		return err
	}
	grace := int64(l.r.IntN(3))
	wait, ask := l.r.IntN(3) > 0, l.r.IntN(2) == 0
	if wait {
		if _, err := l.pod(l.name, "runs", running); err != nil {
			return err
		}
	}
	if wait && ask {
		if err := l.insist("exec in "+l.name, func(ctx context.Context) error {
			switch said, err := l.exec(ctx, l.name, "sh", "-c", "echo $HOSTNAME"); {
			case err != nil:
				return err
			case said != l.name:
				l.story.breach("exec in %s was answered %q", l.name, said)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	for range l.r.IntN(4) {
		if err := l.write(e, map[string]any{}); err != nil {
			return err
		}
	}
	l.pause(l.upTo(1500 * time.Millisecond))
	return l.remove(e, metav1.DeleteOptions{GracePeriodSeconds: &grace})
}

// liveWrites: every answer of a row of writes counts.
func liveWrites(l *life) error {
	e, err := l.create(configMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: l.name}, Data: map[string]string{"k": "0"}})
	if err != nil {
		return err
	}
	for i := range 10 + l.r.IntN(60) {
		if err := l.write(e, map[string]any{"data": map[string]any{"k": fmt.Sprint(i)}}); err != nil {
			return err
		}
		l.pause(l.upTo(100 * time.Millisecond))
	}
	return l.remove(e, metav1.DeleteOptions{})
}

// liveFiles: what is written to a ConfigMap comes to the files of a Pod.
func liveFiles(l *life) error {
	m, err := l.create(configMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: l.name}, Data: map[string]string{"k": "0"}})
	if err != nil {
		return err
	}
	p := shell(l.name, stay)
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: l.name}}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	e, err := l.create(pods, p)
	if err != nil {
		return err
	}
	for i := range 1 + l.r.IntN(4) {
		want := fmt.Sprint(i + 1)
		if err := l.write(m, map[string]any{"data": map[string]any{"k": want}}); err != nil {
			return err
		}
		if err := l.insist("the file of "+l.name, func(ctx context.Context) error {
			said, err := l.exec(ctx, l.name, "cat", "/v/k")
			if err == nil && said != want {
				err = fmt.Errorf("it has %q, not %q", said, want)
			}
			return err
		}); err != nil {
			return err
		}
	}
	if err := l.remove(e, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return l.remove(m, metav1.DeleteOptions{})
}

// liveCrash: a container that fails is started again, later each time, and its
// exit code is told.
func liveCrash(l *life) error {
	e, err := l.create(pods, shell(l.name, "usleep 100000; exit 7"))
	if err != nil {
		return err
	}
	p, err := l.pod(l.name, "is started again, and then waits", func(p *corev1.Pod) bool {
		for _, s := range p.Status.ContainerStatuses {
			return s.RestartCount > 0 && s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff" && s.LastTerminationState.Terminated != nil
		}
		return false
	})
	if err != nil {
		return err
	}
	// A container that a fault killed, or whose end nobody saw, has another code.
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last.ExitCode != 7 && last.ExitCode != 137 && last.ExitCode != 255 {
		l.story.breach("%s ended with 7, and the API says %+v", l.name, last)
	}
	return l.remove(e, metav1.DeleteOptions{})
}

// liveOOM: a container that takes more memory than it may is killed, and the
// cause is told.
func liveOOM(l *life) error {
	p := shell(l.name, "dd if=/dev/zero of=/dev/null bs=64M count=1")
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	p.Spec.Containers[0].Command = []string{"dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"}
	p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("16Mi")}
	e, err := l.create(pods, p)
	if err != nil {
		return err
	}
	now, err := l.pod(l.name, "fails", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if err != nil {
		return err
	}
	if len(now.Status.ContainerStatuses) == 1 {
		if t := now.Status.ContainerStatuses[0].State.Terminated; t != nil && t.Reason != "OOMKilled" && t.ExitCode != 255 && !l.truth.killed(now.UID) {
			l.story.breach("%s took too much memory, and the API says %+v", l.name, t)
		}
	}
	return l.remove(e, metav1.DeleteOptions{})
}
