// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The numbers of a rollout, as kube-controller-manager reckons them. All of
// this file is pure.

// What a Deployment writes on its ReplicaSets: how many it wanted in all, and
// at most, when it last set their sizes.
const (
	desiredAnnotation = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation     = "deployment.kubernetes.io/max-replicas"
)

// size is how many replicas a ReplicaSet is to have.
type size struct {
	set *appsv1.ReplicaSet
	n   int32
}

func rolls(d *appsv1.Deployment) bool {
	return d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType
}

// fenceposts are by how much a rollout may be above and below the wanted
// number. A percentage is rounded up above and down below; when both come to
// nothing, one may be missing, or nothing could ever move.
func fenceposts(d *appsv1.Deployment) (surge, unavailable int32) {
	r := d.Spec.Strategy.RollingUpdate
	if !rolls(d) || r == nil {
		return 0, 0
	}
	surge, unavailable = scaled(r.MaxSurge, *d.Spec.Replicas, true), scaled(r.MaxUnavailable, *d.Spec.Replicas, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

// scaled is a number, or a percentage of total. What is neither is refused by
// validation.
func scaled(v *intstr.IntOrString, total int32, up bool) int32 {
	n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, intstr.FromInt32(0)), int(total), up)
	if err != nil {
		return 0
	}
	return int32(n)
}

func maxSurge(d *appsv1.Deployment) int32 {
	surge, _ := fenceposts(d)
	return surge
}

func maxUnavailable(d *appsv1.Deployment) int32 {
	_, unavailable := fenceposts(d)
	return min(unavailable, *d.Spec.Replicas)
}

// wanted is the sum of what ReplicaSets are to have; available of what they
// have that serves.
func wanted(sets []*appsv1.ReplicaSet) (n int32) {
	for _, s := range sets {
		n += *s.Spec.Replicas
	}
	return n
}

func available(sets []*appsv1.ReplicaSet) (n int32) {
	for _, s := range sets {
		n += s.Status.AvailableReplicas
	}
	return n
}

// active are the ReplicaSets that are to have Pods.
func active(sets []*appsv1.ReplicaSet) (out []*appsv1.ReplicaSet) {
	for _, s := range sets {
		if *s.Spec.Replicas > 0 {
			out = append(out, s)
		}
	}
	return out
}

// byAge is the order of creation, then of names.
func byAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}

// grown is how many replicas the current ReplicaSet may have by now, among all
// that there are.
func grown(d *appsv1.Deployment, all []*appsv1.ReplicaSet, current int32) int32 {
	if !rolls(d) {
		return *d.Spec.Replicas
	}
	room := *d.Spec.Replicas + scaled(d.Spec.Strategy.RollingUpdate.MaxSurge, *d.Spec.Replicas, true) - wanted(all)
	if room <= 0 {
		return current
	}
	return current + min(room, *d.Spec.Replicas-current)
}

// removable is how many replicas of old ReplicaSets can go: those above the
// minimum, less what the current ReplicaSet has not got available yet.
func removable(d *appsv1.Deployment, all []*appsv1.ReplicaSet, current *appsv1.ReplicaSet) int32 {
	least := *d.Spec.Replicas - maxUnavailable(d)
	return wanted(all) - least - (*current.Spec.Replicas - current.Status.AvailableReplicas)
}

// withoutUnhealthy takes at most `most` replicas that are not available from
// old ReplicaSets, the oldest first: they cannot be missed, and would keep the
// rollout from going on. It is not over while a ReplicaSet has more available
// than it is to have: that one is shrinking.
func withoutUnhealthy(old []*appsv1.ReplicaSet, most int32) (out []size, over bool) {
	for _, s := range slices.SortedFunc(slices.Values(old), byAge) {
		n := min(most, *s.Spec.Replicas-s.Status.AvailableReplicas)
		switch {
		case most == 0:
			return out, true
		case *s.Spec.Replicas == 0 || n == 0:
			continue
		case n < 0:
			return out, false
		}
		out = append(out, size{s, *s.Spec.Replicas - n})
		most -= n
	}
	return out, true
}

