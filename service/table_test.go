// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/knftables"
)

var update = flag.Bool("update", false, "write the golden files")

func configOf(ip6 bool) Config {
	c := Config{
		Instance: "peapod-golden", NodeName: "here", NodeIP: netip.MustParseAddr("192.0.2.1"), Services: netip.MustParsePrefix("10.96.0.0/16"),
		Pods: netip.MustParsePrefix("10.244.0.0/24"), Gateway: netip.MustParseAddr("10.244.0.1"), Log: slog.New(slog.DiscardHandler),
	}
	if ip6 {
		c.Services, c.Pods, c.Gateway = netip.MustParsePrefix("fd00:96::/112"), netip.MustParsePrefix("fd00:244::/64"), netip.MustParseAddr("fd00:244::1")
	}
	return c
}

func familyOf(c Config) knftables.Family {
	if c.Services.Addr().Is6() {
		return knftables.IPv6Family
	}
	return knftables.IPv4Family
}

// load gives a proxy the objects of a manifest.
func load(t *testing.T, p *Proxy, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range bytes.Split(b, []byte("\n---\n")) {
		o, _, err := clientscheme.Codecs.UniversalDeserializer().Decode(doc, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		switch o := o.(type) {
		case *corev1.Service:
			p.takeService(nil, o)
		case *discoveryv1.EndpointSlice:
			p.takeSlice(nil, o)
		}
	}
}

// commands are the nft commands that bring all a proxy knows into a table that
// has the rules of no Service.
func commands(p *Proxy, nft knftables.Interface) string {
	want, _, _ := p.change()
	touched := map[key]bool{}
	for name, f := range want {
		p.table.replace(name, f, touched)
	}
	tx := nft.NewTransaction()
	p.table.settle(touched).write(tx, p.table.rules)
	return tx.String()
}

// TestGolden renders manifests, and has the kernel accept the result.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			c := configOf(strings.Contains(file, "ip6"))
			fake := knftables.NewFake(familyOf(c), c.Instance)
			p := newProxy(c, fake)
			load(t, p, file)
			golden(t, strings.TrimSuffix(file, ".yaml")+".nft", commands(p, fake))
			inKernel(t, c, p.table)
		})
	}
}

// TestGoldenEmpty is what there is without any Service.
func TestGoldenEmpty(t *testing.T) {
	for name, c := range map[string]Config{"empty": configOf(false), "empty6": configOf(true)} {
		fake := knftables.NewFake(familyOf(c), c.Instance)
		table := newTable(newRules(c))
		tx := fake.NewTransaction()
		table.rebuild(tx, found{})
		golden(t, "testdata/"+name+".nft", tx.String())
		inKernel(t, c, table)
		c.Pods, c.Gateway = netip.Prefix{}, netip.Addr{}
		inKernel(t, c, newTable(newRules(c)))
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", file, d)
	}
}

// inKernel writes a table twice, as a start and the start after it do.
func inKernel(t *testing.T, c Config, table *table) {
	t.Helper()
	nft, err := knftables.New(familyOf(c), c.Instance)
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(c, nft)
	p.table = table
	for range 2 {
		p.stale = true
		if err := p.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	tx := nft.NewTransaction()
	tx.Delete(&knftables.Table{})
	if err := nft.Run(t.Context(), tx); err != nil {
		t.Error(err)
	}
}

func TestPlace(t *testing.T) {
	at := func(s string) (out []netip.AddrPort) {
		for _, c := range s {
			out = append(out, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(c)}), 80))
		}
		return out
	}
	for _, tt := range []struct{ had, want, placed string }{
		{"", "abc", "abc"}, {"abc", "", ""}, {"abc", "abc", "abc"},
		{"abc", "ac", "ac"}, {"abc", "bc", "cb"}, {"abc", "c", "c"}, {"abcdef", "cf", "fc"},
		{"abc", "xbc", "xbc"}, {"abc", "abcd", "abcd"}, {"abc", "bcxy", "xbcy"}, {"cba", "abc", "cba"}, {"abcd", "xd", "xd"},
	} {
		if got := place(at(tt.had), at(tt.want)); !slices.Equal(got, at(tt.placed)) {
			t.Errorf("%q to %q: %v, want %q", tt.had, tt.want, got, tt.placed)
		}
	}
}

// TestOlderServiceHasTheAddress: of two that claim one, and the younger gets
// it when the older goes.
func TestOlderServiceHasTheAddress(t *testing.T) {
	p := newProxy(configOf(false), knftables.NewFake(knftables.IPv4Family, "peapod-golden"))
	claim := func(name, ip string, age time.Duration) *corev1.Service {
		s, _ := web(name, ip)
		s.Spec.ExternalIPs = []string{"203.0.113.7", "203.0.113.7"}
		s.CreationTimestamp = metav1.NewTime(time.Unix(1e9, 0).Add(-age))
		p.takeService(nil, s)
		return s
	}
	owner := func() string {
		t.Helper()
		if err := p.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		f := p.table.active[key{netip.MustParseAddr("203.0.113.7"), "tcp", 80}]
		if f == nil {
			return ""
		}
		return f.owner
	}
	claim("young", "10.96.0.1", 0)
	if got := owner(); got != "default/young" {
		t.Errorf("%s has it", got)
	}
	old := claim("old", "10.96.0.2", time.Hour)
	if got := owner(); got != "default/old" {
		t.Errorf("%s has it", got)
	}
	p.takeService(old, nil)
	if got := owner(); got != "default/young" {
		t.Errorf("%s has it", got)
	}
}

