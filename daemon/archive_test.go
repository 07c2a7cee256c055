// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pack is a backup with these files.
func pack(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	a, err := newArchive(&b, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{aboutFile, "pki/ca.crt", "pki/../../ca.crt", snapshotFile} {
		if content, ok := files[name]; ok {
			if err := a.add(name, int64(len(content)), strings.NewReader(content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(t *testing.T, b []byte) (map[string]string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "backup")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	_, err := readArchive(file, func(name string, r io.Reader) error {
		content, err := io.ReadAll(r)
		got[name] = string(content)
		return err
	})
	return got, err
}

func TestArchive(t *testing.T) {
	about, ca, etcd := `{"version":1}`, "certificate", strings.Repeat("database", 1000)
	whole := pack(t, map[string]string{aboutFile: about, "pki/ca.crt": ca, snapshotFile: etcd})
	if got, err := read(t, whole); err != nil || got["pki/ca.crt"] != ca || got[snapshotFile] != etcd {
		t.Fatalf("read %v, %v", got, err)
	}
	for n := range whole {
		if _, err := read(t, whole[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are taken for whole", n, len(whole))
		}
	}
	for i := 10; i < len(whole); i++ { // before are gzip's magic number and time
		bad := bytes.Clone(whole)
		bad[i] ^= 0x10
		// Zeros can be packed in several ways.
		if got, err := read(t, bad); err == nil && (got["pki/ca.crt"] != ca || got[snapshotFile] != etcd) {
			t.Errorf("with another byte %d of %d it reads %v", i, len(whole), got)
		}
	}
	for says, files := range map[string]map[string]string{
		"etcd.db is missing":                    {aboutFile: about, "pki/ca.crt": ca},
		"pki/ca.crt is missing":                 {aboutFile: about, snapshotFile: etcd},
		"its form is version 2, this program":   {aboutFile: `{"version":2}`},
		`it has "pki/../../ca.crt", which no`:   {aboutFile: about, "pki/../../ca.crt": ca},
		"it is damaged or cut off: backup.json": {aboutFile: "x"},
	} {
		if _, err := read(t, pack(t, files)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
	}
	if _, err := read(t, []byte("a text")); err == nil || errors.Is(err, errDamaged) || !strings.Contains(err.Error(), "it is not a backup of Peapod") {
		t.Errorf("a text: %v", err)
	}
}
