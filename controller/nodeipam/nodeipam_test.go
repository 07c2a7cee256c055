// SPDX-License-Identifier: Apache-2.0

package nodeipam

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func TestAfter(t *testing.T) {
	for _, c := range []struct{ cluster, r, want string }{
		{"10.244.0.0/16", "10.244.0.0/20", "10.244.16.0/20"},
		{"10.244.0.0/16", "10.244.240.0/20", "10.244.0.0/20"},
		{"10.0.0.0/8", "10.0.255.0/24", "10.1.0.0/24"},
		{"10.244.0.0/16", "10.244.0.0/16", "10.244.0.0/16"},
		{"10.244.0.0/28", "10.244.0.8/29", "10.244.0.0/29"},
		{"192.0.0.0/2", "255.255.255.0/24", "192.0.0.0/24"},
	} {
		if got := after(netip.MustParsePrefix(c.cluster), netip.MustParsePrefix(c.r)); got.String() != c.want {
			t.Errorf("after %s in %s: %s, want %s", c.r, c.cluster, got, c.want)
		}
	}
}

// world is an API of Nodes; each step is what happens before a round.
type world struct {
	*testing.T
	api    client.WithWatch
	events *record.FakeRecorder
	a      *allocator
}

func newWorld(t *testing.T, cluster, own string) *world {
	w := &world{T: t, api: fake.NewClientBuilder().WithScheme(clientscheme.Scheme).Build(), events: record.NewFakeRecorder(100)}
	w.restart(cluster, own)
	return w
}

func (w *world) restart(cluster, own string) {
	r := netip.MustParsePrefix(own)
	w.a = &allocator{client: w.api, events: w.events, cluster: netip.MustParsePrefix(cluster), own: r, given: map[types.UID]netip.Prefix{}, last: r}
}

func (w *world) join(name, uid, podCIDR string) {
	w.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(uid)}, Spec: corev1.NodeSpec{PodCIDR: podCIDR}}
	if err := w.api.Create(w.Context(), n); err != nil {
		w.Fatal(err)
	}
}

func (w *world) leave(name string) {
	w.Helper()
	if err := w.api.Delete(w.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		w.Fatal(err)
	}
}

// round lets the controller look, and says who has what.
func (w *world) round() string {
	w.Helper()
	if _, err := w.a.Reconcile(w.Context(), ctrl.Request{}); err != nil {
		w.Fatal(err)
	}
	var all corev1.NodeList
	if err := w.api.List(w.Context(), &all); err != nil {
		w.Fatal(err)
	}
	var out []string
	for _, n := range all.Items {
		out = append(out, fmt.Sprintf("%s=%s%v", n.Name, n.Spec.PodCIDR, n.Spec.PodCIDRs))
	}
	return strings.Join(out, " ")
}

func (w *world) want(want string) {
	w.Helper()
	if got := w.round(); got != want {
		w.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestRanges(t *testing.T) {
	w := newWorld(t, "10.244.0.0/18", "10.244.0.0/20")
	// The own range is kept also before its Node is there.
	w.join("b", "1", "")
	w.want("b=10.244.16.0/20[10.244.16.0/20]")
	w.join("a", "2", "10.244.0.0/20")
	w.join("c", "3", "")
	w.want("a=10.244.0.0/20[] b=10.244.16.0/20[10.244.16.0/20] c=10.244.32.0/20[10.244.32.0/20]")
	// A range that was freed rests while there are others.
	w.leave("b")
	w.join("d", "4", "")
	w.want("a=10.244.0.0/20[] c=10.244.32.0/20[10.244.32.0/20] d=10.244.48.0/20[10.244.48.0/20]")
	w.join("e", "5", "")
	w.want("a=10.244.0.0/20[] c=10.244.32.0/20[10.244.32.0/20] d=10.244.48.0/20[10.244.48.0/20] e=10.244.16.0/20[10.244.16.0/20]")
	w.join("f", "6", "")
	w.want("a=10.244.0.0/20[] c=10.244.32.0/20[10.244.32.0/20] d=10.244.48.0/20[10.244.48.0/20] e=10.244.16.0/20[10.244.16.0/20] f=[]")
	if got := <-w.events.Events; got != "Normal CIDRNotAvailable Node f status is now: CIDRNotAvailable" {
		t.Errorf("event %q", got)
	}
	// A new process knows what the Nodes say.
	w.restart("10.244.0.0/18", "10.244.0.0/20")
	w.leave("c")
	w.want("a=10.244.0.0/20[] d=10.244.48.0/20[10.244.48.0/20] e=10.244.16.0/20[10.244.16.0/20] f=10.244.32.0/20[10.244.32.0/20]")
}

// TestAnOldCache: what was given counts before the cache shows it, and not for
// another Node of that name.
func TestAnOldCache(t *testing.T) {
	w := newWorld(t, "10.244.0.0/18", "10.244.0.0/20")
	w.a.given["1"] = netip.MustParsePrefix("10.244.16.0/20")
	w.join("b", "1", "")
	w.join("c", "2", "")
	w.want("b=[] c=10.244.32.0/20[10.244.32.0/20]")
	w.leave("b")
	w.join("b", "3", "")
	w.want("b=10.244.48.0/20[10.244.48.0/20] c=10.244.32.0/20[10.244.32.0/20]")
	if len(w.a.given) != 1 { // what the cache shows need not be known twice
		t.Errorf("given: %v", w.a.given)
	}
}
