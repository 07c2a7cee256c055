// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kms/pkg/service"
)

// encryptBy is an EncryptionConfiguration for Secrets: the first provider writes,
// all read.
func encryptBy(providers ...string) string {
	return "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n" + strings.Join(providers, "")
}

func provider(kind string, letter byte, length int) string {
	if kind == "identity" {
		return "  - identity: {}\n"
	}
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{letter}, length))
	return fmt.Sprintf("  - %s: {keys: [{name: key-%c, secret: %s}]}\n", kind, letter, key)
}

// keyring is a KMS plugin: it wraps keys by turning them around.
type keyring struct{}

func (keyring) Status(context.Context) (*service.StatusResponse, error) {
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: "k1"}, nil
}

func (keyring) Encrypt(_ context.Context, _ string, data []byte) (*service.EncryptResponse, error) {
	return &service.EncryptResponse{Ciphertext: append([]byte("wrapped:"), data...), KeyID: "k1"}, nil
}

func (keyring) Decrypt(_ context.Context, _ string, r *service.DecryptRequest) ([]byte, error) {
	data, ours := bytes.CutPrefix(r.Ciphertext, []byte("wrapped:"))
	if !ours || r.KeyID != "k1" {
		return nil, errors.New("not wrapped by this key")
	}
	return data, nil
}

func startKeyring(t *testing.T) (endpoint string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "kms") // short, for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := service.NewGRPCService(filepath.Join(dir, "kms.sock"), 5*time.Second, keyring{})
	done := make(chan struct{})
	go func() { defer close(done); _ = s.ListenAndServe() }()
	t.Cleanup(func() { s.Close(); <-done })
	return "unix://" + filepath.Join(dir, "kms.sock")
}

// stored is what the store of a server that has ended holds under a key.
func stored(t *testing.T, dir, key string) (value []byte) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, "etcd/member/snap/db"), 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("key")).ForEach(func(_, v []byte) error { // by revision
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(v, &kv); err != nil {
				return err
			}
			if string(kv.Key) == key {
				value = kv.Value
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// inFiles says whether any file of the store has a text.
func inFiles(t *testing.T, dir, text string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "etcd"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		found = found || bytes.Contains(b, []byte(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Each provider hides what is written, reads what the one before it has
// written, and takes it over when it is written again.
func TestEncryptionAtRest(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "encryption.yaml")
	aescbc, aesgcm, secretbox := provider("aescbc", 'a', 32), provider("aesgcm", 'b', 32), provider("secretbox", 'c', 32)
	kms := "  - kms: {apiVersion: v2, name: ring, endpoint: \"" + startKeyring(t) + "\"}\n"
	identity := provider("identity", 0, 0)
	const text = "in-plain-text-for-all-to-see"
	for i, stage := range []struct {
		by     []string
		prefix string
	}{
		{[]string{aescbc}, "k8s:enc:aescbc:v1:key-a:"},
		{[]string{aesgcm, aescbc}, "k8s:enc:aesgcm:v1:key-b:"},
		{[]string{secretbox, aesgcm}, "k8s:enc:secretbox:v1:key-c:"},
		{[]string{kms, secretbox}, "k8s:enc:kms:v2:ring:"},
		{[]string{identity, kms}, "k8s\x00"},
	} {
		s := serve(t, dir, "--encryption-provider-config="+written(t, file, encryptBy(stage.by...)))
		secrets := s.CoreV1().Secrets("default")
		if i == 0 {
			if _, err := secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": text}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := secrets.Get(t.Context(), "s", metav1.GetOptions{})
		if err != nil || string(got.Data["k"]) != text {
			t.Fatalf("stage %d reads %v, %v", i, got, err)
		}
		if _, err := secrets.Update(t.Context(), got, metav1.UpdateOptions{}); err != nil { // as kubectl replace
			t.Fatal(err)
		}
		s.end(t)
		if v := stored(t, dir, "/registry/secrets/default/s"); !bytes.HasPrefix(v, []byte(stage.prefix)) {
			t.Errorf("stage %d stored %.40q, want %q", i, v, stage.prefix)
		}
		if plain := stage.by[0] == identity; inFiles(t, dir, text) != plain {
			t.Errorf("stage %d: in plain text is %t", i, !plain)
		}
	}
}

// A changed file counts without a restart, and one that is wrong does not.
func TestEncryptionIsReloaded(t *testing.T) {
	dir := t.TempDir()
	file := written(t, filepath.Join(dir, "encryption.yaml"), encryptBy(provider("identity", 0, 0)))
	s := serve(t, dir, "--encryption-provider-config="+file, "--encryption-provider-config-automatic-reload")
	secrets := s.CoreV1().Secrets("default")
	got, err := secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	written(t, file, encryptBy(provider("aesgcm", 'b', 32), provider("identity", 0, 0)))
	s.until(t, `apiserver_encryption_config_controller_automatic_reloads_total{apiserver_id_hash=`, `status="success"} 1`)
	if got, err = secrets.Update(t.Context(), got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	written(t, file, "rubbish: yes\n")
	s.until(t, `apiserver_encryption_config_controller_automatic_reloads_total{apiserver_id_hash=`, `status="failure"}`)
	if _, err := secrets.Update(t.Context(), got, metav1.UpdateOptions{}); err != nil {
		t.Errorf("with a file that is wrong: %v", err)
	}
	s.end(t)
	if v := stored(t, dir, "/registry/secrets/default/s"); !bytes.HasPrefix(v, []byte("k8s:enc:aesgcm:v1:key-b:")) {
		t.Errorf("stored %.40q", v)
	}
}

// A file that is wrong is named, and nothing starts.
func TestEncryptionByAWrongFile(t *testing.T) {
	dir := t.TempDir()
	file := written(t, filepath.Join(dir, "encryption.yaml"), encryptBy(provider("aescbc", 'a', 5)))
	said := failure(t, dir, childFlags+"=--encryption-provider-config="+file)
	if !strings.Contains(said, "cannot encrypt by "+file) || !strings.Contains(said, "secret is not of the expected length") {
		t.Errorf("it said %s", said)
	}
}
