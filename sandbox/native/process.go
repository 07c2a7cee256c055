// SPDX-License-Identifier: Apache-2.0

package native

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// handles are descriptors that are opened only after the process is born, with
// which it shares them: their numbers are set apart before.
type handles struct {
	// root and cwd are folders; tty is the terminal, if there is one.
	root, cwd, tty int
	// sync is the process's end of what it is told by, report where it says
	// what went wrong, start what it waits for if it is only created (-1).
	sync, report, start int
}

// reserve sets a descriptor apart. It is of nothing: the process has it too,
// and who may trace that must find no folder of the machine.
func reserve() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) }

// becomes puts what fd is in the place of a descriptor that was set apart.
func becomes(fd, reserved int) error {
	err := unix.Dup3(fd, reserved, unix.O_CLOEXEC)
	return errors.Join(err, unix.Close(fd))
}

// pathMax is PATH_MAX.
const pathMax = 4096

// become adds to a program what makes a process that of a container: session,
// root, limits, user, capabilities, seccomp, and execve of the program whose
// path it is told.
func (p *program) become(id string, proc *specs.Process, filter *specs.LinuxSeccomp, h handles) error {
	path := make([]byte, pathMax)
	file := words(p, path)
	// Whoever speaks the word "go" says which file it is.
	p.do("wait for the launcher", unix.SYS_READ, uintptr(h.sync), file, pathMax-1).some = true
	// From here on its descriptors are its own.
	p.do("unshare files", unix.SYS_UNSHARE, unix.CLONE_FILES)
	if h.start >= 0 {
		p.do("let go of the launcher", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, 0)
	}
	p.do("tell the launcher", unix.SYS_WRITE, uintptr(h.sync), words(p, []byte{1}), 1)
	p.do("setsid", unix.SYS_SETSID)
	if proc.Terminal {
		p.do("set controlling terminal", unix.SYS_IOCTL, uintptr(h.tty), unix.TIOCSCTTY, 0)
		for fd := range uintptr(3) {
			p.do("open terminal", unix.SYS_DUP3, uintptr(h.tty), fd, 0)
		}
	}
	name, err := p.text("_ses." + id)
	if err != nil {
		return err
	}
	p.do("join session keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, name).fine = [2]unix.Errno{unix.ENOSYS, unix.EPERM}
	dot, err := p.text(".")
	if err != nil {
		return err
	}
	p.do("enter root", unix.SYS_FCHDIR, uintptr(h.root))
	p.do("enter root", unix.SYS_CHROOT, dot)
	p.do(inCwd(proc), unix.SYS_FCHDIR, uintptr(h.cwd))
	mask := uint32(0o022)
	if proc.User.Umask != nil {
		mask = *proc.User.Umask
	}
	p.do("set umask", unix.SYS_UMASK, uintptr(mask))
	if err := p.openFiles(proc); err != nil {
		return err
	}
	for _, r := range proc.Rlimits {
		limit := words(p, []uint64{r.Soft, r.Hard})
		p.do("error setting rlimit type "+r.Type, unix.SYS_PRLIMIT64, 0, uintptr(rlimits()[r.Type]), limit, 0)
	}
	if h.start >= 0 {
		p.do("wait for start", unix.SYS_READ, uintptr(h.start), words(p, make([]byte, 8)), 1).some = true
	}
	p.do("close descriptors", unix.SYS_CLOSE_RANGE, 3, uintptr(h.report)-1, 0)
	p.do("close descriptors", unix.SYS_CLOSE_RANGE, uintptr(h.report)+1, uintptr(^uint32(0)), 0)
	p.signals()
	if err := p.credentials(proc, filter); err != nil {
		return err
	}
	argv, err := p.texts(proc.Args)
	if err != nil {
		return fmt.Errorf("args: %w", err)
	}
	envv, err := p.texts(proc.Env)
	if err != nil {
		return fmt.Errorf("env: %w", err)
	}
	p.do("exec", unix.SYS_EXECVE, file, argv, envv)
	return nil
}

// openFiles gives a process whose specification says nothing of it as many open
// files as may be: the Go runtime has raised our soft limit to just below the
// hard one and does not tell what it was. runc gives the same.
func (p *program) openFiles(proc *specs.Process) error {
	if slices.ContainsFunc(proc.Rlimits, func(r specs.POSIXRlimit) bool { return r.Type == "RLIMIT_NOFILE" }) {
		return nil
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("cannot read limit of open files: %w", err)
	}
	p.do("set limit of open files", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, words(p, []uint64{limit.Max, limit.Max}), 0)
	return nil
}

// inCwd begins what is said when a working directory cannot be entered.
func inCwd(proc *specs.Process) string {
	return fmt.Sprintf("chdir to cwd (%q) set in config.json failed", proc.Cwd)
}

// signals gives every signal its default again, and then lets them come.
func (p *program) signals() {
	action := words(p, make([]uint64, 4)) // struct sigaction of SIG_DFL
	for sig := uintptr(1); sig <= 64; sig++ {
		if sig == uintptr(unix.SIGKILL) || sig == uintptr(unix.SIGSTOP) {
			continue
		}
		p.do("reset signal", unix.SYS_RT_SIGACTION, sig, action, 0, 8)
	}
	p.do("unblock signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, words(p, make([]uint64, 1)), 0, 8)
}

// capabilitySets are a process's, as masks.
type capabilitySets struct{ bounding, effective, permitted, inheritable, ambient uint64 }

func capabilityMask(names []string) (mask uint64) {
	for i, n := range linux.CapabilityNames() {
		if slices.Contains(names, n) {
			mask |= 1 << i
		}
	}
	return mask
}

func setsOf(c *specs.LinuxCapabilities) capabilitySets {
	if c == nil {
		return capabilitySets{}
	}
	return capabilitySets{capabilityMask(c.Bounding), capabilityMask(c.Effective), capabilityMask(c.Permitted), capabilityMask(c.Inheritable), capabilityMask(c.Ambient)}
}

// credentials: the bounding set while we still may, then groups and user with
// the capabilities kept, and then those that shall be. A filter needs either
// CAP_SYS_ADMIN, so it comes before the last are dropped, or no_new_privs,
// then it comes after.
func (p *program) credentials(proc *specs.Process, filter *specs.LinuxSeccomp) error {
	have, last, err := ourCapabilities()
	if err != nil {
		return err
	}
	c := setsOf(proc.Capabilities)
	for i := range last + 1 {
		if c.bounding&(1<<i) == 0 {
			p.do("drop capability from bounding set", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(i))
		}
	}
	p.do("keep capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1)
	u := proc.User
	groups := u.AdditionalGids
	p.do("setgroups", unix.SYS_SETGROUPS, uintptr(len(groups)), words(p, groups))
	p.do("setgid", unix.SYS_SETRESGID, uintptr(u.GID), uintptr(u.GID), uintptr(u.GID))
	p.do("setuid", unix.SYS_SETRESUID, uintptr(u.UID), uintptr(u.UID), uintptr(u.UID))
	p.do("keep capabilities no more", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 0)
	p.do("let go of the launcher", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, 0)
	install, err := p.filter(filter)
	if err != nil {
		return err
	}
	if !proc.NoNewPrivileges && filter != nil {
		p.capset(have, have, 0)
		install()
	}
	p.capset(c.effective, c.permitted, c.inheritable)
	p.do("clear ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	for i := range last + 1 {
		// runc only warns of what is ambient and neither permitted nor
		// inheritable; the kernel refuses it.
		if c.ambient&c.permitted&c.inheritable&(1<<i) != 0 {
			p.do("raise ambient capability", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(i), 0, 0)
		}
	}
	if proc.NoNewPrivileges {
		p.do("set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if filter != nil {
			install()
		}
	}
	return nil
}

func (p *program) capset(effective, permitted, inheritable uint64) {
	header := words(p, []unix.CapUserHeader{{Version: unix.LINUX_CAPABILITY_VERSION_3}})
	p.do("unable to apply caps", unix.SYS_CAPSET, header, words(p, capData(effective, permitted, inheritable)))
}

func capData(effective, permitted, inheritable uint64) []unix.CapUserData {
	return []unix.CapUserData{
		{Effective: uint32(effective), Permitted: uint32(permitted), Inheritable: uint32(inheritable)},
		{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32), Inheritable: uint32(inheritable >> 32)},
	}
}

// filter compiles a profile and returns what adds its installation.
func (p *program) filter(s *specs.LinuxSeccomp) (func(), error) {
	if s == nil {
		return nil, nil
	}
	code, err := compile(s)
	if err != nil {
		return nil, err
	}
	flags, err := seccompFlags(s)
	if err != nil {
		return nil, err
	}
	p.hold(code)
	prog := words(p, []unix.SockFprog{{Len: uint16(len(code)), Filter: &code[0]}})
	return func() { p.do("unable to init seccomp", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, prog) }, nil
}

// ourCapabilities are those we have, and the number of the last that the
// kernel knows.
func ourCapabilities() (mask uint64, last int, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, 0, fmt.Errorf("cannot read our capabilities: %w", err)
	}
	for last = range 64 {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(last+1), 0, 0, 0); err != nil {
			break
		}
	}
	return uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32, last, nil
}

