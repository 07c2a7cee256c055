// SPDX-License-Identifier: Apache-2.0

// Package sandbox owns what separates a Pod's processes from the machine:
// namespaces pinned without a process, the translation of a CRI container into
// an OCI runtime specification, and the OCI runtimes that carry it out. It
// does not start or watch processes, which is the keeper's part, makes no
// network, no image and no record: those belong to the rooms network, image
// and runtime.
package sandbox
