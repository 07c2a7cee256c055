// SPDX-License-Identifier: Apache-2.0

package garbage

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// TestGraph: whom each change concerns.
func TestGraph(t *testing.T) {
	object := func(ns, name string, owners ...metav1.OwnerReference) vertex {
		return vertex{identity: identity{"v1", "ConfigMap", ns, name, types.UID(name)}, owners: owners}
	}
	by := func(name string, block bool) metav1.OwnerReference {
		return metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: name, UID: types.UID(name), BlockOwnerDeletion: ptr.To(block)}
	}
	misnamed := by("owner", false)
	misnamed.Name = "other"
	waiting := object("ns", "owner")
	waiting.deleting, waiting.foreground = true, true
	orphaning := object("ns", "owner")
	orphaning.deleting, orphaning.orphans = true, true
	g := newGraph()
	for _, step := range []struct {
		what   string
		see    vertex
		lose   types.UID
		woken  string
		strays int
	}{
		{"a dependent whose owner is not known", object("ns", "a", by("owner", true)), "", "a", 0},
		{"it again", object("ns", "a", by("owner", true)), "", "", 0},
		{"others, before their owner", object("ns", "misnamed", misnamed), "", "misnamed", 0},
		{"and from elsewhere", object("elsewhere", "far", by("owner", false)), "", "far", 0},
		{"the owner: those it is not meant by", object("ns", "owner"), "", "far misnamed", 1},
		{"a dependent that is right", object("ns", "b", by("owner", true)), "", "", 0},
		{"one that is wrong, after its owner", object("elsewhere", "farther", by("owner", false)), "", "farther", 1},
		{"the owner waits", waiting, "", "owner", 0},
		{"one more for an owner that waits", object("ns", "c", by("owner", false)), "", "c", 0},
		{"one stops to block", object("ns", "a", by("owner", false)), "", "owner", 0},
		{"one lets go", object("ns", "b"), "", "owner", 0},
		{"one that does not block lets go", object("ns", "c"), "", "", 0},
		{"one goes", vertex{}, "a", "owner", 0},
		{"one goes that has let go", vertex{}, "b", "", 0},
		{"the owner is to let its dependents live", orphaning, "", "owner", 0},
		{"the owner goes", vertex{}, "owner", "far farther misnamed", 0},
		{"it goes again", vertex{}, "owner", "", 0},
	} {
		var woken []types.UID
		var strays []stray
		if step.lose != "" {
			woken = g.remove(step.lose)
		} else {
			woken, strays = g.observe(step.see)
		}
		slices.Sort(woken)
		var names []string
		for _, uid := range woken {
			names = append(names, string(uid))
		}
		if got := strings.Join(names, " "); got != step.woken || len(strays) != step.strays {
			t.Errorf("%s: woken are %q, want %q; %d strays, want %d", step.what, got, step.woken, len(strays), step.strays)
		}
	}
	if !g.gone(identity{"v1", "ConfigMap", "ns", "owner", "owner"}) || g.gone(identity{"v1", "ConfigMap", "ns", "other", "owner"}) {
		t.Error("what is gone is known by all of its identity")
	}
	for _, uid := range []types.UID{"far", "farther", "misnamed", "c"} {
		g.remove(uid)
	}
	if len(g.vertices)+len(g.dependents) > 0 {
		t.Errorf("left in an empty graph: %v %v", g.vertices, g.dependents)
	}
}
