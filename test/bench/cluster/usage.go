// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/test/bench/result"
)

// Usage is what processes hold and have used.
type Usage struct {
	// RSS and PSS are bytes of memory: all that is mapped, and with what is
	// shared counted in parts.
	RSS, PSS float64
	CPU      time.Duration
	Written  float64 // bytes to disk
}

// Add adds another's.
func (u *Usage) Add(o Usage) {
	u.RSS += o.RSS
	u.PSS += o.PSS
	u.CPU += o.CPU
	u.Written += o.Written
}

// Usage reads what each program uses. A process that has ended meanwhile counts
// for nothing.
func (p Processes) Usage() (map[string]Usage, error) {
	out := map[string]Usage{}
	for name, pids := range p {
		var sum Usage
		for _, pid := range pids {
			u, err := usageOf(pid)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("cannot read the usage of %s: %w", name, err)
			}
			sum.Add(u)
		}
		out[name] = sum
	}
	return out, nil
}

// ticks are the units of CPU time in /proc, per second, on every architecture
// that Go knows.
const ticks = 100

func usageOf(pid int) (u Usage, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	memory, err := numbers(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		return u, err
	}
	io, err := numbers(filepath.Join(dir, "io"))
	if err != nil {
		return u, err
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return u, err
	}
	// After the name, which may have blanks and ends with the last bracket.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	for _, i := range []int{11, 12, 13, 14} { // utime, stime and those of children that ended
		n, err := strconv.Atoi(string(fields[i]))
		if err != nil {
			return u, err
		}
		u.CPU += time.Duration(n) * time.Second / ticks
	}
	u.RSS, u.PSS, u.Written = 1024*memory["Rss"], 1024*memory["Pss"], io["write_bytes"]
	return u, nil
}

// numbers reads a file of lines "Name: number unit".
func numbers(path string) (map[string]float64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if !ok || len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseFloat(fields[0], 64); err == nil {
			out[name] = n
		}
	}
	return out, nil
}

// Versions asks the programs of both for theirs.
func Versions(peapod, stock string, both bool) (map[string]string, error) {
	type program struct{ name, path string }
	programs := []program{{"Peapod", filepath.Join(peapod, "peapod")}, {"runc", "runc"}}
	if both {
		programs = append(programs, program{"Kubernetes", filepath.Join(stock, Kubelet)}, program{"etcd", filepath.Join(stock, Etcd)}, program{"containerd", filepath.Join(stock, Containerd)})
	}
	out := map[string]string{}
	for _, p := range programs {
		version, err := result.Version(p.name, p.path)
		if err != nil {
			return nil, err
		}
		out[p.name] = version
	}
	return out, nil
}
