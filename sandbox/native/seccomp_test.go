// SPDX-License-Identifier: Apache-2.0

package native

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// call is a system call as a filter sees it.
type call struct {
	arch arch.AuditArch
	nr   uint32
	args [6]uint64
}

// judge runs a filter. The machine of x/net/bpf reads words in network order,
// so that is how they are written here, each where the kernel has it.
func judge(t *testing.T, filter []unix.SockFilter, c call) uint32 {
	t.Helper()
	var raw []bpf.RawInstruction
	for _, f := range filter {
		raw = append(raw, bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K})
	}
	code, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("an instruction is unknown")
	}
	vm, err := bpf.NewVM(code)
	if err != nil {
		t.Fatal(err)
	}
	data := binary.BigEndian.AppendUint32(nil, c.nr)
	data = binary.BigEndian.AppendUint32(data, uint32(c.arch))
	data = append(data, make([]byte, 8)...)
	for _, a := range c.args {
		// Little-endian: the low half first.
		data = binary.BigEndian.AppendUint32(data, uint32(a))
		data = binary.BigEndian.AppendUint32(data, uint32(a>>32))
	}
	got, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

const (
	allow = unix.SECCOMP_RET_ALLOW
	eperm = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	nosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

func number(a *arch.Info, name string) uint32 { return uint32(a.SyscallNames[name]) }

func TestSeccomp(t *testing.T) {
	onX86(t)
	trap := uint(42)
	profile := &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read", "write", "no_such_call", "futex"}, Action: specs.ActAllow},
			{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 40, Op: specs.OpNotEqual}}},
			{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 0x7e020000, ValueTwo: 0, Op: specs.OpMaskedEqual}}},
			{Names: []string{"personality"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 8, Op: specs.OpEqualTo}, {Index: 0, Value: 0xffffffff, Op: specs.OpEqualTo}}},
			{Names: []string{"ioctl"}, Action: specs.ActErrno, ErrnoRet: &trap, Args: []specs.LinuxSeccompArg{{Index: 1, Value: 7, Op: specs.OpEqualTo}, {Index: 2, Value: 9, Op: specs.OpEqualTo}}},
			{Names: []string{"ioctl"}, Action: specs.ActAllow},
			{Names: []string{"ptrace"}, Action: specs.ActKillProcess},
		},
	}
	filter, err := compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	x, i := arch.X86_64, arch.I386
	for name, c := range map[string]struct {
		call
		want uint32
	}{
		"allowed":             {call{x.ID, number(x, "read"), [6]uint64{}}, allow},
		"allowed on i386":     {call{i.ID, number(i, "read"), [6]uint64{}}, allow},
		"by its number there": {call{i.ID, number(x, "mmap"), [6]uint64{}}, eperm},
		"default":             {call{x.ID, number(x, "mount"), [6]uint64{}}, eperm},
		"killed":              {call{x.ID, number(x, "ptrace"), [6]uint64{}}, unix.SECCOMP_RET_KILL_PROCESS},
		"newer than known":    {call{x.ID, 4000, [6]uint64{}}, nosys},
		"x32":                 {call{x.ID, x32Bit | number(x, "read"), [6]uint64{}}, nosys},
		"x32 beyond":          {call{x.ID, 0xffffffff, [6]uint64{}}, nosys},
		"other machine":       {call{arch.AARCH64.ID, 0, [6]uint64{}}, unix.SECCOMP_RET_KILL_PROCESS},
		"vsock":               {call{x.ID, number(x, "socket"), [6]uint64{40}}, eperm},
		"inet":                {call{x.ID, number(x, "socket"), [6]uint64{2}}, allow},
		"high half counts":    {call{x.ID, number(x, "socket"), [6]uint64{1<<32 | 40}}, allow},
		"plain clone":         {call{x.ID, number(x, "clone"), [6]uint64{17}}, allow},
		"clone of user":       {call{x.ID, number(x, "clone"), [6]uint64{unix.CLONE_NEWUSER | 17}}, eperm},
		"one alternative":     {call{x.ID, number(x, "personality"), [6]uint64{8}}, allow},
		"other alternative":   {call{x.ID, number(x, "personality"), [6]uint64{0xffffffff}}, allow},
		"no alternative":      {call{x.ID, number(x, "personality"), [6]uint64{9}}, eperm},
		"both conditions":     {call{x.ID, number(x, "ioctl"), [6]uint64{0, 7, 9}}, unix.SECCOMP_RET_ERRNO | 42},
		"one of two":          {call{x.ID, number(x, "ioctl"), [6]uint64{0, 7, 8}}, allow},
	} {
		if got := judge(t, filter, c.call); got != c.want {
			t.Errorf("%s: %#x, want %#x", name, got, c.want)
		}
	}
}

// TestSeccompOperators sets each comparison of 64 bits against Go's.
func TestSeccompOperators(t *testing.T) {
	onX86(t)
	operators := map[specs.LinuxSeccompOperator]func(a, v, w uint64) bool{
		specs.OpEqualTo:      func(a, v, _ uint64) bool { return a == v },
		specs.OpNotEqual:     func(a, v, _ uint64) bool { return a != v },
		specs.OpLessThan:     func(a, v, _ uint64) bool { return a < v },
		specs.OpLessEqual:    func(a, v, _ uint64) bool { return a <= v },
		specs.OpGreaterThan:  func(a, v, _ uint64) bool { return a > v },
		specs.OpGreaterEqual: func(a, v, _ uint64) bool { return a >= v },
		specs.OpMaskedEqual:  func(a, v, w uint64) bool { return a&v == w },
	}
	interesting := []uint64{0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 32, 1<<32 | 1, 1 << 63, ^uint64(0), rand.Uint64(), rand.Uint64()}
	for op, want := range operators {
		for _, v := range interesting {
			for _, w := range interesting {
				filter, err := compile(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64}, Syscalls: []specs.LinuxSyscall{
					{Names: []string{"bpf"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 3, Value: v, ValueTwo: w, Op: op}}}}})
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range interesting {
					got := judge(t, filter, call{arch.X86_64.ID, number(arch.X86_64, "bpf"), [6]uint64{^a, 0, 0, a}})
					if (got == allow) != want(a, v, w) {
						t.Errorf("%#x %s %#x %#x: %#x", a, op, v, w, got)
					}
				}
			}
		}
	}
}

// TestSeccompEveryCall sets the tree against the list, for all numbers.
func TestSeccompEveryCall(t *testing.T) {
	onX86(t)
	var some []string
	for name := range arch.X86_64.SyscallNames {
		if rand.IntN(3) > 0 {
			some = append(some, name)
		}
	}
	filter, err := compile(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64},
		Syscalls: []specs.LinuxSyscall{{Names: some, Action: specs.ActAllow}}})
	if err != nil {
		t.Fatal(err)
	}
	last := uint32(0)
	for _, name := range some {
		last = max(last, number(arch.X86_64, name))
	}
	for nr := range last + 20 {
		want := eperm
		if slices.Contains(some, arch.X86_64.SyscallNumbers[int(nr)]) {
			want = allow
		} else if nr > last {
			want = nosys
		}
		if got := judge(t, filter, call{arch.X86_64.ID, nr, [6]uint64{}}); got != want {
			t.Errorf("%d %s: %#x, want %#x", nr, arch.X86_64.SyscallNumbers[int(nr)], got, want)
		}
	}
}

// onX86: the numbers of these tests are that machine's.
func onX86(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("filters are for the machine they run on")
	}
}
