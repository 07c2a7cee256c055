// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// Request says which namespaces a Pod gets of its own.
type Request struct {
	Net, IPC, UTS bool
	// Hostname is set in the new UTS namespace.
	Hostname string
	// Sysctls are set inside, by name ("net.ipv4.ip_forward"). Only those that
	// belong to one of the new namespaces may be given; others would change
	// the machine.
	Sysctls map[string]string
}

// Namespaces are the files that stand for a Pod's namespaces, "" for those it
// shares with the machine. PID is there only if its containers share one.
type Namespaces struct{ Net, IPC, UTS, PID string }

// Pin makes the namespaces that r asks for and pins them to files of their
// names in dir, which is made if missing. They live until Unpin without any
// process in them. It is all or nothing. In a new network namespace the
// loopback device is down: links are the network's part.
func Pin(dir string, r Request) (Namespaces, error) {
	ns, err := pin(dir, r)
	if err != nil {
		return Namespaces{}, fmt.Errorf("cannot make namespaces of sandbox: %w", errors.Join(err, Unpin(dir)))
	}
	return ns, nil
}

func pin(dir string, r Request) (Namespaces, error) {
	var ns Namespaces
	settings, err := r.sysctls()
	if err != nil {
		return ns, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return ns, err
	}
	var pins []linux.NamespacePin
	add := func(wanted bool, kind string, path *string) {
		if wanted && err == nil {
			*path = filepath.Join(dir, kind)
			err = os.WriteFile(*path, nil, 0o600)
			pins = append(pins, linux.NamespacePin{Kind: kind, Path: *path})
		}
	}
	add(r.Net, "net", &ns.Net)
	add(r.IPC, "ipc", &ns.IPC)
	add(r.UTS, "uts", &ns.UTS)
	if err != nil || len(pins) == 0 {
		return ns, err
	}
	return ns, linux.NewNamespaces(pins, func() error {
		if r.UTS && r.Hostname != "" {
			if err := unix.Sethostname([]byte(r.Hostname)); err != nil {
				return fmt.Errorf("cannot set hostname %q: %w", r.Hostname, err)
			}
		}
		for _, path := range slices.Sorted(maps.Keys(settings)) {
			// Through the thread's own view: /proc/sys/net and the ipc files
			// are those of who opens them.
			if err := os.WriteFile(path, []byte(settings[path]), 0); err != nil {
				return fmt.Errorf("cannot set sysctl: %w", err)
			}
		}
		return nil
	})
}

// sysctls maps the files under /proc/sys to the values that r wants in them.
func (r Request) sysctls() (map[string]string, error) {
	out := map[string]string{}
	for name, value := range r.Sysctls {
		path := name
		// The separator is what comes first. In the dotted form a slash
		// stands for a dot within a name (sysctl.d(5)).
		if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
			path = strings.NewReplacer(".", "/", "/", ".").Replace(name)
		}
		clean := filepath.Clean("/" + path)
		ok := r.Net && strings.HasPrefix(clean, "/net/") ||
			r.IPC && (strings.HasPrefix(clean, "/fs/mqueue/") || slices.Contains(ipcSysctls(), clean)) ||
			r.UTS && clean == "/kernel/domainname"
		if !ok {
			return nil, fmt.Errorf("sysctl %q is not of a namespace that the sandbox has of its own", name)
		}
		out["/proc/sys"+clean] = value
	}
	return out, nil
}

// ipcSysctls are those of the System V part of an IPC namespace
// (ipc_namespaces(7)).
func ipcSysctls() []string {
	return []string{"/kernel/msgmax", "/kernel/msgmnb", "/kernel/msgmni", "/kernel/sem", "/kernel/shmall",
		"/kernel/shmmax", "/kernel/shmmni", "/kernel/shm_rmid_forced"}
}

// PinPID pins the PID namespace of a process to a file in dir. The namespace
// can be joined for as long as its first process lives.
func PinPID(dir string, pid int) (string, error) {
	path := filepath.Join(dir, "pid")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("cannot pin PID namespace: %w", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return "", fmt.Errorf("cannot pin PID namespace: %w", err)
	}
	return path, linux.Bind(fmt.Sprintf("/proc/%d/ns/pid", pid), path, false)
}

// Pinned returns what is pinned in dir: after a restart of ours the
// namespaces, after one of the machine none.
func Pinned(dir string) (Namespaces, error) {
	var ns Namespaces
	for kind, path := range map[string]*string{"net": &ns.Net, "ipc": &ns.IPC, "uts": &ns.UTS, "pid": &ns.PID} {
		file := filepath.Join(dir, kind)
		mounted, err := linux.IsMountPoint(file)
		if err != nil {
			return Namespaces{}, fmt.Errorf("cannot find namespaces of sandbox: %w", err)
		}
		if mounted {
			*path = file
		}
	}
	return ns, nil
}

// Unpin releases what is pinned in dir and removes the files; a namespace ends
// with the last process in it. It may be repeated, also after a reboot.
func Unpin(dir string) error {
	for _, kind := range []string{"pid", "net", "ipc", "uts"} {
		file := filepath.Join(dir, kind)
		if err := linux.Detach(file); err != nil {
			return fmt.Errorf("cannot release namespaces of sandbox: %w", err)
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot release namespaces of sandbox: %w", err)
		}
	}
	return nil
}

// Holder returns the command line that makes a PID namespace with a process
// that holds it, in the other namespaces ns, for the keeper to run: the holder
// is left behind with its pid in pidFile. It collects orphans and ends on
// SIGTERM; its end kills all in the namespace. Only Pods whose containers
// share one PID namespace need it.
func Holder(keeperBinary, pidFile string, ns Namespaces) []string {
	a := []string{keeperBinary, "hold", pidFile}
	for _, n := range []struct{ kind, path string }{{"net", ns.Net}, {"ipc", ns.IPC}, {"uts", ns.UTS}} {
		if n.path != "" {
			a = append(a, n.kind+"="+n.path)
		}
	}
	return a
}
