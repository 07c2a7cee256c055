// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/x509/pkix"
	"testing"
)

// TestMayAsk: whom the node's endpoint answers.
func TestMayAsk(t *testing.T) {
	for _, tt := range []struct {
		name   string
		groups []string
		want   bool
	}{
		{"kube-apiserver-kubelet-client", nil, true}, {"kubernetes-admin", []string{"system:masters"}, true}, {"x", []string{"a", "system:masters"}, true},
		{"", nil, false}, {"system:node:n", []string{"system:nodes"}, false}, {"system:masters", nil, false}, {"kube-apiserver-kubelet-client ", nil, false}, {"x", []string{"kube-apiserver-kubelet-client"}, false},
	} {
		if got := mayAsk(pkix.Name{CommonName: tt.name, Organization: tt.groups}); got != tt.want {
			t.Errorf("%q of %q: %v", tt.name, tt.groups, got)
		}
	}
}
