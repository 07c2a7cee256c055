// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestResolvConf has the text of resolv.conf, in the order in which other
// runtimes write it.
func TestResolvConf(t *testing.T) {
	for want, c := range map[string]*runtimeapi.DNSConfig{
		"": {},
		"search ns.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n": {
			Servers: []string{"10.96.0.10"}, Searches: []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local"}, Options: []string{"ndots:5"},
		},
		"nameserver 192.0.2.1\nnameserver 192.0.2.2\n": {Servers: []string{"192.0.2.1", "192.0.2.2"}},
		"options rotate timeout:1\n":                   {Options: []string{"rotate", "timeout:1"}},
	} {
		if got := resolvConf(c); got != want {
			t.Errorf("%v is written as %q, not %q", c, got, want)
		}
	}
	if got := resolvConf(nil); got != "" {
		t.Errorf("without a config it is %q", got)
	}
}
