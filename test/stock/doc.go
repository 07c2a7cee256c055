// SPDX-License-Identifier: Apache-2.0

// Package stock pins the stock Kubernetes that the tests compare with: kubectl,
// as a tool of this module, golden, which asks the API's own code, and schedule,
// which asks kube-scheduler.
package stock
