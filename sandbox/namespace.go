// SPDX-License-Identifier: Apache-2.0

package sandbox

// Request says which namespaces a Pod gets of its own.
type Request struct {
	Net, IPC, UTS bool
	// Hostname is set in the new UTS namespace.
	Hostname string
	// Sysctls are set inside ("net.ipv4.ip_forward" or with slashes): those of
	// the network need Net, those of System V and POSIX IPC need IPC, and
	// kernel.hostname-like ones UTS; others are an error, since they would
	// change the machine.
	Sysctls map[string]string
}

// Namespaces are the files that stand for a Pod's namespaces, "" for those it
// shares with the machine.
type Namespaces struct{ Net, IPC, UTS, PID string }

// Pin makes the namespaces that r asks for and pins them to files in dir. It is
// all or nothing.
func Pin(dir string, r Request) (Namespaces, error) { return Namespaces{}, errSkeleton }

// Pinned returns what is pinned in dir, after a restart of ours.
func Pinned(dir string) (Namespaces, error) { return Namespaces{}, errSkeleton }

// Unpin releases what Pin made in dir; the namespaces end with the last process
// in them. It may be repeated, also after a reboot.
func Unpin(dir string) error { return errSkeleton }
