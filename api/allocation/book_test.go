// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestBookGivesAll: every number of the ranges is given once, those of the
// lower part last, and then the range is full.
func TestBookGivesAll(t *testing.T) {
	const size, held = 64, "10.0.0.40"
	b := NewBook(netip.MustParsePrefix("10.0.0.0/26"), []corev1.Service{{Spec: corev1.ServiceSpec{ClusterIP: held}}}, false)
	seen := map[string]bool{}
	for i := range size - 4 { // the network, the API, the broadcast, the held one
		ip, err := b.anyAddress()
		if err != nil || seen[ip] || ip == held {
			t.Fatalf("address %d: %q, %v", i, ip, err)
		}
		seen[ip] = true
		n, _ := b.index(netip.MustParseAddr(ip))
		if low, last := n < 16, i >= size-16-2; low != last {
			t.Errorf("address %d is %s", i, ip)
		}
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
