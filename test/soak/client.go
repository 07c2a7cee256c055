// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

const (
	namespace = "soak"
	// callTime is when a client gives an answer up.
	callTime = 15 * time.Second
	// patience is how long a life waits for what it wants, faults not counted.
	patience = 90 * time.Second
)

var (
	pods         = corev1.SchemeGroupVersion.WithResource("pods")
	configMaps   = corev1.SchemeGroupVersion.WithResource("configmaps")
	services     = corev1.SchemeGroupVersion.WithResource("services")
	claims       = corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims")
	deployments  = appsv1.SchemeGroupVersion.WithResource("deployments")
	statefulSets = appsv1.SchemeGroupVersion.WithResource("statefulsets")
	jobs         = batchv1.SchemeGroupVersion.WithResource("jobs")
)

// life is one random thing that comes, does something and goes.
type life struct {
	*soak
	context.Context
	name string
	r    *rand.Rand
}

// insist tries until it succeeds, as a client does whose server may be away.
func (l *life) insist(what string, try func(context.Context) error) error {
	const pause = 200 * time.Millisecond
	var spent time.Duration
	for {
		begun := time.Now()
		ctx, cancel := context.WithTimeout(l, callTime)
		err := try(ctx)
		cancel()
		if err == nil {
			return nil
		}
		if l.Err() != nil {
			return l.Err()
		}
		if l.weather.calm() {
			spent += time.Since(begun) + pause
		}
		if spent > patience {
			return fmt.Errorf("%s: not within %v of calm: %w", what, patience, err)
		}
		l.pause(pause)
	}
}

// pause lets some time pass, or none if the run is over.
func (l *life) pause(d time.Duration) {
	clock := time.NewTimer(d)
	defer clock.Stop()
	select {
	case <-clock.C:
	case <-l.Done():
	}
}

// upTo is a random time.
func (l *life) upTo(d time.Duration) time.Duration { return time.Duration(l.r.Int64N(int64(d) + 1)) }

// create makes an object of the life's namespace, under the ledger.
func (l *life) create(kind schema.GroupVersionResource, object runtime.Object) (*entry, error) {
	u := &unstructured.Unstructured{}
	var err error
	if u.Object, err = runtime.DefaultUnstructuredConverter.ToUnstructured(object); err != nil {
		return nil, err
	}
	gvks, _, err := scheme.Scheme.ObjectKinds(object)
	if err != nil {
		return nil, err
	}
	u.SetGroupVersionKind(gvks[0])
	u.SetLabels(with(u.GetLabels(), mark, "yes"))
	u.SetAnnotations(with(u.GetAnnotations(), counter, "0"))
	e := l.ledger.add(kind, u.GetName())
	l.ledger.change(e, func(e *entry) { e.busy = true })
	err = l.insist("create "+kind.Resource+" "+e.name, func(ctx context.Context) error {
		made, err := l.objects.Resource(kind).Namespace(namespace).Create(ctx, u, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // the answer was lost
			made, err = l.objects.Resource(kind).Namespace(namespace).Get(ctx, e.name, metav1.GetOptions{})
		}
		if err != nil {
			return err
		}
		l.ledger.acknowledge(e, func(e *entry) { e.uid, e.standing = made.GetUID(), present })
		l.story.note("%s made %s %s", e.name, kind.Resource, e.uid)
		return nil
	})
	return e, err
}

func with(m map[string]string, key, value string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[key] = value
	return m
}

// write patches an object and raises its count of writes.
func (l *life) write(e *entry, patch map[string]any) error {
	n := e.attempted + 1
	l.ledger.change(e, func(e *entry) { e.attempted, e.busy = n, true })
	u := unstructured.Unstructured{Object: patch}
	u.SetAnnotations(map[string]string{counter: strconv.Itoa(n)})
	u.SetUID(e.uid) // a precondition
	b, err := json.Marshal(u.Object)
	if err != nil {
		return err
	}
	return l.insist("write "+e.kind.Resource+" "+e.name, func(ctx context.Context) error {
		now, err := l.objects.Resource(e.kind).Namespace(namespace).Patch(ctx, e.name, types.MergePatchType, b, metav1.PatchOptions{})
		if err != nil {
			return err
		}
		if got := now.GetAnnotations()[counter]; got != strconv.Itoa(n) {
			l.story.breach("%s %s: write %d was answered with %q", e.kind.Resource, e.name, n, got)
		}
		l.ledger.acknowledge(e, func(e *entry) { e.writes = n })
		return nil
	})
}

// remove deletes an object and waits until it is gone; a Pod that was not
// forced has no process then.
func (l *life) remove(e *entry, o metav1.DeleteOptions) error {
	forced := o.GracePeriodSeconds != nil && *o.GracePeriodSeconds == 0
	l.ledger.change(e, func(e *entry) { e.standing, e.busy = unsure, true })
	o.Preconditions = metav1.NewUIDPreconditions(string(e.uid))
	r := l.objects.Resource(e.kind).Namespace(namespace)
	err := l.insist("delete "+e.kind.Resource+" "+e.name, func(ctx context.Context) error {
		err := r.Delete(ctx, e.name, o)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // an earlier try was heard
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if forced {
		l.truth.pardon(namespace + "/" + e.name)
	}
	err = l.insist("see the end of "+e.kind.Resource+" "+e.name, func(ctx context.Context) error {
		now, err := r.Get(ctx, e.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && now.GetUID() != e.uid {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it is there: deleted at %v, finalizers %v", now.GetDeletionTimestamp(), now.GetFinalizers())
		}
		return err
	})
	if err != nil {
		return err
	}
	if e.kind == pods && !forced {
		l.truth.dead(e.name, e.uid)
	}
	l.ledger.acknowledge(e, func(e *entry) { e.standing = gone })
	l.story.note("%s ended %s %s", e.name, e.kind.Resource, e.uid)
	return nil
}

// read fills a typed object.
func (l *life) read(ctx context.Context, kind schema.GroupVersionResource, name string, into any) error {
	u, err := l.objects.Resource(kind).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, into)
}

// pod waits until a Pod is as wanted.
func (l *life) pod(name, what string, wanted func(*corev1.Pod) bool) (p *corev1.Pod, err error) {
	err = l.insist(name+" "+what, func(ctx context.Context) error {
		p = &corev1.Pod{}
		if err := l.read(ctx, pods, name, p); err != nil {
			return err
		}
		if !wanted(p) {
			return fmt.Errorf("it is %s: %s", p.Status.Phase, inShort(p.Status.ContainerStatuses))
		}
		return nil
	})
	return p, err
}

func inShort(list []corev1.ContainerStatus) string {
	b, err := json.Marshal(list)
	if err != nil {
		return err.Error()
	}
	return string(b[:min(len(b), 1500)])
}

// exec runs a command in a Pod's container c.
func (l *life) exec(ctx context.Context, name string, command ...string) (string, error) {
	u := l.typed.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "c", Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	e, err := remotecommand.NewWebSocketExecutor(l.config, "GET", u.String())
	if err != nil {
		return "", err
	}
	var out, errs bytes.Buffer
	if err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &errs}); err != nil {
		return "", fmt.Errorf("%w: %s", err, errs.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// logs reads all that the container of a Pod has written.
func (l *life) logs(ctx context.Context, name string) (_ string, err error) {
	stream, err := l.typed.CoreV1().Pods(namespace).GetLogs(name, &corev1.PodLogOptions{}).Stream(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	b, err := io.ReadAll(stream)
	return string(b), err
}
