// SPDX-License-Identifier: Apache-2.0

// Package linux owns small functions over the kernel: durable file writes,
// mounts, namespaces, pidfds, and facts of the machine such as its boot, its
// cgroups and our capabilities. It owns no state and takes no decision; what a
// mount or a process is for is known on the floors above. It imports the
// standard library and golang.org/x/sys alone, because the keeper is built
// from it and must stay tiny.
package linux
