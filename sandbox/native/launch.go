// SPDX-License-Identifier: Apache-2.0

package native

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// Options are those of a container or process to be started.
type Options struct {
	// State is the folder of the records.
	State, ID string
	// Bundle holds config.json.
	Bundle string
	// PidFile receives the process's number, ConsoleSocket the terminal.
	PidFile, ConsoleSocket string
	// Held: the program waits for Record.Start.
	Held bool
}

// birthplace is what a process is born with, at the launcher's side.
type birthplace struct {
	program *program
	handles handles
	// sync and report are our ends.
	sync, report int
	pid, pidfd   int
	// path of the program, once it is known.
	path string
}

// isolate makes this process fit for its work, and the calling goroutine's
// thread one that can change its root and namespaces alone. Nobody may look
// into us, least of all a container that we are about to enter.
func isolate() error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot hide memory: %w", err)
	}
	unix.Umask(0)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("cannot separate root: %w", err)
	}
	return nil
}

// narrow gives up, for this thread and so for a process born of it, what neither
// that process nor the way to it needs: who is in the PID namespace already
// sees it as soon as it is born, and may have the right to trace it.
func narrow(p *specs.Process, filter *specs.LinuxSeccomp) error {
	have, _, err := ourCapabilities()
	if err != nil {
		return err
	}
	keep := setsOf(p.Capabilities).permitted |
		capabilityMask([]string{"CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_DAC_OVERRIDE"})
	if len(p.Rlimits) > 0 {
		keep |= capabilityMask([]string{"CAP_SYS_RESOURCE"})
	}
	if filter != nil && !p.NoNewPrivileges {
		keep |= capabilityMask([]string{"CAP_SYS_ADMIN"}) // without it no filter
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := capData(have&keep, have&keep, 0)
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("cannot drop capabilities: %w", err)
	}
	return nil
}

// newBirthplace opens what a process and we talk by.
func newBirthplace() (*birthplace, error) {
	b := &birthplace{program: newProgram(), handles: handles{start: -1}}
	var pair, pipe [2]int
	var err error
	if pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, err
	}
	if err = unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	b.sync, b.handles.sync, b.report = pair[0], pair[1], pipe[0]
	// Well apart from the standard ones, as all around it are closed.
	if b.handles.report, err = unix.FcntlInt(uintptr(pipe[1]), unix.F_DUPFD_CLOEXEC, 16); err != nil {
		return nil, err
	}
	if err := unix.Close(pipe[1]); err != nil {
		return nil, err
	}
	for _, fd := range []*int{&b.handles.root, &b.handles.cwd, &b.handles.tty} {
		if *fd, err = reserve(); err != nil {
			return nil, err
		}
	}
	b.program.do("die with the launcher", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
	return b, nil
}

// start gives birth.
func (b *birthplace) start(flags uint64, cgroup int) error {
	var err error
	b.pid, b.pidfd, err = b.program.start(flags, cgroup, b.handles.report)
	return err
}

// hear reads what the process has to say, or why it has ended: as long as it
// has our descriptors, there is no end of file that could tell.
func (b *birthplace) hear(word []byte) error {
	fds := []unix.PollFd{{Fd: int32(b.report), Events: unix.POLLIN}, {Fd: int32(b.sync), Events: unix.POLLIN}, {Fd: int32(b.pidfd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case fds[0].Revents&unix.POLLIN != 0:
			return b.failed()
		case fds[1].Revents&unix.POLLIN != 0:
			n, err := readFull(b.sync, word)
			if err == nil && n < len(word) {
				err = errEnded
			}
			return err
		}
		return errEnded
	}
}

// told reads the descriptors of what the process has mounted.
func (b *birthplace) told() ([slots]int64, error) {
	var out [slots]int64
	word := make([]byte, len(out)*8)
	err := b.hear(word)
	for i := range out {
		out[i] = int64(binary.NativeEndian.Uint64(word[i*8:]))
	}
	return out, err
}

// goOn lets the process become the program at path; when it returns, the
// process has its descriptors for itself.
func (b *birthplace) goOn(path string) error {
	if len(path) >= pathMax {
		return unix.ENAMETOOLONG
	}
	b.path = path
	if _, err := unix.Write(b.sync, []byte(path)); err != nil {
		return err
	}
	return b.hear(make([]byte, 1))
}

// await returns when the process has become its program, or why not: then the
// last descriptor by which it could have said so is closed.
func (b *birthplace) await() error {
	if err := unix.Close(b.handles.report); err != nil {
		return err
	}
	return b.failed()
}

func (b *birthplace) failed() error {
	f, err := awaitExec(b.report)
	if err != nil || f == nil {
		return err
	}
	err = b.program.explain(*f)
	if s, ok := errors.AsType[stepError](err); ok && s.what == "exec" {
		return fmt.Errorf("exec %s: %w", b.path, s.errno)
	}
	return err
}

// kill ends a process that shall not be.
func (b *birthplace) kill() {
	if b.pid == 0 {
		return
	}
	_ = unix.PidfdSendSignal(b.pidfd, unix.SIGKILL, nil, 0) // it may have ended
	for {
		if _, err := unix.Wait4(b.pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// outside runs f on another thread than the calling goroutine's, one that still
// has the machine in sight.
func outside(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return <-done
}

// writePid writes a pid file; empty means none.
func writePid(file string, pid int) error {
	if file == "" {
		return nil
	}
	return linux.ReplaceFile(file, []byte(strconv.Itoa(pid)), 0o600)
}

// ReadBundle reads the config.json of dir.
func ReadBundle(dir string) (*specs.Spec, error) {
	var s specs.Spec
	file := filepath.Join(dir, "config.json")
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, err)
	}
	return &s, nil
}

// namespaceFlags are the kinds of namespaces that are made or joined.
func namespaceFlags() map[specs.LinuxNamespaceType]int {
	return map[specs.LinuxNamespaceType]int{
		specs.NetworkNamespace: unix.CLONE_NEWNET, specs.IPCNamespace: unix.CLONE_NEWIPC, specs.UTSNamespace: unix.CLONE_NEWUTS,
		specs.PIDNamespace: unix.CLONE_NEWPID, specs.MountNamespace: unix.CLONE_NEWNS, specs.CgroupNamespace: unix.CLONE_NEWCGROUP,
	}
}

// adjustOOM sets our own oom_score_adj: who is born of us has it too.
func adjustOOM(score *int) error {
	if score == nil {
		return nil
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(*score)), 0); err != nil {
		return fmt.Errorf("cannot set oom_score_adj to %d: %w", *score, err)
	}
	return nil
}
