// SPDX-License-Identifier: Apache-2.0

// Package stock pins the stock Kubernetes programs the tests run: kubectl, as
// a tool of this module. It holds no code of its own.
package stock
