// SPDX-License-Identifier: Apache-2.0

package endpoints

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
)

// TestRepack: subsets have the form and the order that Kubernetes 1.37 gives
// them; testdata/subsets.json is what its RepackSubsets made of the cases.
func TestRepack(t *testing.T) {
	b, err := os.ReadFile("testdata/subsets.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name    string
		In, Out []corev1.EndpointSubset
	}
	if err := json.Unmarshal(b, &cases); err != nil || len(cases) == 0 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, x := range cases {
		if d := cmp.Diff(x.Out, repack(x.In), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s (-want +got):\n%s", x.Name, d)
		}
		if d := cmp.Diff(x.Out, repack(repack(x.In)), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s, twice (-want +got):\n%s", x.Name, d)
		}
	}
}

// TestTruncate: no more than a thousand, the ready first, each subset in
// proportion.
func TestTruncate(t *testing.T) {
	some := func(n int) []corev1.EndpointAddress { return make([]corev1.EndpointAddress, n) }
	for _, x := range []struct {
		ready, not [2]int
		want       string
	}{
		{[2]int{400, 300}, [2]int{200, 100}, "false 400+200 300+100"},
		{[2]int{400, 300}, [2]int{200, 101}, "true 400+200 300+100"},
		{[2]int{1500, 500}, [2]int{10, 10}, "true 750+0 250+0"},
		{[2]int{2, 999}, [2]int{5, 0}, "true 2+0 998+0"},
		{[2]int{1000, 0}, [2]int{3, 4}, "true 1000+0 0+0"},
		{[2]int{0, 0}, [2]int{1001, 2}, "true 0+999 0+1"},
	} {
		s := []corev1.EndpointSubset{{Addresses: some(x.ready[0]), NotReadyAddresses: some(x.not[0])}, {Addresses: some(x.ready[1]), NotReadyAddresses: some(x.not[1])}}
		cut := truncate(s)
		if got := fmt.Sprintf("%v %d+%d %d+%d", cut, len(s[0].Addresses), len(s[0].NotReadyAddresses), len(s[1].Addresses), len(s[1].NotReadyAddresses)); got != x.want {
			t.Errorf("%v and %v not ready: %s, want %s", x.ready, x.not, got, x.want)
		}
	}
}
