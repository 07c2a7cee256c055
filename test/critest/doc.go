// SPDX-License-Identifier: Apache-2.0

// Package critest pins Kubernetes' conformance suite for container runtimes,
// which scripts/critest builds and test/cri runs, and crictl. A module of its
// own, so that the product's go.mod never sees what it needs.
package critest

import (
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
