// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/sandbox"
)

// BenchmarkLaunchers compares the launchers by turns, on a usual container
// with the default seccomp profile: what one iteration of each takes to run a
// container, to execute a process in it, and to end and delete it. The ratio
// is runc's median by the native one's.
func BenchmarkLaunchers(b *testing.B) {
	names := []string{"runc", sandbox.NativeName}
	took := map[string]map[string][]time.Duration{"run": {}, "exec": {}, "stop": {}}
	pods := map[string]*pod{}
	for _, name := range names {
		pods[name] = newPod(b, name)
	}
	n := 0
	for b.Loop() {
		for _, name := range names {
			n++
			pods[name].measure(fmt.Sprintf("bench%d", n), func(what string, d time.Duration) { took[what][name] = append(took[what][name], d) })
		}
	}
	for what, by := range took {
		var median [2]float64
		for i, name := range names {
			slices.Sort(by[name])
			median[i] = float64(by[name][len(by[name])/2].Microseconds()) / 1000
			b.ReportMetric(median[i], fmt.Sprintf("ms-%s-%s", what, name))
		}
		b.ReportMetric(median[0]/median[1], "x-"+what)
	}
}

// measure is one life of a container.
func (p *pod) measure(id string, note func(string, time.Duration)) {
	p.t.Helper()
	in := p.input(id, "exec sleep 1000")
	sec(&in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	spec, err := sandbox.Spec(in)
	if err != nil {
		p.t.Fatal(err)
	}
	bundle := filepath.Join(p.dir, id)
	if err := os.Mkdir(bundle, 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := sandbox.WriteBundle(bundle, spec); err != nil {
		p.t.Fatal(err)
	}
	begin := time.Now()
	if err := p.detached(p.launcher.Run(sandbox.Bundle{ID: id, Dir: bundle, PidFile: bundle + "/pid"})); err != nil {
		p.t.Fatal(err)
	}
	note("run", time.Since(begin))
	if err := sandbox.WriteProcess(bundle+"/process.json", sandbox.ExecProcess(spec, []string{"/bin/busybox", "true"}, false)); err != nil {
		p.t.Fatal(err)
	}
	begin = time.Now()
	if err := p.detached(p.launcher.Exec(sandbox.Exec{ContainerID: id, ProcessFile: bundle + "/process.json", PidFile: bundle + "/exec.pid"})); err != nil {
		p.t.Fatal(err)
	}
	note("exec", time.Since(begin))
	st, err := p.launcher.State(p.t.Context(), id)
	if err != nil {
		p.t.Fatal(err)
	}
	begin = time.Now()
	if err := unix.Kill(st.Pid, unix.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
	// A PID namespace ends when all in it have been waited for.
	for _, pid := range []int{p.pid(bundle + "/exec.pid"), st.Pid} {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := p.launcher.Delete(p.t.Context(), id, true); err != nil {
		p.t.Fatal(err)
	}
	note("stop", time.Since(begin))
	if err := p.host.Cgroups.Remove(p.t.Context(), in.CgroupsPath); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pod) pid(file string) int {
	p.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		p.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		p.t.Fatal(err)
	}
	return pid
}
