// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// monitorGrace and startupGrace are how long a node may give no sign of
	// life, and a new one before its first status:
	// kube-controller-manager's --node-monitor-grace-period and
	// --node-startup-grace-period.
	monitorGrace = 50 * time.Second
	startupGrace = 60 * time.Second
	// oversleep is how late a deadline may be looked at and still tell of the
	// node: later, it was this program that was not there. It is
	// kube-controller-manager's --node-monitor-period.
	oversleep = 5 * time.Second
)

// health is what is known of a node's signs of life. Their time is when they
// were noticed here: clocks of nodes differ, and what was written while nobody
// looked is as new as the look.
type health struct {
	uid types.UID
	// beat is when the node's status was posted, in its own words; nil if never.
	beat  *metav1.Time
	lease *coordinationv1.Lease
	seen  time.Time
}

// observe takes in what the API has of a node. At first sight was is nil; the
// lease may be.
func observe(was *health, n *corev1.Node, lease *coordinationv1.Lease, now time.Time) *health {
	h := &health{uid: n.UID, lease: lease, seen: now}
	if c := nodeCondition(n, corev1.NodeReady); c != nil {
		h.beat = c.LastHeartbeatTime.DeepCopy()
	}
	switch {
	case was == nil && h.beat == nil:
		h.seen = n.CreationTimestamp.Time
	case was != nil && was.beat.Equal(h.beat):
		h.seen = was.seen
	}
	switch renewed := lease != nil && (was == nil || was.lease == nil || was.lease.Spec.RenewTime.Before(lease.Spec.RenewTime)); {
	case renewed:
		h.seen = now
	case was != nil:
		h.lease = was.lease
	}
	return h
}

// deadline is when the node counts as out of reach.
func (h *health) deadline() time.Time {
	if h.beat == nil {
		return h.seen.Add(startupGrace)
	}
	return h.seen.Add(monitorGrace)
}

// lose makes unknown what only the node itself could tell, and says whether
// that changes anything. NetworkUnavailable is told by others.
func lose(n *corev1.Node, now metav1.Time) (changed bool) {
	for _, t := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		switch c := nodeCondition(n, t); {
		case c == nil:
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: n.CreationTimestamp, LastTransitionTime: now,
			})
		case c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status.", now
		default:
			continue
		}
		changed = true
	}
	return changed
}

func nodeCondition(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// nodeReady is the status of a node's Ready condition, "" when it has none.
func nodeReady(n *corev1.Node) corev1.ConditionStatus {
	if c := nodeCondition(n, corev1.NodeReady); c != nil {
		return c.Status
	}
	return ""
}

// warnings are the NoSchedule taints that a node's conditions ask for.
func warnings(n *corev1.Node) (out []corev1.Taint) {
	for _, c := range n.Status.Conditions {
		key := ""
		switch {
		case c.Type == corev1.NodeReady && c.Status == corev1.ConditionFalse:
			key = corev1.TaintNodeNotReady
		case c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown:
			key = corev1.TaintNodeUnreachable
		case c.Status != corev1.ConditionTrue:
		case c.Type == corev1.NodeMemoryPressure:
			key = corev1.TaintNodeMemoryPressure
		case c.Type == corev1.NodeDiskPressure:
			key = corev1.TaintNodeDiskPressure
		case c.Type == corev1.NodePIDPressure:
			key = corev1.TaintNodePIDPressure
		case c.Type == corev1.NodeNetworkUnavailable:
			key = corev1.TaintNodeNetworkUnavailable
		}
		if key != "" {
			out = append(out, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
		}
	}
	if n.Spec.Unschedulable {
		out = append(out, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	}
	return out
}

// warning says whether a taint is one of those above.
func warning(t corev1.Taint) bool {
	if t.Effect != corev1.TaintEffectNoSchedule {
		return false
	}
	switch t.Key {
	case corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure,
		corev1.TaintNodePIDPressure, corev1.TaintNodeNetworkUnavailable, corev1.TaintNodeUnschedulable:
		return true
	}
	return false
}

// expulsion is the taint that makes the Pods of a node leave, nil for none.
func expulsion(ready corev1.ConditionStatus) *corev1.Taint {
	switch ready {
	case corev1.ConditionFalse:
		return &corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute}
	case corev1.ConditionUnknown:
		return &corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}
	}
	return nil
}

// expelling says whether a taint is one of those above.
func expelling(t corev1.Taint) bool {
	return t.Effect == corev1.TaintEffectNoExecute && (t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable)
}

// retaint replaces those of a node's taints that are ours with what they should
// be. What stays keeps its place and time.
func retaint(n *corev1.Node, ours func(corev1.Taint) bool, want []corev1.Taint, now metav1.Time) (changed bool) {
	in := func(list []corev1.Taint, t corev1.Taint) bool {
		return slices.ContainsFunc(list, func(x corev1.Taint) bool { return x.MatchTaint(&t) })
	}
	had := len(n.Spec.Taints)
	n.Spec.Taints = slices.DeleteFunc(slices.Clone(n.Spec.Taints), func(t corev1.Taint) bool { return ours(t) && !in(want, t) })
	changed = len(n.Spec.Taints) != had
	for _, t := range want {
		if !in(n.Spec.Taints, t) {
			t.TimeAdded = &now
			n.Spec.Taints, changed = append(n.Spec.Taints, t), true
		}
	}
	return changed
}

// Zones of nodes fail in one of these ways.
type zoneState int

const (
	zoneNormal zoneState = iota
	// zonePartial is a zone of which a large part does not answer: it may be
	// the network between.
	zonePartial
	// zoneFull is a zone of which no node answers.
	zoneFull
)

const (
	// expulsionPause is the time between two nodes of a zone whose Pods are
	// made to leave; slowPause that in a large zone that fails in part. They
	// are kube-controller-manager's --node-eviction-rate and
	// --secondary-node-eviction-rate.
	expulsionPause = 10 * time.Second
	slowPause      = 100 * time.Second
	// largeZone is its --large-cluster-size-threshold: in a smaller one that
	// fails in part, nobody has to leave.
	largeZone = 50
	// unhealthyShare is its --unhealthy-zone-threshold.
	unhealthyShare = 0.55
)

// zone counts the nodes of one zone.
type zone struct{ ready, notReady int }

// state is how the zone does.
func (z zone) state() zoneState {
	switch n := float64(z.notReady); {
	case z.ready == 0 && z.notReady > 0:
		return zoneFull
	case z.notReady > 2 && n/(n+float64(z.ready)) >= unhealthyShare:
		return zonePartial
	}
	return zoneNormal
}

// pause is the time between two nodes of the zone whose Pods have to leave;
// none do when it is not ok.
func (z zone) pause() (d time.Duration, ok bool) {
	switch {
	case z.state() != zonePartial:
		return expulsionPause, true
	case z.ready+z.notReady > largeZone:
		return slowPause, true
	}
	return 0, false
}
