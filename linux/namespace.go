// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// NamespacePin asks for a new namespace of a kind, kept alive by a bind mount
// on a file.
type NamespacePin struct {
	// Kind is the name under /proc/<pid>/ns: "net", "ipc" or "uts".
	Kind string
	// Path is the file to pin to. It must exist.
	Path string
}

// NewNamespaces makes one new namespace of each kind, runs setup inside them,
// and pins each. Nothing stays pinned when it fails. Setup runs on an
// operating system thread that is in the namespaces and is destroyed
// afterwards; goroutines it starts are not in them.
func NewNamespaces(pins []NamespacePin, setup func() error) error {
	return onThrowawayThread(func() error { return newNamespaces(pins, setup) })
}

// onThrowawayThread runs f on a thread that is destroyed afterwards, so that
// nothing else ever runs in the namespaces it went to. It never is the main
// thread: that one cannot be destroyed, and /proc/self shows its namespaces.
func onThrowawayThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// While this goroutine holds the main thread, f gets another.
			defer runtime.UnlockOSThread()
			result <- onThrowawayThread(f)
			return
		}
		result <- f() // never unlocked: the thread ends with the goroutine
	}()
	return <-result
}

func newNamespaces(pins []NamespacePin, setup func() error) (err error) {
	flags := 0
	for _, p := range pins {
		flag, err := cloneFlag(p.Kind)
		if err != nil {
			return err
		}
		flags |= flag
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("cannot make namespaces: %w", err)
	}
	if setup != nil {
		if err := setup(); err != nil {
			return err
		}
	}
	for i, p := range pins {
		own := fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), p.Kind)
		if err := Bind(own, p.Path, false); err != nil {
			for _, done := range pins[:i] {
				err = errors.Join(err, Detach(done.Path))
			}
			return err
		}
	}
	return nil
}

// JoinNamespace moves the calling thread, which must be locked, into the
// namespace of a kind at path.
func JoinNamespace(kind, path string) error {
	flag, err := cloneFlag(kind)
	if err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, flag); err != nil {
		return fmt.Errorf("cannot enter namespace %s: %w", path, err)
	}
	return nil
}

// InNamespace runs f on a thread that has joined the namespace of a kind at
// path. The thread is destroyed afterwards.
func InNamespace(kind, path string, f func() error) error {
	return onThrowawayThread(func() error {
		if err := JoinNamespace(kind, path); err != nil {
			return err
		}
		return f()
	})
}

func cloneFlag(kind string) (int, error) {
	switch kind {
	case "net":
		return unix.CLONE_NEWNET, nil
	case "ipc":
		return unix.CLONE_NEWIPC, nil
	case "uts":
		return unix.CLONE_NEWUTS, nil
	}
	return 0, fmt.Errorf("cannot make a namespace of kind %q", kind)
}
