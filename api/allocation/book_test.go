// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestBookGivesAll: every number of the ranges is given once, those of the
// lower part last, and then the range is full.
func TestBookGivesAll(t *testing.T) {
	const size, held = 64, "10.0.0.40"
	const elsewhere = "10.0.0.41"
	first, second := netip.MustParsePrefix("10.0.0.0/26"), netip.MustParsePrefix("10.9.0.0/28")
	b := NewBook([]netip.Prefix{first, second}, []corev1.Service{{Spec: corev1.ServiceSpec{ClusterIP: held}}}, false, func(a netip.Addr) bool { return a.String() == elsewhere })
	seen := map[string]bool{}
	for i := range size - 5 { // the network, the API, the broadcast, the two held ones
		ip, err := b.anyAddress()
		if err != nil || seen[ip] || ip == held || ip == elsewhere {
			t.Fatalf("address %d: %q, %v", i, ip, err)
		}
		seen[ip] = true
		n := int(netip.MustParseAddr(ip).As4()[3])
		if low, last := n < 16, i >= size-16-3; low != last {
			t.Errorf("address %d is %s", i, ip)
		}
	}
	for i := range 14 { // of the second range
		ip, err := b.anyAddress()
		if err != nil || seen[ip] || !Contains(second, netip.MustParseAddr(ip)) {
			t.Fatalf("address %d of the second range: %q, %v", i, ip, err)
		}
		seen[ip] = true
	}
	if ip, err := b.anyAddress(); err != errFull {
		t.Errorf("one more address: %q, %v", ip, err)
	}
	ports := map[int32]bool{}
	for i := range LastNodePort - FirstNodePort + 1 {
		n, err := b.anyPort()
		if err != nil || ports[n] || n < FirstNodePort || n > LastNodePort {
			t.Fatalf("port %d: %d, %v", i, n, err)
		}
		ports[n] = true
		if low, last := n < FirstNodePort+86, i >= LastNodePort-FirstNodePort+1-86; low != last {
			t.Errorf("port %d is %d", i, n)
		}
	}
	if n, err := b.anyPort(); err != errFull {
		t.Errorf("one more port: %d, %v", n, err)
	}
}

// TestRanges: what is ready counts, and the cluster's own unless it says
// otherwise.
func TestRanges(t *testing.T) {
	own := netip.MustParsePrefix("10.96.0.0/16")
	cidr := func(name, cidr, ready string, change ...func(*networkingv1.ServiceCIDR)) networkingv1.ServiceCIDR {
		c := networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{cidr}}}
		if ready != "" {
			c.Status.Conditions = []metav1.Condition{{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionStatus(ready)}}
		}
		for _, f := range change {
			f(&c)
		}
		return c
	}
	going := func(c *networkingv1.ServiceCIDR) { c.DeletionTimestamp = &metav1.Time{} }
	for name, x := range map[string]struct {
		all  []networkingv1.ServiceCIDR
		want string
	}{
		"none":         {nil, "[10.96.0.0/16]"},
		"new":          {[]networkingv1.ServiceCIDR{cidr(DefaultRange, "10.96.0.0/16", "")}, "[10.96.0.0/16]"},
		"more":         {[]networkingv1.ServiceCIDR{cidr("z", "10.9.0.0/24", "True"), cidr("b", "10.8.0.0/24", "True"), cidr("c", "10.7.0.0/24", ""), cidr("d", "fd00::/64", "True"), cidr(DefaultRange, "10.96.0.0/16", "True")}, "[10.96.0.0/16 10.8.0.0/24 10.9.0.0/24]"},
		"going":        {[]networkingv1.ServiceCIDR{cidr(DefaultRange, "10.96.0.0/16", "True", going), cidr("b", "10.8.0.0/24", "True", going), cidr("c", "10.7.0.0/24", "True")}, "[10.7.0.0/24]"},
		"not ready":    {[]networkingv1.ServiceCIDR{cidr(DefaultRange, "10.96.0.0/16", "False")}, "[]"},
		"another than": {[]networkingv1.ServiceCIDR{cidr(DefaultRange, "10.95.0.0/16", "True")}, "[10.96.0.0/16 10.95.0.0/16]"},
	} {
		if got := fmt.Sprint(Ranges(own, x.all)); got != x.want {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
}
