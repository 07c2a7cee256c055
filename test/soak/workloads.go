// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// template is what the workloads of a life are made from.
func template(l *life, command string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"life": l.name}}, Spec: shell(l.name, command).Spec}
}

func selector(l *life) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"life": l.name}}
}

// change is a patch that makes Pods of another template.
func change(i int) map[string]any {
	return map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": map[string]any{"change": fmt.Sprint(i)}}}}}
}

func scale(n int) map[string]any {
	return map[string]any{"spec": map[string]any{"replicas": n}}
}

// empty waits until a life has no Pod.
func empty(l *life) error {
	return l.insist("the Pods of "+l.name+" go", func(ctx context.Context) error {
		list, err := l.typed.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "life=" + l.name})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("there are %d, the first is %s", len(list.Items), list.Items[0].Name)
		}
		return err
	})
}

// liveDeployment: what was written last is rolled out, however fast it comes.
func liveDeployment(l *life) error {
	e, err := l.create(deployments, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: l.name},
		Spec: appsv1.DeploymentSpec{Replicas: ptr.To(int32(1 + l.r.IntN(3))), Selector: selector(l), Template: template(l, stay)}})
	if err != nil {
		return err
	}
	for i := range 1 + l.r.IntN(3) {
		patch := change(i)
		if l.r.IntN(2) == 0 {
			patch = scale(l.r.IntN(5))
		}
		if err := l.write(e, patch); err != nil {
			return err
		}
		if l.r.IntN(3) == 0 {
			continue // the next one comes in the midst of it
		}
		if err := l.insist("rollout of "+l.name, func(ctx context.Context) error {
			var d appsv1.Deployment
			if err := l.read(ctx, deployments, l.name, &d); err != nil {
				return err
			}
			s, n := d.Status, *d.Spec.Replicas
			if s.ObservedGeneration != d.Generation || s.Replicas != n || s.UpdatedReplicas != n || s.AvailableReplicas != n {
				return fmt.Errorf("of %d: %+v", n, s)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	how := []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground}[l.r.IntN(2)]
	if err := l.remove(e, metav1.DeleteOptions{PropagationPolicy: &how}); err != nil {
		return err
	}
	return empty(l)
}

// liveStatefulSet: a member keeps its name and what it has written, whatever
// happens to its Pod.
func liveStatefulSet(l *life) error {
	t := template(l, stay)
	t.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	claim := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}}}}
	policy := []appsv1.PodManagementPolicyType{appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement}[l.r.IntN(2)]
	e, err := l.create(statefulSets, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: l.name}, Spec: appsv1.StatefulSetSpec{
		Replicas: ptr.To(int32(1 + l.r.IntN(2))), Selector: selector(l), Template: t, ServiceName: l.name, PodManagementPolicy: policy,
		VolumeClaimTemplates:                 []corev1.PersistentVolumeClaim{claim},
		PersistentVolumeClaimRetentionPolicy: &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: appsv1.DeletePersistentVolumeClaimRetentionPolicyType}}})
	if err != nil {
		return err
	}
	first := l.name + "-0"
	if err := l.insist("write to "+first, func(ctx context.Context) error {
		_, err := l.exec(ctx, first, "sh", "-c", "echo "+l.name+" > /data/f && sync")
		return err
	}); err != nil {
		return err
	}
	for i := range 1 + l.r.IntN(2) {
		if err := disturb(l, e, first, i); err != nil {
			return err
		}
		if err := l.insist("the data of "+first, func(ctx context.Context) error {
			said, err := l.exec(ctx, first, "cat", "/data/f")
			if err == nil && said != l.name {
				err = fmt.Errorf("it is %q", said)
			}
			return err
		}); err != nil {
			return err
		}
	}
	if err := l.remove(e, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return empty(l)
}

