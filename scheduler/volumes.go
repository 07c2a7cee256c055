// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	storagehelper "k8s.io/component-helpers/storage/volume"

	"github.com/peapod/peapod/api/claim"
)

const (
	claimInUse    = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"
	noVolume      = "node(s) didn't find available persistent volumes to bind"
	volumeAway    = "node(s) didn't match PersistentVolume's node affinity"
	volumeMissing = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
	zoneAway      = "node(s) had no available volume zone"
	unboundClaims = "pod has unbound immediate PersistentVolumeClaims"
)

// claimsOf are the names of the claims that a Pod uses.
func claimsOf(p *corev1.Pod) (names []string) {
	for i := range p.Spec.Volumes {
		if name := claim.Of(p, &p.Spec.Volumes[i]); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// stock is volumes and claims as they are known, and which volumes are promised
// to claims that do not have them yet.
type stock struct {
	claims   shelf[corev1.PersistentVolumeClaim]
	volumes  shelf[corev1.PersistentVolume]
	classes  shelf[storagev1.StorageClass]
	reserved map[string]types.UID
}

func newStock() stock {
	return stock{shelf[corev1.PersistentVolumeClaim]{}, shelf[corev1.PersistentVolume]{}, shelf[storagev1.StorageClass]{}, map[string]types.UID{}}
}

// luggage is what a Pod takes along: the claims that have their volumes, and
// those that get them where the Pod goes.
type luggage struct {
	bound   []*corev1.PersistentVolumeClaim
	delayed []*corev1.PersistentVolumeClaim
	alone   []string // claims that one Pod alone may use
}

// pack sorts the claims of a Pod. If there is one for which the Pod must wait,
// wherever it goes, it says why, as kube-scheduler does.
func (k *known) pack(w *wish) (l luggage, why string) {
	for i := range w.pod.Spec.Volumes {
		v := &w.pod.Spec.Volumes[i]
		name := claim.Of(w.pod, v)
		if name == "" {
			continue
		}
		c := k.claims[types.NamespacedName{Namespace: w.pod.Namespace, Name: name}]
		switch {
		case c == nil && v.Ephemeral != nil:
			return l, fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
		case c == nil:
			return l, fmt.Sprintf("persistentvolumeclaim %q not found", name)
		case c.Status.Phase == corev1.ClaimLost:
			return l, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, c.Spec.VolumeName)
		case c.DeletionTimestamp != nil:
			return l, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
		}
		if v.Ephemeral != nil {
			if err := ephemeral.VolumeIsForPod(w.pod, c); err != nil {
				return l, err.Error()
			}
		} else if slices.Contains(c.Spec.AccessModes, corev1.ReadWriteOncePod) {
			l.alone = append(l.alone, name)
		}
		switch {
		case claim.Bound(c):
			l.bound = append(l.bound, c)
		case c.Spec.VolumeName == "" && claim.Delayed(k.classes[types.NamespacedName{Name: storagehelper.GetPersistentVolumeClaimClass(c)}]):
			l.delayed = append(l.delayed, c)
		default:
			why = unboundClaims
		}
	}
	return l, why
}

// shares counts the Pod's claims that are for one Pod alone, and that another
// uses.
func (l *luggage) shares(w *wish, other *load) (n int) {
	if w.pod.Namespace != other.pod.Namespace {
		return 0
	}
	for _, name := range l.alone {
		if slices.Contains(other.claims, name) {
			n++
		}
	}
	return n
}

// soleClaims are claims that one Pod alone may use (ReadWriteOncePod).
var soleClaims = rule{
	refuse: func(_ *wish, p *place) []reason {
		if p.shared > 0 {
			return []reason{{text: claimInUse}}
		}
		return nil
	},
	cures: func(w *wish, c any) bool {
		left, ok := c.(podLeft)
		return ok && left.pod.Namespace == w.pod.Namespace && slices.ContainsFunc(w.claims, func(name string) bool { return slices.Contains(left.claims, name) })
	},
}

// volumes must reach the node, or there must be some for the claims that wait.
var volumes = rule{
	refuse: func(_ *wish, p *place) (why []reason) {
		away, missing := false, false
		for _, c := range p.luggage.bound {
			v := p.stock.volumes[types.NamespacedName{Name: c.Spec.VolumeName}]
			if v == nil {
				missing = true
				break
			}
			if away = storagehelper.CheckNodeAffinity(v, p.node.Labels) != nil; away {
				break
			}
		}
		if away {
			why = append(why, reason{volumeAway, true})
		}
		if _, ok := p.stock.supply(&p.luggage, p.node); !ok {
			why = append(why, reason{noVolume, true})
		}
		if missing {
			why = append(why, reason{volumeMissing, true})
		}
		return why
	},
	cures: func(w *wish, c any) bool {
		switch c := c.(type) {
		case nodeChange:
			return c.old == nil || !maps.Equal(c.old.node.Labels, c.new.node.Labels)
		case claimChange:
			return c.Namespace == w.pod.Namespace && slices.Contains(w.claims, c.Name)
		case storageChange:
			return true
		}
		return false
	},
}

// volumeZones: a volume that says its zone by labels is used there alone.
var volumeZones = rule{
	refuse: func(_ *wish, p *place) []reason {
		for _, c := range p.luggage.bound {
			if v := p.stock.volumes[types.NamespacedName{Name: c.Spec.VolumeName}]; v != nil && !inZones(v, p.node) {
				return final(zoneAway)
			}
		}
		return nil
	},
	cures: volumes.cures,
}

// zoneLabels are labels of volumes and nodes, each with another name for it.
var zoneLabels = [...][2]string{
	{corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaZone}, {corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaRegion},
	{corev1.LabelFailureDomainBetaZone, corev1.LabelTopologyZone}, {corev1.LabelFailureDomainBetaRegion, corev1.LabelTopologyRegion},
}

// inZones: a node that names no zone has all.
func inZones(v *corev1.PersistentVolume, n *corev1.Node) bool {
	if !slices.ContainsFunc(zoneLabels[:], func(l [2]string) bool { _, ok := n.Labels[l[0]]; return ok }) {
		return true
	}
	for _, l := range zoneLabels {
		zones, ok := v.Labels[l[0]]
		if !ok {
			continue
		}
		in, named := n.Labels[l[0]]
		if !named {
			in, named = n.Labels[l[1]]
		}
		if !named || !slices.Contains(strings.Split(zones, "__"), in) {
			return false
		}
	}
	return true
}

// delivery is what claims get on a node: volumes that there are, or that are to
// be made.
type delivery struct {
	bind map[*corev1.PersistentVolumeClaim]*corev1.PersistentVolume
	make []*corev1.PersistentVolumeClaim
}

// supply finds what the claims that wait could get on a node: the smallest
// claims first, each the smallest volume.
func (s *stock) supply(l *luggage, n *corev1.Node) (d delivery, ok bool) {
	d.bind = map[*corev1.PersistentVolumeClaim]*corev1.PersistentVolume{}
	if len(l.delayed) == 0 {
		return d, true
	}
	taken := map[string]*corev1.PersistentVolume{}
	for name := range s.reserved {
		taken[name] = nil
	}
	var list []*corev1.PersistentVolume
	for _, name := range slices.SortedFunc(maps.Keys(s.volumes), func(a, b types.NamespacedName) int { return strings.Compare(a.Name, b.Name) }) {
		list = append(list, s.volumes[name])
	}
	for _, c := range slices.SortedStableFunc(slices.Values(l.delayed), bySize) {
		if node, ok := c.Annotations[storagehelper.AnnSelectedNode]; ok {
			if node != n.Name {
				return d, false
			}
			d.make = append(d.make, c)
			continue
		}
		v, err := storagehelper.FindMatchingVolume(c, list, n, taken, true, true)
		if err != nil {
			return d, false
		}
		if v == nil {
			d.make = append(d.make, c)
			continue
		}
		taken[v.Name], d.bind[c] = v, v
	}
	return d, !slices.ContainsFunc(d.make, func(c *corev1.PersistentVolumeClaim) bool { return !s.makes(c, n) })
}

func bySize(a, b *corev1.PersistentVolumeClaim) int {
	x, y := a.Spec.Resources.Requests[corev1.ResourceStorage], b.Spec.Resources.Requests[corev1.ResourceStorage]
	return x.Cmp(y)
}

// makes: the class of the claim has volumes made for the node.
func (s *stock) makes(c *corev1.PersistentVolumeClaim, n *corev1.Node) bool {
	class := s.classes[types.NamespacedName{Name: storagehelper.GetPersistentVolumeClaimClass(c)}]
	return class != nil && class.Provisioner != "" && class.Provisioner != claim.NoProvisioner &&
		(len(class.AllowedTopologies) == 0 || slices.ContainsFunc(class.AllowedTopologies, func(t corev1.TopologySelectorTerm) bool { return allowed(t, n) }))
}

// allowed: a term that says nothing allows nothing.
func allowed(t corev1.TopologySelectorTerm, n *corev1.Node) bool {
	return len(t.MatchLabelExpressions) > 0 && !slices.ContainsFunc(t.MatchLabelExpressions, func(e corev1.TopologySelectorLabelRequirement) bool {
		value, ok := n.Labels[e.Key]
		return !ok || !slices.Contains(e.Values, value)
	})
}
