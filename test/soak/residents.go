// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// residents is how many Pods live through each storm untouched.
const residents = 4

// resident is one of them.
type resident struct {
	*entry
	container string
}

// settleIn starts the residents of a tide; each counts into its log.
func (l *life) settleIn() (out []resident, err error) {
	for i := range residents {
		e, err := l.create(pods, shell(fmt.Sprintf("%s-%d", l.name, i), "trap 'exit 0' TERM; i=0; while :; do echo $i; i=$((i+1)); usleep 100000; done"))
		if err != nil {
			return out, err
		}
		l.spare(e.uid)
		p, err := l.pod(e.name, "runs", ready)
		if err != nil {
			return out, err
		}
		out = append(out, resident{e, p.Status.ContainerStatuses[0].ContainerID})
	}
	return out, nil
}

// moveOut says what has become of the residents, and ends them. Output may be
// lost where the keeper was killed or the disk was full.
func (l *life) moveOut(list []resident, lossless bool) error {
	for _, x := range list {
		p, err := l.pod(x.name, "is ready", ready)
		if err != nil {
			return err
		}
		if s := p.Status.ContainerStatuses[0]; s.RestartCount > 0 || s.ContainerID != x.container {
			l.story.breach("pod %s, which nobody touched, was restarted: %s", x.name, inShort(p.Status.ContainerStatuses))
		}
		var text string
		if err := l.insist("logs of "+x.name, func(ctx context.Context) (err error) {
			text, err = l.logs(ctx, x.name)
			return err
		}); err != nil {
			return err
		}
		if gap := firstGap(text); lossless && gap != "" {
			l.story.breach("the log of %s has a gap: %s", x.name, gap)
		}
		if err := l.remove(x.entry, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// firstGap is where lines that count from 0 do not.
func firstGap(log string) string {
	want := 0
	for line := range strings.Lines(log) {
		n, err := strconv.Atoi(strings.TrimSuffix(line, "\n"))
		if err != nil || n != want {
			return fmt.Sprintf("%q instead of %d", line, want)
		}
		want++
	}
	if want == 0 {
		return "it is empty"
	}
	return ""
}

// spare keeps faults off a Pod.
func (x *soak) spare(uid types.UID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.spared[uid] = true
}

func (x *soak) isSpared(uid types.UID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.spared[uid]
}
