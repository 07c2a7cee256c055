// SPDX-License-Identifier: Apache-2.0

package scheduler

import corev1 "k8s.io/api/core/v1"

const tooManyPods = "Too many pods"

// resources of all kinds, and the number of Pods. What a node could not give if
// it were empty is final.
var resources = rule{
	refuse: func(w *wish, p *place) []reason { return lacks(w, p.nodeInfo) },
	cures: func(w *wish, c any) bool {
		switch c := c.(type) {
		case nodeChange:
			return len(lacks(w, c.new)) == 0 && (c.old == nil || grew(w, c.old, c.new))
		case podLeft:
			return true
		case podShrank:
			return less(w, c.old, c.new)
		case podEdited:
			return less(c.old, c.old.load, c.new.load)
		}
		return false
	},
}

// lacks: a node that does not say how many Pods it takes, takes none.
func lacks(w *wish, i *nodeInfo) (why []reason) {
	if int64(len(i.pods)) >= i.room[corev1.ResourcePods] {
		why = append(why, reason{text: tooManyPods})
	}
	for name, want := range w.wants {
		if want > 0 && want > i.room[name]-i.used[name] {
			why = append(why, reason{"Insufficient " + string(name), want > i.room[name]})
		}
	}
	return why
}

// grew: the node has more of something that the Pod needs.
func grew(w *wish, old, now *nodeInfo) bool {
	if now.room[corev1.ResourcePods] > old.room[corev1.ResourcePods] {
		return true
	}
	for name, want := range w.wants {
		if want > 0 && now.room[name] > old.room[name] {
			return true
		}
	}
	return false
}

// less: something that the Pod needs is taken less of.
func less(w *wish, old, now *load) bool {
	for name, want := range w.wants {
		if want > 0 && now.wants[name] < old.wants[name] {
			return true
		}
	}
	return false
}
