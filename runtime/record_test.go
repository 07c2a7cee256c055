// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FuzzRecords: whatever a record on disk holds, it is read or refused with the
// name of its file.
func FuzzRecords(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"x","made":true,"config":{"metadata":{"name":"p"},"linux":{}}}`))
	f.Add([]byte(`{"version":1,"id":"x","config":{"metadata":7}}`))
	f.Add([]byte(`{"version":1,"ips":["10.0.0.1"],"started":"2026-01-01T00:00:00Z"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		file := filepath.Join(t.TempDir(), "record.json")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		var p podRecord
		pod := readRecord(file, &p, func() []byte { return p.Config }, &runtimeapi.PodSandboxConfig{})
		var c containerRecord
		container := readRecord(file, &c, func() []byte { return c.Config }, &runtimeapi.ContainerConfig{})
		for _, err := range []error{pod, container} {
			if err != nil && !strings.Contains(err.Error(), file) {
				t.Fatalf("%v does not name the file", err)
			}
		}
	})
}
