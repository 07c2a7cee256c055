// SPDX-License-Identifier: Apache-2.0

package native

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (seccomp(2)).
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16
)

// x32Bit marks the system calls of the x32 ABI, which come under the name of
// x86-64.
const x32Bit = 0x40000000

// maxProgram is BPF_MAXINSNS, the kernel's limit.
const maxProgram = 4096

// verdict is what is done with one system call: the first rule of rules whose
// conditions hold, else the default.
type verdict struct{ rules []rule }

type rule struct {
	args   []specs.LinuxSeccompArg
	action uint32
}

// seccompArch gives the tables of an architecture of a profile. Those that
// this machine's kernel cannot run do not matter and give nil.
func seccompArch(name specs.Arch) (*arch.Info, error) {
	native := map[string][]specs.Arch{"amd64": {specs.ArchX86_64, specs.ArchX86}, "arm64": {specs.ArchAARCH64, specs.ArchARM}}
	tables := map[specs.Arch]*arch.Info{specs.ArchX86_64: arch.X86_64, specs.ArchX86: arch.I386, specs.ArchAARCH64: arch.AARCH64, specs.ArchARM: arch.ARM}
	if native[runtime.GOARCH] == nil {
		return nil, fmt.Errorf("seccomp on %s is not supported", runtime.GOARCH)
	}
	if slices.Contains(native[runtime.GOARCH], name) {
		return tables[name], nil
	}
	return nil, nil
}

// seccompAction translates an action as the kernel wants it in the result of a
// filter.
func seccompAction(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		data = uint32(*errno)
	}
	switch a {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data&unix.SECCOMP_RET_DATA, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data&unix.SECCOMP_RET_DATA, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	}
	return 0, fmt.Errorf("seccomp action %s is not supported", a)
}

// seccompFlags are those of seccomp(2) that a profile asks for.
func seccompFlags(s *specs.LinuxSeccomp) (uintptr, error) {
	var flags uintptr
	for _, f := range s.Flags {
		switch f {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		default:
			return 0, fmt.Errorf("seccomp flag %s is not supported", f)
		}
	}
	return flags, nil
}

// supportsSeccomp tells whether compile can do all of a profile.
func supportsSeccomp(s *specs.LinuxSeccomp) error {
	if s.ListenerPath != "" {
		return errors.New("seccomp notification is not supported")
	}
	if _, err := seccompFlags(s); err != nil {
		return err
	}
	if _, err := seccompAction(s.DefaultAction, s.DefaultErrnoRet); err != nil {
		return err
	}
	if _, err := seccompArch(specs.ArchX86_64); err != nil {
		return err
	}
	for _, c := range s.Syscalls {
		if _, err := seccompAction(c.Action, c.ErrnoRet); err != nil {
			return err
		}
		for _, a := range c.Args {
			if a.Index > 5 {
				return fmt.Errorf("seccomp condition on argument %d: there are six", a.Index)
			}
			if !slices.Contains([]specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
				specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}, a.Op) {
				return fmt.Errorf("seccomp operator %s is not supported", a.Op)
			}
		}
	}
	return nil
}

// compile makes the filter of a profile. The architecture is looked at first:
// calls of one that the profile does not name kill, calls of x32 do not exist.
// Then the number of the call is found by halves.
func compile(s *specs.LinuxSeccomp) ([]unix.SockFilter, error) {
	names := s.Architectures
	if len(names) == 0 {
		names = []specs.Arch{map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64}[runtime.GOARCH]}
	}
	out := assembler{load(dataArch)}
	done := map[arch.AuditArch]bool{}
	for _, name := range names {
		info, err := seccompArch(name)
		if err != nil {
			return nil, err
		}
		if info == nil || done[info.ID] {
			continue
		}
		done[info.ID] = true
		body, err := compileArch(s, info)
		if err != nil {
			return nil, err
		}
		out = append(out, jump(unix.BPF_JEQ, uint32(info.ID), 1, 0), far(len(body)))
		out = append(out, body...)
	}
	out = append(out, ret(unix.SECCOMP_RET_KILL_PROCESS))
	if len(out) > maxProgram {
		return nil, fmt.Errorf("seccomp profile is too large: %d instructions of at most %d", len(out), maxProgram)
	}
	return out, nil
}

func compileArch(s *specs.LinuxSeccomp, info *arch.Info) (assembler, error) {
	byDefault, err := seccompAction(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	calls := map[uint32]*verdict{}
	for _, c := range s.Syscalls {
		action, err := seccompAction(c.Action, c.ErrnoRet)
		if err != nil {
			return nil, err
		}
		for _, name := range c.Names {
			nr, known := info.SyscallNames[name]
			if !known {
				continue // of another architecture, or of a newer kernel
			}
			v := calls[uint32(nr)]
			if v == nil {
				v = &verdict{}
				calls[uint32(nr)] = v
			}
			v.add(c.Args, action)
		}
	}
	out := assembler{load(dataNr)}
	if info == arch.X86_64 {
		out = append(out, jump(unix.BPF_JGE, x32Bit, 0, 1), ret(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)))
	}
	return append(out, search(intervals(calls, byDefault))...), nil
}

