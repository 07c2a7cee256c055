// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// writePatience is how long a write of the status may take: a Pod's own affairs
// wait for it, and go on when the API does not answer.
const writePatience = 5 * time.Second

// report writes the Pod's status where it differs from what the API has. It
// says whether the API now has it (or has no use for it any more).
func (x *actor) report(ctx context.Context, p *corev1.Pod, have *observed, e *ending) bool {
	if x.isGone() {
		return true
	}
	st := status(p, have, &x.mem, e, x.agent.cfg.IP, x.agent.cfg.Now())
	if equality.Semantic.DeepEqual(p.Status, st) {
		return true
	}
	writing, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	now, err := x.patch(writing, p, st)
	switch {
	case err == nil:
		x.written(now)
		return true
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err): // gone, or a successor
		return true
	case ctx.Err() == nil:
		x.agent.cfg.Log.Warn("cannot write status", "pod", key(p), "uid", p.UID, "err", err)
	}
	return false
}

func (x *actor) patch(ctx context.Context, p *corev1.Pod, st corev1.PodStatus) (*corev1.Pod, error) {
	old, err := json.Marshal(corev1.Pod{Status: p.Status})
	if err != nil {
		return nil, err
	}
	// The UID makes sure that it is this Pod and not a successor.
	fresh, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: p.UID}, Status: st})
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(old, fresh, corev1.Pod{})
	if err != nil {
		return nil, err
	}
	return x.agent.cfg.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
}

// learn takes in what an observation tells once: termination messages, what
// the API remembers of instances this agent has not seen before, and what a
// runtime has to say that no status has room for.
func (x *actor) learn(p *corev1.Pod, have *observed) {
	x.mem.forget(have)
	x.mem.recall(p, have)
	var unknown []*instance
	for _, list := range have.containers {
		for _, i := range list {
			if i.running() && i.reason != "" {
				x.tellOnce(p, i.reason, "%s", i.message)
			}
			if _, known := x.mem.messages[i.id]; known || !i.exited() {
				continue
			}
			x.mem.messages[i.id] = terminationMessage(i)
			if i.reason == reasonUnknown && !x.mem.reported(p, i) {
				unknown = append(unknown, i)
			}
		}
	}
	if len(unknown) > 0 {
		slices.SortFunc(unknown, func(a, b *instance) int { return strings.Compare(a.name, b.name) })
		var names []string
		for _, i := range unknown {
			names = append(names, i.name)
		}
		x.tellOnce(p, statusUnknown, "It is not known how containers %s ended: %s", names, unknown[0].message)
	}
}

// reasonUnknown is what runtimes say of an end that they could not see.
const reasonUnknown = "Unknown"

// reported says whether the API knows of an instance's end: then the agent
// that wrote it has told.
func (m *memory) reported(p *corev1.Pod, i *instance) bool {
	s := statusOf(p, i.name)
	return s != nil && slices.ContainsFunc([]corev1.ContainerState{s.State, s.LastTerminationState}, func(st corev1.ContainerState) bool {
		return st.Terminated != nil && st.Terminated.ContainerID == m.containerID(i)
	})
}

// tellOnce is for what concerns a whole Pod and does not change.
func (x *actor) tellOnce(p *corev1.Pod, reason, format string, args ...any) {
	if !x.mem.told[reason] {
		x.mem.told[reason] = true
		x.event(p, corev1.EventTypeWarning, reason, format, args...)
	}
}

// Limits of termination messages, as Kubernetes: the last 4 KiB of the file,
// or the last 80 lines and 2 KiB of the log.
const (
	messageLimit  = 4096
	fallbackLimit = 2048
	fallbackLines = 80
)

func terminationMessage(i *instance) string {
	path := i.annotations[annotationMessageDir]
	text, err := tailFile(path, messageLimit)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Sprintf("Error on reading termination log %s: %v", path, err)
	}
	if text == "" && i.annotations[annotationPolicy] == string(corev1.TerminationMessageFallbackToLogsOnError) && i.exitCode != 0 && i.reason != "ContainerCannotRun" {
		text, err = tailLog(i.logPath, fallbackLines, fallbackLimit)
		if err != nil {
			return fmt.Sprintf("Error on reading termination message from logs: %v", err)
		}
	}
	return text
}

// tailFile is the end of a file. The container may have written any amount.
func tailFile(path string, most int64) (string, error) {
	if path == "" {
		return "", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if _, err := f.Seek(max(st.Size()-most, 0), io.SeekStart); err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	return string(b), err
}
