// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestConditionIsTriedAgain: what the API refused is written later, once.
func TestConditionIsTriedAgain(t *testing.T) {
	play(t, func(s *stage) {
		s.deny = 2
		p := testPod("p", 1)
		s.create(t, p)
		if _, c := s.get(t, "p"); c.Type != "" {
			t.Fatalf("condition %+v", c)
		}
		pass(2 * time.Second)
		if _, c := s.get(t, "p"); c.Type != "" {
			t.Fatalf("condition %+v", c)
		}
		pass(2 * time.Second)
		if _, c := s.get(t, "p"); c.Message != noNodes {
			t.Errorf("condition %+v", c)
		}
		pass(time.Minute)
		if got := s.writes(); !slices.Equal(got, []string{"patch p", "patch p", "patch p"}) {
			t.Errorf("wrote %q", got)
		}
	})
}

// TestConditionIsWrittenWhenItChanges, and its transition time only when its
// status does, also before the informer has seen the last one.
func TestConditionIsWrittenWhenItChanges(t *testing.T) {
	play(t, func(s *stage) {
		s.create(t, testPod("p", 500))
		_, first := s.get(t, "p")
		pass(time.Minute)
		s.nodes.h.OnAdd(testNode("n", 500, func(n *corev1.Node) { n.Spec.Unschedulable = true }), false)
		synctest.Wait()
		// No rule that could let it fit has spoken: only anyNode waited for a node.
		_, second := s.get(t, "p")
		if !strings.HasPrefix(second.Message, "0/1 nodes are available: 1 node(s) were unschedulable.") || !second.LastTransitionTime.Equal(&first.LastTransitionTime) {
			t.Errorf("condition %+v after %+v", second, first)
		}
		s.writes()
		pass(6 * time.Minute) // it is looked at again, in vain
		if got := s.looks("p"); got != 3 {
			t.Errorf("looked at %d times", got)
		}
		if got := s.writes(); len(got) != 0 {
			t.Errorf("wrote %q though nothing had changed", got)
		}
	})
}

// TestSlowWritesHoldNobodyUp: others are placed while one Pod is written.
func TestSlowWritesHoldNobodyUp(t *testing.T) {
	play(t, func(s *stage) {
		s.hold = make(chan struct{})
		s.create(t, testPod("big", 5000))
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		s.create(t, testPod("small", 100))
		if s.on("small") != "n" {
			t.Errorf("small is on %q", s.on("small"))
		}
		close(s.hold)
	})
}

// TestBindingComesLast: a condition that says why a Pod has no node is not
// written after the node.
func TestBindingComesLast(t *testing.T) {
	play(t, func(s *stage) {
		s.hold = make(chan struct{})
		s.create(t, testPod("p", 100))
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		synctest.Wait()
		if s.on("p") != "" {
			t.Error("bound while its condition was being written")
		}
		close(s.hold)
		if got := s.writes(); !slices.Equal(got, []string{"patch p", "bind p"}) {
			t.Errorf("wrote %q", got)
		}
	})
}

// TestFailedConditionGivesWay: the binding does not wait for a condition that
// cannot be written.
func TestFailedConditionGivesWay(t *testing.T) {
	play(t, func(s *stage) {
		s.deny = 100
		s.create(t, testPod("p", 100))
		pass(30 * time.Second)
		s.writes()
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		if got := s.writes(); !slices.Equal(got, []string{"bind p"}) {
			t.Errorf("wrote %q", got)
		}
	})
}

// TestNothingIsSaidOfWhatIsGone, and a refusal is given up with its Pod.
func TestNothingIsSaidOfWhatIsGone(t *testing.T) {
	play(t, func(s *stage) {
		s.deny = 1
		p := testPod("p", 100)
		s.create(t, p)
		s.pods.h.OnDelete(p)
		s.writes()
		pass(time.Minute)
		if got := s.writes(); len(got) != 0 {
			t.Errorf("wrote %q", got)
		}
	})
}

// TestEvents are those of events.k8s.io/v1, as kube-scheduler's.
func TestEvents(t *testing.T) {
	play(t, func(s *stage) {
		s.create(t, testPod("p", 100))
		pass(time.Second) // events are named after their moment
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		synctest.Wait()
		list, err := s.client.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, e := range list.Items {
			if e.ReportingController != "default-scheduler" || !strings.HasPrefix(e.ReportingInstance, "default-scheduler-") || e.Regarding.Name != "p" || e.Regarding.Kind != "Pod" || e.EventTime.IsZero() {
				t.Errorf("%+v", e)
			}
			got[e.Reason] = e.Type + " " + e.Action + ": " + e.Note
		}
		if got["Scheduled"] != "Normal Binding: Successfully assigned default/p to n" || got["FailedScheduling"] != "Warning Scheduling: "+noNodes || len(got) != 2 {
			t.Errorf("%q", got)
		}
	})
}

// TestDeletedPodIsSkipped: who is told to go while waiting for its turn is not
// placed.
func TestDeletedPodIsSkipped(t *testing.T) {
	playCold(t, func(s *stage) {
		p := testPod("p", 100)
		s.create(t, p)
		going := p.DeepCopy()
		going.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		s.pods.h.OnUpdate(p, going)
		s.nodes.h.OnAdd(testNode("n", 1000), true)
		close(s.pods.full)
		close(s.nodes.full)
		synctest.Wait()
		if got := s.messages(t, "FailedScheduling"); s.on("p") != "" || !slices.Equal(got, []string{"skip schedule deleting pod: default/p"}) {
			t.Errorf("on %q, said %q", s.on("p"), got)
		}
	})
}