// add takes in a rule. Several conditions on one argument are alternatives, as
// runc has it.
func (v *verdict) add(args []specs.LinuxSeccompArg, action uint32) {
	seen := map[uint]bool{}
	for _, a := range args {
		if seen[a.Index] {
			for _, alone := range args {
				v.rules = append(v.rules, rule{[]specs.LinuxSeccompArg{alone}, action})
			}
			return
		}
		seen[a.Index] = true
	}
	v.rules = append(v.rules, rule{args, action})
}

// code is what decides on a call whose number is known.
func (v *verdict) code(byDefault uint32) assembler {
	var out assembler
	// A rule without conditions is for what no other rule is about.
	for _, r := range v.rules {
		if len(r.args) == 0 {
			byDefault = r.action
			break
		}
	}
	for _, r := range v.rules {
		if len(r.args) > 0 {
			out = append(out, r.code()...)
		}
	}
	return append(out, ret(byDefault))
}

// code tests the conditions one after another; who fails one goes to the end.
func (r rule) code() assembler {
	out := assembler{ret(r.action)}
	for _, a := range slices.Backward(r.args) {
		out = append(condition(a, len(out)), out...)
	}
	return out
}

// condition falls through if it holds, and else skips over the next past
// instructions. Arguments have 64 bits, and a filter looks at 32.
func condition(a specs.LinuxSeccompArg, past int) assembler {
	low, high := uint32(dataArgs+8*a.Index), uint32(dataArgs+8*a.Index+4)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		low, high = high, low
	}
	value, second := a.Value, a.ValueTwo
	// yes and no are where a test goes: counted from the instruction after
	// the last of the condition.
	yes, no := 0, past
	switch a.Op {
	case specs.OpMaskedEqual:
		// value is the mask.
		return assembler{
			load(high), mask(uint32(value >> 32)), jump(unix.BPF_JEQ, uint32(second>>32), 0, uint8(no+3)),
			load(low), mask(uint32(value)), jump(unix.BPF_JEQ, uint32(second), uint8(yes), uint8(no)),
		}
	case specs.OpEqualTo, specs.OpNotEqual:
		if a.Op == specs.OpNotEqual {
			yes, no = no, yes
		}
		return assembler{
			load(high), jump(unix.BPF_JEQ, uint32(value>>32), 0, uint8(no+2)),
			load(low), jump(unix.BPF_JEQ, uint32(value), uint8(yes), uint8(no)),
		}
	}
	// The rest is "greater" or "greater or equal", or the opposite of one.
	test := uint16(unix.BPF_JGT)
	switch a.Op {
	case specs.OpLessThan:
		test, yes, no = unix.BPF_JGE, no, yes
	case specs.OpLessEqual:
		yes, no = no, yes
	case specs.OpGreaterEqual:
		test = unix.BPF_JGE
	}
	return assembler{
		load(high), jump(unix.BPF_JGT, uint32(value>>32), uint8(yes+3), 0),
		jump(unix.BPF_JEQ, uint32(value>>32), 0, uint8(no+2)),
		load(low), jump(test, uint32(value), uint8(yes), uint8(no)),
	}
}

// interval are neighbouring calls that are treated alike, from first to the
// next interval's first.
type interval struct {
	first uint32
	code  assembler
}

// intervals covers all numbers. What is newer than the newest call that the
// profile knows does not exist, unless all is allowed: programs take another
// way then, but not on EPERM, as runc found.
func intervals(calls map[uint32]*verdict, byDefault uint32) []interval {
	beyond := byDefault
	switch byDefault & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ERRNO, unix.SECCOMP_RET_KILL_PROCESS, unix.SECCOMP_RET_KILL_THREAD, unix.SECCOMP_RET_TRAP:
		beyond = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	var out []interval
	add := func(first uint32, code assembler) {
		if n := len(out); n == 0 || !slices.Equal(out[n-1].code, code) {
			out = append(out, interval{first, code})
		}
	}
	next := uint32(0)
	for _, nr := range slices.Sorted(maps.Keys(calls)) {
		if nr > next {
			add(next, assembler{ret(byDefault)})
		}
		add(nr, calls[nr].code(byDefault))
		next = nr + 1
	}
	if len(calls) == 0 {
		beyond = byDefault
	}
	add(next, assembler{ret(beyond)})
	return out
}

// search is the decision tree over intervals.
func search(list []interval) assembler {
	if len(list) == 1 {
		return list[0].code
	}
	middle := len(list) / 2
	left, right := search(list[:middle]), search(list[middle:])
	out := assembler{jump(unix.BPF_JGE, list[middle].first, 0, 1), far(len(left))}
	return append(append(out, left...), right...)
}

// assembler is a piece of a classic BPF program.
type assembler []unix.SockFilter

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func mask(k uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: k}
}

func jump(test uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, Jt: yes, Jf: no, K: k}
}

func far(over int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(min(over, math.MaxInt32))}
}

func ret(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}