// withoutSurplus takes from old ReplicaSets, the oldest first, what is
// available above the minimum.
func withoutSurplus(d *appsv1.Deployment, all, old []*appsv1.ReplicaSet) (out []size) {
	most := available(all) - (*d.Spec.Replicas - maxUnavailable(d))
	for _, s := range slices.SortedFunc(slices.Values(old), byAge) {
		if n := min(most, *s.Spec.Replicas); n > 0 {
			out = append(out, size{s, *s.Spec.Replicas - n})
			most -= n
		}
	}
	return out
}

// soleOrLatest is the one active ReplicaSet, or the newest when none is
// active; nil when there are several.
func soleOrLatest(current *appsv1.ReplicaSet, old, all []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	switch list := active(all); {
	case len(list) == 1:
		return list[0]
	case len(list) > 1:
		return nil
	case current != nil:
		return current
	case len(old) > 0:
		return slices.MaxFunc(old, byAge)
	}
	return nil
}

// saturated: the ReplicaSet has all that the Deployment wants, and both agree
// on how many that is.
func saturated(d *appsv1.Deployment, s *appsv1.ReplicaSet) bool {
	if s == nil {
		return false
	}
	desired, err := strconv.Atoi(s.Annotations[desiredAnnotation])
	return err == nil && *s.Spec.Replicas == *d.Spec.Replicas && int32(desired) == *d.Spec.Replicas && s.Status.AvailableReplicas == *d.Spec.Replicas
}

// proportional shares a change of the Deployment's size among its active
// ReplicaSets by their sizes, so that scaling neither hastens a rollout nor
// puts more at risk. What rounding leaves goes to the largest.
func proportional(d *appsv1.Deployment, all []*appsv1.ReplicaSet) []size {
	list := active(all)
	most := int32(0)
	if *d.Spec.Replicas > 0 {
		most = *d.Spec.Replicas + maxSurge(d)
	}
	change := most - wanted(list)
	slices.SortFunc(list, func(a, b *appsv1.ReplicaSet) int {
		age := byAge(a, b) // the older shrink first, the newer grow first
		if change > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas), age)
	})
	out, done := make([]size, len(list)), int32(0)
	for i, s := range list {
		share := int32(0)
		if change != 0 && change != done {
			share = part(d, s)
			if left := change - done; change > 0 {
				share = min(share, left)
			} else {
				share = max(share, left)
			}
		}
		out[i] = size{s, *s.Spec.Replicas + share}
		done += share
	}
	if change != 0 && len(out) > 0 {
		out[0].n = max(out[0].n+change-done, 0)
	}
	return out
}

// part is by how much one ReplicaSet changes in proportion, judging by how many
// there could be in all when the sizes were last set.
func part(d *appsv1.Deployment, s *appsv1.ReplicaSet) int32 {
	have := *s.Spec.Replicas
	if *d.Spec.Replicas == 0 {
		return -have
	}
	before, ok := count(s, maxAnnotation)
	if !ok || before == 0 {
		if before = d.Status.Replicas; before == 0 {
			return 0
		}
	}
	n := float64(have*(*d.Spec.Replicas+maxSurge(d))) / float64(before)
	return int32(math.Round(n)) - have
}

// count reads a number of replicas from an annotation.
func count(s *appsv1.ReplicaSet, key string) (int32, bool) {
	n, err := strconv.ParseUint(s.Annotations[key], 10, 32)
	return int32(n), err == nil && n <= math.MaxInt32
}

// mark writes down how many the Deployment wants, and says whether that is new.
func mark(d *appsv1.Deployment, s *appsv1.ReplicaSet) (changed bool) {
	for key, n := range map[string]int32{desiredAnnotation: *d.Spec.Replicas, maxAnnotation: *d.Spec.Replicas + maxSurge(d)} {
		if v := strconv.Itoa(int(n)); s.Annotations[key] != v {
			if s.Annotations == nil {
				s.Annotations = map[string]string{}
			}
			s.Annotations[key] = v
			changed = true
		}
	}
	return changed
}
