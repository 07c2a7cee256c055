// SPDX-License-Identifier: Apache-2.0

// Package stock pins the stock Kubernetes that the tests compare with: kubectl
// and the programs of a cluster, as tools of this module (scripts/stock-cluster
// builds them; the folder containerd is a module for the rest), golden, which asks the API's own code, schedule, which
// asks kube-scheduler, and workload, daemons and jobs, which ask controllers of
// kube-controller-manager.
package stock
