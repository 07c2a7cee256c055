// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

func certificateKinds() map[string]kind {
	return map[string]kind{
		"ClusterTrustBundle": of(rules[certificatesv1.ClusterTrustBundle]{cluster: true, check: validation.ClusterTrustBundle, change: validation.ClusterTrustBundleUpdate, columns: table.ClusterTrustBundle()}),
	}
}
