// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	storagehelper "k8s.io/component-helpers/storage/volume"

	"github.com/peapod/peapod/api/claim"
)

// volumePatience is how long a Pod waits on its node for its volumes, as
// kube-scheduler's bindTimeoutSeconds.
const volumePatience = 600 * time.Second

// supplying is a Pod that waits on its node for its volumes.
type supplying struct {
	claims []types.NamespacedName
	asked  bool // the API knows which node it is
	ended  bool
	ready  chan struct{} // closed at the end
	failed error
}

// end lets who waits for the volumes go on; the first end counts.
func (x *supplying) end(why error) {
	if !x.ended {
		x.ended, x.failed = true, why
		close(x.ready)
	}
}

// supply gets the Pod's claims their volumes on its node, beside the
// scheduling; then the Pod is bound.
func (s *Scheduler) supply(ctx context.Context, e *entry, d delivery) {
	x := &supplying{ready: make(chan struct{})}
	for c, v := range d.bind {
		s.stock.reserved[v.Name] = c.UID
		x.claims = append(x.claims, nameOf(c))
	}
	for _, c := range d.make {
		x.claims = append(x.claims, nameOf(c))
	}
	e.supplying = x
	node := e.node
	s.writers.Go(func() {
		err := s.order(ctx, d, node)
		if err == nil {
			err = s.delivered(ctx, e, x)
		}
		s.mu.Lock()
		for c, v := range d.bind {
			if s.stock.reserved[v.Name] == c.UID {
				delete(s.stock.reserved, v.Name)
			}
		}
		still := e.supplying == x && ctx.Err() == nil
		if still {
			e.supplying = nil
		}
		if still && err == nil {
			s.bind(ctx, e)
		}
		s.mu.Unlock()
		if still && err != nil {
			s.unbound(ctx, e, node, fmt.Errorf("running PreBind plugin %q: %w", "VolumeBinding", err))
		}
	})
}

// order tells the API which claims get which volumes, and for which node the
// others are to be made.
func (s *Scheduler) order(ctx context.Context, d delivery, node string) error {
	s.slots <- struct{}{}
	defer func() { <-s.slots }()
	for c, v := range d.bind {
		kept, dirty, err := storagehelper.GetBindVolumeToClaim(v, c)
		if err == nil && dirty {
			_, err = s.cfg.Client.CoreV1().PersistentVolumes().Update(ctx, kept, metav1.UpdateOptions{})
		}
		if err != nil {
			return err
		}
	}
	for _, c := range d.make {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": c.UID, "resourceVersion": c.ResourceVersion, "annotations": map[string]string{storagehelper.AnnSelectedNode: node},
		}})
		if err == nil && c.Annotations[storagehelper.AnnSelectedNode] != node {
			_, err = s.cfg.Client.CoreV1().PersistentVolumeClaims(c.Namespace).Patch(ctx, c.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// delivered waits until all claims have their volumes.
func (s *Scheduler) delivered(ctx context.Context, e *entry, x *supplying) error {
	s.mu.Lock()
	x.asked = true
	s.checkSupply(e)
	s.mu.Unlock()
	patience := time.NewTimer(volumePatience)
	defer patience.Stop()
	select {
	case <-x.ready:
		return x.failed
	case <-patience.C:
		return errors.New("binding volumes: context deadline exceeded")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// checkSupply looks whether a Pod's claims have their volumes, or will not get
// them here.
func (s *Scheduler) checkSupply(e *entry) {
	x := e.supplying
	if x == nil || !x.asked {
		return
	}
	for _, name := range x.claims {
		switch c := s.stock.claims[name]; {
		case c == nil:
			x.end(fmt.Errorf("persistentvolumeclaim %q not found", name.Name))
			return
		case !claim.Bound(c):
			return
		}
	}
	x.end(nil)
}

func (s *Scheduler) claimCame(c *corev1.PersistentVolumeClaim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.stock.claims[nameOf(c)]
	s.stock.claims[nameOf(c)] = c
	s.claimChanged(c, was)
}

func (s *Scheduler) claimGone(c *corev1.PersistentVolumeClaim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.stock.claims, nameOf(c))
	s.claimChanged(c, nil)
}

// claimChanged tells those that wait for the claim.
func (s *Scheduler) claimChanged(c, was *corev1.PersistentVolumeClaim) {
	for _, e := range s.pods {
		if x := e.supplying; x != nil && x.asked && was != nil && returned(c, was) && slices.Contains(x.claims, nameOf(c)) {
			x.end(fmt.Errorf("selectedNode annotation reset for PVC %q", c.Name))
		}
		s.checkSupply(e)
	}
	s.changed(claimChange{c})
}

// returned: who makes volumes cannot make this one for that node.
func returned(c, was *corev1.PersistentVolumeClaim) bool {
	_, had := was.Annotations[storagehelper.AnnSelectedNode]
	_, has := c.Annotations[storagehelper.AnnSelectedNode]
	return had && !has && !claim.Bound(c)
}