// disturb replaces a member, or all, and waits until they are there again.
func disturb(l *life, e *entry, member string, i int) error {
	if l.r.IntN(2) == 0 {
		if err := l.write(e, change(i)); err != nil {
			return err
		}
	} else if err := l.insist("delete "+member, func(ctx context.Context) error {
		err := l.typed.CoreV1().Pods(namespace).Delete(ctx, member, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}); err != nil {
		return err
	}
	return l.insist("the members of "+l.name, func(ctx context.Context) error {
		var s appsv1.StatefulSet
		if err := l.read(ctx, statefulSets, l.name, &s); err != nil {
			return err
		}
		if x := s.Status; x.ObservedGeneration != s.Generation || x.UpdatedReplicas != *s.Spec.Replicas || x.AvailableReplicas != *s.Spec.Replicas || x.CurrentRevision != x.UpdateRevision {
			return fmt.Errorf("of %d: %+v", *s.Spec.Replicas, x)
		}
		return nil
	})
}

// liveJob: as many succeed as were asked for, though some fail.
func liveJob(l *life) error {
	// One Pod in seven fails. More would make the Job wait longer than we do.
	t := template(l, "usleep 200000; case $HOSTNAME in *[bcdf]) exit 1; esac")
	t.Spec.RestartPolicy = corev1.RestartPolicyNever
	n := int32(1 + l.r.IntN(4))
	e, err := l.create(jobs, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: l.name},
		Spec: batchv1.JobSpec{Completions: &n, Parallelism: ptr.To(int32(1 + l.r.IntN(3))), BackoffLimit: ptr.To[int32](1000), Template: t}})
	if err != nil {
		return err
	}
	if l.r.IntN(4) > 0 {
		if err := l.insist(l.name+" completes", func(ctx context.Context) error {
			var j batchv1.Job
			if err := l.read(ctx, jobs, l.name, &j); err != nil {
				return err
			}
			if j.Status.CompletionTime == nil {
				return fmt.Errorf("of %d: %+v", n, j.Status)
			}
			if j.Status.Succeeded != n || j.Status.Active != 0 {
				l.story.breach("%s is complete with %+v, %d were asked for", l.name, j.Status, n)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if err := l.remove(e, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}); err != nil {
		return err
	}
	return empty(l)
}

// liveService: its address leads to its Pods, and nowhere when they are gone.
func liveService(l *life) error {
	t := template(l, "exec nc -ll -p 8080 -e hostname")
	t.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1}
	d, err := l.create(deployments, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: l.name},
		Spec: appsv1.DeploymentSpec{Replicas: ptr.To(int32(1 + l.r.IntN(2))), Selector: selector(l), Template: t}})
	if err != nil {
		return err
	}
	e, err := l.create(services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: l.name},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"life": l.name}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}})
	if err != nil {
		return err
	}
	var s corev1.Service
	if err := l.insist("read "+l.name, func(ctx context.Context) error { return l.read(ctx, services, l.name, &s) }); err != nil {
		return err
	}
	address := net.JoinHostPort(s.Spec.ClusterIP, "80")
	if err := l.insist("an answer of "+l.name+" at "+address, func(ctx context.Context) error {
		said, err := call(ctx, address)
		if err == nil && !strings.HasPrefix(said, l.name+"-") {
			err = fmt.Errorf("%q answered", said)
		}
		return err
	}); err != nil {
		return err
	}
	if err := l.remove(d, metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := empty(l); err != nil {
		return err
	}
	if err := l.insist("no answer of "+l.name+" at "+address, func(ctx context.Context) error {
		if said, err := call(ctx, address); err == nil {
			return fmt.Errorf("%q answered", said)
		}
		return nil
	}); err != nil {
		return err
	}
	return l.remove(e, metav1.DeleteOptions{})
}

// call is what answers at an address.
func call(ctx context.Context, address string) (string, error) {
	d := net.Dialer{Timeout: 2 * time.Second}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return strings.TrimSpace(string(b)), err
}
