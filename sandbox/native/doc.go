// SPDX-License-Identifier: Apache-2.0

// Package native starts containers from OCI bundles by itself: it is what the
// program peapod-launcher does, and the records it leaves, which package
// sandbox reads. It does what runc does for the usual Linux container and
// refuses before anything is made what it cannot do (Supports).
//
// How a container is born:
//
//	launcher (a thread of it)                 container's first process
//	opens all that the machine gives: root,
//	  volumes, namespaces, cgroup, terminal
//	makes the cgroup and goes into it
//	new mount namespace, joins the others
//	clone ──────────────────────────────────▶ born where it will stay, runs
//	enters the root and loses the machine's     only system calls listed before
//	                          mounts ◀──────  makes procfs and cgroupfs, which
//	mounts, devices, masks, terminal            show the namespaces of their maker
//	writes the record
//	                           "go" ───────▶  limits, user, capabilities, seccomp,
//	ends ◀─ end of file, or why not ────────  no descriptors, execve
//
// A process that others could see, as the PID namespace is not its own, is born
// when the root is furnished and this thread has dropped what the process will
// not need; procfs is then made from outside (Linux 6.18). An exec is born so
// always.
//
// From the moment that a path of the container is looked at, nothing of the
// machine's files is reachable from the thread that looks: it has changed its
// root before, and holds what it needs as detached mounts.
package native
