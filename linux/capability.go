// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// capabilityNames is linux/capability.h in the order of the numbers.
const capabilityNames = `CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL
CAP_SETGID CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN
CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE
CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG
CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG
CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE`

// CapabilityNames returns all capabilities that we know, in the kernel's order.
func CapabilityNames() []string { return strings.Fields(capabilityNames) }

// Capabilities returns the names of our own permitted capabilities: what we
// can at most give to a container.
func Capabilities() ([]string, error) {
	mask, err := capabilityMask("CapPrm:")
	if err != nil {
		return nil, err
	}
	var out []string
	for i, name := range CapabilityNames() {
		if mask&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out, nil
}

// CanRaiseLimits tells whether we have CAP_SYS_RESOURCE: without it neither
// oom_score_adj can be lowered nor a hard resource limit be raised.
func CanRaiseLimits() (bool, error) {
	mask, err := capabilityMask("CapEff:")
	return mask&(1<<unix.CAP_SYS_RESOURCE) != 0, err
}

func capabilityMask(key string) (uint64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("cannot read our capabilities: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			if err != nil {
				return 0, fmt.Errorf("cannot read our capabilities: %w", err)
			}
			return mask, nil
		}
	}
	return 0, fmt.Errorf("cannot read our capabilities: no %s in /proc/self/status", key)
}

// OOMScoreAdj returns our own oom_score_adj, -1000 to 1000.
func OOMScoreAdj() (int, error) {
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("cannot read oom_score_adj: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
