// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/sandbox"
)

// TestStartErrors: why a program does not start is told in the words that
// people know from runc and look for.
func TestStartErrors(t *testing.T) {
	onEach(t, func(t *testing.T, p *pod) {
		if err := errors.Join(os.WriteFile(p.dir+"/rootfs/bin/noexec", []byte("#!/bin/sh\n"), 0o644), os.WriteFile(p.dir+"/rootfs/bin/nobody", []byte("#!/bin/sh\n"), 0o700),
			os.WriteFile(p.dir+"/rootfs/bin/format", []byte("nonsense"), 0o755), os.WriteFile(p.dir+"/rootfs/bin/interpreter", []byte("#!/missing\n"), 0o755)); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, c := range []struct{ program, want string }{
			{"/missing", `unable to start container process: exec: "/missing": stat /missing: no such file or directory`},
			{"missing", `unable to start container process: exec: "missing": executable file not found in $PATH`},
			{"/bin/noexec", `unable to start container process: exec: "/bin/noexec": permission denied`},
			{"noexec", `unable to start container process: exec: "noexec": executable file not found in $PATH`},
			{"/bin/sh/x", `unable to start container process: exec: "/bin/sh/x": stat /bin/sh/x: not a directory`},
			{"./missing", `unable to start container process: exec: "./missing": stat ./missing: no such file or directory`},
			{"/bin/nobody", "permission denied"},
			{"/bin/format", "exec /bin/format: exec format error"},
			{"/bin/interpreter", "exec /bin/interpreter: no such file or directory"},
		} {
			n++
			in := p.input("text"+string(rune('a'+n)), "")
			in.Container.Command = []string{c.program}
			if c.program == "/bin/nobody" {
				sec(&in).RunAsUser = value(1000)
				sec(&in).Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}
				var err error
				if in.User, err = sandbox.ResolveUser(in.Rootfs, sec(&in), ""); err != nil {
					t.Fatal(err)
				}
			}
			p.refused(in, c.want+"\n")
		}
	})
}

// TestExecErrors: the same of exec.
func TestExecErrors(t *testing.T) {
	onEach(t, func(t *testing.T, p *pod) {
		in := p.input("running", "exec sleep 1000")
		spec, bundle := p.start(in)
		for program, want := range map[string]string{
			"/missing": `exec failed: unable to start container process: exec: "/missing": stat /missing: no such file or directory`,
			"missing":  `exec failed: unable to start container process: exec: "missing": executable file not found in $PATH`,
		} {
			_, err := p.exec(in.ID, bundle, sandbox.ExecProcess(spec, []string{program}, false))
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		}
	})
}