// rlimits are the resources of setrlimit(2).
func rlimits() map[string]int {
	return map[string]int{
		"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_STACK": unix.RLIMIT_STACK,
		"RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
		"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
		"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	}
}

// filesystems adds the making of filesystems that show the namespaces of who
// makes them: the process does it at the beginning of its life, and tells the
// descriptors of their mounts by sync.
func (p *program) filesystems(list []specs.Mount, sync int) error {
	for i, m := range list {
		o, err := parseOptions(m)
		if err != nil {
			return err
		}
		fstype := m.Type
		if fstype == "cgroup" {
			fstype = "cgroup2"
		}
		name, err := p.text(fstype)
		if err != nil {
			return err
		}
		// fsopen's descriptor stands in the upper half of the slots.
		fs, mount := slots/2+i+1, i+1
		what := fmt.Sprintf("error mounting %q to rootfs at %q: mount %s", m.Source, m.Destination, fstype)
		p.do(what, unix.SYS_FSOPEN, name, unix.FSOPEN_CLOEXEC).keep = fs
		for _, d := range o.data {
			key, value, command, err := p.parameter(d)
			if err != nil {
				return err
			}
			p.do(what+": option "+d, unix.SYS_FSCONFIG, 0, command, key, value, 0).first = fs
		}
		p.do(what, unix.SYS_FSCONFIG, 0, unix.FSCONFIG_CMD_CREATE, 0, 0, 0).first = fs
		s := p.do(what, unix.SYS_FSMOUNT, 0, unix.FSMOUNT_CLOEXEC, uintptr(o.set))
		s.first, s.keep = fs, mount
	}
	if len(list) == 0 {
		return nil
	}
	p.do("tell the launcher", unix.SYS_WRITE, uintptr(sync), uintptr(unsafe.Pointer(p.results)), unsafe.Sizeof(*p.results))
	return nil
}

// parameter is an option as fsconfig takes it.
func (p *program) parameter(option string) (key, value, command uintptr, err error) {
	k, v, pair := strings.Cut(option, "=")
	if key, err = p.text(k); err != nil || !pair {
		return key, 0, unix.FSCONFIG_SET_FLAG, err
	}
	value, err = p.text(v)
	return key, value, unix.FSCONFIG_SET_STRING, err
}

// errEnded: the process has ended before it said what was expected.
var errEnded = errors.New("the process has ended early")

func readFull(fd int, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		m, err := unix.Read(fd, b[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || m == 0 {
			return n, err
		}
		n += m
	}
	return n, nil
}

// awaitExec returns when the process has become its program, or why not.
func awaitExec(report int) (*failure, error) {
	b := make([]byte, unsafe.Sizeof(failure{}))
	n, err := readFull(report, b)
	if err != nil || n == 0 {
		return nil, err
	}
	if n < len(b) {
		return nil, errEnded
	}
	return &failure{int32(binary.NativeEndian.Uint32(b)), int32(binary.NativeEndian.Uint32(b[4:]))}, nil
}
