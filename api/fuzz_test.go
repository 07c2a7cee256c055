// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"
)

// random fills objects with anything that can come over the wire. What is
// filled depends on the seed alone.
func random(seed int64) *randfill.Filler {
	words := rand.New(rand.NewPCG(uint64(seed), 1))
	good := []string{"", "a", "web", "default", "Never", "Always", "TCP", "10.0.0.1", "fd00::1", "None", "../x", "app:latest", "metadata.name", "In", "NodePort", "kubernetes.io/tls"}
	return randfill.NewWithSeed(seed).NilChance(0.4).NumElements(0, 3).MaxDepth(14).Funcs(
		func(s *string, c randfill.Continue) {
			if words.IntN(2) == 0 {
				*s = good[words.IntN(len(good))]
				return
			}
			*s = strings.ToValidUTF8(c.String(12), "")
		},
		func(q *resource.Quantity, _ randfill.Continue) {
			*q = *resource.NewMilliQuantity(words.Int64N(5000)-500, resource.DecimalSI)
		},
		func(p *intstr.IntOrString, c randfill.Continue) {
			*p = intstr.FromInt32(c.Int31())
			if words.IntN(2) == 0 {
				*p = intstr.FromString(good[words.IntN(len(good))])
			}
		},
		func(t *metav1.Time, _ randfill.Continue) { *t = metav1.Unix(words.Int64N(2e9), 0) },
		func(t *metav1.MicroTime, _ randfill.Continue) {
			*t = metav1.NewMicroTime(time.Unix(words.Int64N(2e9), 0))
		},
		func(f *metav1.FieldsV1, _ randfill.Continue) { f.Raw = []byte("{}") },
		func(r *runtime.RawExtension, _ randfill.Continue) { r.Raw = []byte("{}") },
	)
}

// FuzzAnyObject: whatever a client sends, defaults, preparation, validation
// and columns come to an end, and defaults change nothing the second time.
func FuzzAnyObject(f *testing.F) {
	for seed := range int64(40) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) {
		for name, k := range kinds() {
			obj, old := k.fresh(), k.fresh()
			filler := random(seed)
			filler.Fill(obj)
			filler.Fill(old)
			k.defaults(obj)
			k.defaults(old)
			once := bytesOf(t, obj)
			k.defaults(obj)
			if d := cmp.Diff(once, bytesOf(t, obj)); d != "" {
				t.Errorf("%s, seed %d: defaults change their own work:\n%s", name, seed, d)
			}
			k.row(obj)
			for _, sub := range append(k.parts, "") {
				k.update(t, sub, copied(t, k, obj), copied(t, k, old))
				k.update(t, sub, copied(t, k, obj), copied(t, k, obj))
			}
			k.create(obj)
		}
	})
}

func bytesOf(t *testing.T, o any) string {
	t.Helper()
	b, err := json.MarshalIndent(o, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func copied(t *testing.T, k kind, o any) any {
	t.Helper()
	out := k.fresh()
	if err := json.Unmarshal([]byte(bytesOf(t, o)), out); err != nil {
		t.Fatal(err)
	}
	return out
}
