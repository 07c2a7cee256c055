// SPDX-License-Identifier: Apache-2.0

// Package stock pins the stock Kubernetes that the tests compare with: kubectl,
// as a tool of this module, golden, which asks the API's own code, schedule, which
// asks kube-scheduler, and workload, daemons and jobs, which ask controllers of
// kube-controller-manager.
package stock