// FuzzChanges: whatever changes come, one after another or together, the table
// has what a table made anew would have; when all Services are gone it has
// nothing of them.
func FuzzChanges(f *testing.F) {
	for seed := range uint64(30) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := configOf(seed%5 == 4)
		fake := knftables.NewFake(familyOf(c), c.Instance)
		p := newProxy(c, fake)
		p.table.rules.ip = string(familyOf(c))
		check := func() {
			t.Helper()
			if err := p.sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			sameAsNew(t, c, p.table, fake)
		}
		for range 40 {
			for range 1 + r.IntN(3) {
				change(r, p, c)
			}
			check()
		}
		for _, s := range p.services {
			p.takeService(s, nil)
		}
		check()
		if len(p.table.refs)+len(p.table.shared)+len(p.table.active)+len(p.table.claims)+len(p.table.keys) > 0 {
			t.Errorf("the table remembers %+v", p.table)
		}
	})
}

// change does something to one of a few Services or its endpoints.
func change(r *rand.Rand, p *Proxy, c Config) {
	addr := func(base netip.Addr, n int) string {
		b := base.AsSlice()
		b[len(b)-1] = byte(n)
		a, _ := netip.AddrFromSlice(b)
		return a.String()
	}
	n := r.IntN(4)
	name := fmt.Sprintf("s%d", n)
	old := p.services["default/"+name]
	if r.IntN(3) > 0 {
		s := &corev1.Service{}
		s.Namespace, s.Name = "default", name
		was := p.slices["default/"+name][name]
		if r.IntN(8) == 0 {
			p.takeSlice(was, nil)
			return
		}
		e := &discoveryv1.EndpointSlice{}
		e.Namespace, e.Name, e.Labels = "default", name, map[string]string{discoveryv1.LabelServiceName: name}
		for _, port := range []string{"a", "b"} {
			e.Ports = append(e.Ports, discoveryv1.EndpointPort{Name: &port, Port: ptr.To[int32](8080)})
		}
		for i := range r.IntN(6) {
			ready := r.IntN(4) > 0
			e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{addr(c.Pods.Addr(), 10+i+r.IntN(3))}, NodeName: ptr.To([]string{"here", "there"}[r.IntN(2)]),
				Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: ptr.To(r.IntN(2) == 0), Terminating: ptr.To(!ready && r.IntN(2) == 0)},
			})
		}
		p.takeSlice(was, e)
		return
	}
	if old != nil && r.IntN(4) == 0 {
		p.takeService(old, nil)
		return
	}
	s := &corev1.Service{}
	s.Namespace, s.Name, s.Spec.ClusterIP = "default", name, addr(c.Services.Addr(), n+1)
	s.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 80, NodePort: int32(30000 + r.IntN(3))}, {Name: "b", Port: int32(81 + r.IntN(2))}}
	s.Spec.ExternalIPs = []string{addr(c.Services.Addr(), 100+r.IntN(2))}
	if r.IntN(2) == 0 {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}
	if r.IntN(2) == 0 {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	if r.IntN(4) == 0 {
		s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	}
	if r.IntN(3) == 0 {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: addr(c.Services.Addr(), 200+r.IntN(2))}}
		s.Spec.LoadBalancerSourceRanges = [][]string{nil, {c.Pods.String()}, {c.Services.String(), c.Pods.String()}}[r.IntN(3)]
	}
	p.takeService(old, s)
}

// sameAsNew compares the kernel's table with one rendered from nothing.
func sameAsNew(t *testing.T, c Config, have *table, fake *knftables.Fake) {
	t.Helper()
	fresh := newTable(newRules(c))
	touched := map[key]bool{}
	for k, claims := range have.claims {
		active := have.active[k]
		if !sameBackends(active.backends, claims[0].backends) || !sameBackends(active.near, claims[0].near) {
			t.Fatalf("%v leads to %v and %v, want %v and %v", k, active.backends, active.near, claims[0].backends, claims[0].near)
		}
		f := claims[0]
		f.backends, f.near = active.backends, active.near // numbered as they are
		fresh.claims[k], touched[k] = []frontend{f}, true
	}
	fresh.settle(touched)
	want := knftables.NewFake(familyOf(c), c.Instance)
	tx := want.NewTransaction()
	fresh.rebuild(tx, found{})
	if err := want.Run(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(lines(want), lines(fake)); d != "" {
		t.Fatalf("the table is not as a new one (-new +have):\n%s", d)
	}
}

func sameBackends(a, b []netip.AddrPort) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.AddrPort.Compare)
	slices.SortFunc(b, netip.AddrPort.Compare)
	return slices.Equal(a, b)
}

// lines are a dump with everything in order that has none of its own; rules
// stay as they follow each other in their chain.
func lines(f *knftables.Fake) []string {
	out := strings.Split(f.Dump(), "\n")
	slices.SortStableFunc(out, func(a, b string) int {
		return strings.Compare(orderOf(a), orderOf(b))
	})
	return out
}

func orderOf(line string) string {
	if words := strings.Fields(line); len(words) > 4 && words[1] == "rule" {
		return strings.Join(words[:5], " ")
	}
	return line
}
