// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"bytes"
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/owned"
)

// revise finds the revision of the template among the past ones, the oldest
// first, or makes it. There is one, and it has the highest number.
func (d *daemons) revise(ctx context.Context, past []*appsv1.ControllerRevision) error {
	data, err := owned.PatchOf(&d.set.Spec.Template)
	if err != nil {
		return err
	}
	next := int64(1)
	var same []*appsv1.ControllerRevision
	for _, r := range past {
		if _, ok := r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]; !ok {
			if r.Labels == nil {
				r.Labels = map[string]string{}
			}
			// Its name is as good as its hash, and cannot collide.
			r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = r.Name
			if err := d.Client.Update(ctx, r); err != nil {
				return err
			}
		}
		if bytes.Equal(r.Data.Raw, data) {
			same = append(same, r)
			continue
		}
		d.old, next = append(d.old, r), max(next, r.Revision+1)
	}
	if len(same) == 0 {
		r, err := d.snapshot(ctx, next)
		if err == nil {
			d.hash = r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
		}
		return err
	}
	current := same[len(same)-1]
	d.hash = current.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
	if err := d.unite(ctx, same[:len(same)-1]); err != nil {
		return err
	}
	if current.Revision < next {
		current.Revision = next
		return d.Client.Update(ctx, current)
	}
	return nil
}

// snapshot makes the revision of the template. Where another has its name, the
// count of collisions makes another.
func (d *daemons) snapshot(ctx context.Context, number int64) (*appsv1.ControllerRevision, error) {
	r, err := d.NewRevision(d.set, &d.set.Spec.Template, number)
	if err != nil {
		return nil, err
	}
	for {
		made, hash := r.DeepCopy(), templateHash(&d.set.Spec.Template, d.set.Status.CollisionCount)
		made.Name, made.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = d.set.Name+"-"+hash, hash
		if made, err := d.TryRevision(ctx, made); made != nil || err != nil {
			return made, err
		}
		if d.set.Status.CollisionCount == nil {
			d.set.Status.CollisionCount = new(int32)
		}
		*d.set.Status.CollisionCount++
		if err := d.Client.Status().Update(ctx, d.set); err != nil {
			return nil, err
		}
	}
}

// unite gives all Pods the hash of the one revision that stays of several that
// are the same, and deletes the others.
func (d *daemons) unite(ctx context.Context, others []*appsv1.ControllerRevision) error {
	if len(others) == 0 {
		return nil
	}
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, appsv1.DefaultDaemonSetUniqueLabelKey, d.hash)
	for i, p := range d.all {
		if p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == d.hash {
			continue
		}
		p = p.DeepCopy() // it was the cache's
		if err := d.Client.Patch(ctx, p, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
			return err
		}
		d.Expected.Wrote(d.set, p)
		d.all[i] = p
	}
	for _, r := range others {
		if err := d.Client.Delete(ctx, r); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// forget deletes the oldest revisions that no Pod has and that are more than
// the limit.
func (d *daemons) forget(ctx context.Context) error {
	live := map[string]bool{}
	for _, p := range d.all {
		if meantFor(p) != "" {
			live[p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] = true
		}
	}
	surplus := len(d.old) - int(*d.set.Spec.RevisionHistoryLimit)
	for _, r := range d.old {
		if surplus <= 0 {
			return nil
		}
		if live[r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] {
			continue
		}
		if err := d.Client.Delete(ctx, r); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("failed to clean up revisions of DaemonSet: %w", err)
		}
		surplus--
	}
	return nil
}
