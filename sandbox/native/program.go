// SPDX-License-Identifier: Apache-2.0

package native

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// slots is how many results of system calls a program can keep.
const slots = 8

// step is one system call of a program.
type step struct {
	nr  uintptr
	arg [6]uintptr
	// first: the first argument is the result kept in slot first-1.
	first int
	// keep: the result goes to slot keep-1.
	keep int
	// fine are errors that do not matter.
	fine [2]syscall.Errno
	// some: a result of 0 is an error: who should have answered is gone.
	some bool
	what string
}

// program is what a process does between its birth and execve: system calls
// and nothing else, written down before, since a process born of a program
// with several threads can do nothing else. It has no memory in common with
// us: whoever in the container takes hold of it has a copy.
type program struct {
	steps []step
	// results is where the kept results stand, in the process's copy.
	results *[slots]int64
	held    []any // keeps from being collected what steps point to
}

func newProgram() *program {
	p := &program{results: new([slots]int64)}
	p.hold(p.results)
	return p
}

func (p *program) hold(v any) { p.held = append(p.held, v) }

// do adds a system call.
func (p *program) do(what string, nr uintptr, args ...uintptr) *step {
	s := step{nr: nr, what: what}
	copy(s.arg[:], args)
	p.steps = append(p.steps, s)
	return &p.steps[len(p.steps)-1]
}

// text is a string as the kernel takes it.
func (p *program) text(s string) (uintptr, error) {
	b, err := unix.BytePtrFromString(s)
	if err != nil {
		return 0, fmt.Errorf("%q: %w", s, err)
	}
	p.hold(b)
	return uintptr(unsafe.Pointer(b)), nil
}

// texts is a list of strings as execve takes it.
func (p *program) texts(list []string) (uintptr, error) {
	b, err := syscall.SlicePtrFromStrings(list)
	if err != nil {
		return 0, err
	}
	p.hold(b)
	return uintptr(unsafe.Pointer(&b[0])), nil
}

// words are numbers as the kernel takes pointers to structures of them.
func words[T any](p *program, v []T) uintptr {
	if len(v) == 0 {
		return 0
	}
	p.hold(v)
	return uintptr(unsafe.Pointer(&v[0]))
}

// failure is what a process writes before it gives up: which step, and why.
type failure struct {
	step  int32
	errno int32
}

// cloneArgs is struct clone_args of linux/sched.h.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// start makes a process that shares our files, in the cgroup of v2 whose folder
// is open as cgroup (-1: ours), and lets it run p. What stops it is written to
// report. The calling thread must be locked.
func (p *program) start(flags uint64, cgroup, report int) (pid, pidfd int, err error) {
	fd := new(int32)
	p.hold(fd)
	args := &cloneArgs{flags: flags | unix.CLONE_FILES | unix.CLONE_PIDFD, pidfd: uint64(uintptr(unsafe.Pointer(fd))), exitSignal: uint64(unix.SIGCHLD)}
	if cgroup >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(cgroup)
	}
	p.hold(args)
	all := ^uint64(0)
	var before uint64
	// No signal may be handled in the process by the handlers it inherits.
	if err := sigmask(&all, &before); err != nil {
		return 0, 0, err
	}
	r, errno := birth(args, p.steps, p.results, report)
	if err := sigmask(&before, nil); err != nil {
		return 0, 0, err
	}
	runtime.KeepAlive(p)
	if errno != 0 {
		return 0, 0, fmt.Errorf("clone: %w", errno)
	}
	return int(r), int(*fd), nil
}

func sigmask(set, old *uint64) error {
	_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
	if errno != 0 {
		return fmt.Errorf("cannot block signals: %w", errno)
	}
	return nil
}

// birth returns only in the parent. In the child nothing may allocate, grow
// the stack, or wait for another thread, of which there are none.
//
//go:norace
//go:nosplit
//go:noinline
func birth(args *cloneArgs, steps []step, results *[slots]int64, report int) (uintptr, syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0, 0, 0, 0)
	if errno != 0 || r != 0 {
		return r, errno
	}
	var why failure
	for i := range steps {
		s := &steps[i]
		a := s.arg[0]
		if s.first > 0 {
			a = uintptr(results[(s.first-1)%slots])
		}
		r, _, errno = syscall.RawSyscall6(s.nr, a, s.arg[1], s.arg[2], s.arg[3], s.arg[4], s.arg[5])
		if errno == 0 && r == 0 && s.some {
			errno = unix.EPIPE
		}
		if errno != 0 && errno != s.fine[0] && errno != s.fine[1] {
			why.step, why.errno = int32(i), int32(errno)
			break
		}
		if s.keep > 0 {
			results[(s.keep-1)%slots] = int64(r)
		}
	}
	syscall.RawSyscall6(unix.SYS_WRITE, uintptr(report), uintptr(unsafe.Pointer(&why)), unsafe.Sizeof(why), 0, 0, 0)
	for {
		syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 1, 0, 0, 0, 0, 0)
	}
}

// explain turns what a process wrote into an error.
func (p *program) explain(f failure) error {
	if f.step < 0 || int(f.step) >= len(p.steps) {
		return fmt.Errorf("cannot understand process: step %d", f.step)
	}
	s := p.steps[f.step]
	return stepError{s.what, syscall.Errno(f.errno)}
}

// stepError is a system call that failed in a new process.
type stepError struct {
	what  string
	errno syscall.Errno
}

func (e stepError) Error() string { return e.what + ": " + e.errno.Error() }
func (e stepError) Unwrap() error { return e.errno }
