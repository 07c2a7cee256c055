// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestBackupAndRestore: a backup of a running cluster, the loss of what came
// after it, and the cluster as it was: its Pod has never stopped, its clients
// and tokens are good. The same file makes a cluster in an empty folder.
func TestBackupAndRestore(t *testing.T) {
	x := second(t, nil)
	ask := func(args ...string) string {
		t.Helper()
		out, err := x.run(t, "", args...)
		if err != nil {
			t.Fatalf("kubectl %v: %v\n%s", args, err, out)
		}
		return out
	}
	ask("run", "kept", "--image="+image, "--command", "--", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done")
	ask("wait", "--for=condition=Ready", "pod/kept", "--timeout=30s")
	ask("create", "configmap", "kept", "--from-literal=k=v")
	token := strings.TrimSpace(ask("create", "token", "default"))
	const state = "jsonpath={.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}"
	before := ask("get", "pod", "kept", "-o", state)

	file := filepath.Join(x.home, "backup.tar.gz")
	if out, err := x.peapod("backup", file); err != nil || !strings.Contains(out, file+" has the cluster of "+x.dir) {
		t.Fatalf("backup: %v\n%s", err, out)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup is %v, %v", info, err)
	}
	if left, err := filepath.Glob(filepath.Join(x.home, ".backup*")); err != nil || len(left) > 0 {
		t.Errorf("beside the backup are %v, %v", left, err)
	}
	ask("delete", "configmap", "kept")
	ask("run", "late", "--image="+image, "--command", "--", "sleep", "1000")
	ask("wait", "--for=condition=Ready", "pod/late", "--timeout=30s")

	refused := func(says string, args ...string) {
		t.Helper()
		if out, err := x.peapod(append([]string{"restore"}, args...)...); err == nil || !strings.Contains(out, says) {
			t.Errorf("restore %v: %v, want %q\n%s", args, err, says, out)
		}
	}
	refused("runs on it", "--replace", file)
	x.stop(syscall.SIGTERM)
	refused("it has a cluster already; choose an empty folder with --data-dir, or give up that cluster with --replace", file)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(x.home, "bad.tar.gz")
	for _, b := range [][]byte{whole[:len(whole)-100], append(append(bytes.Clone(whole[:len(whole)/2]), ^whole[len(whole)/2]), whole[len(whole)/2+1:]...)} {
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			t.Fatal(err)
		}
		refused("it is damaged or cut off", "--replace", bad)
	}
	if out, err := x.peapod("backup", bad); err == nil || !strings.Contains(out, "it does not answer, start it with `peapod up`") {
		t.Errorf("a backup of what does not run: %v\n%s", err, out)
	}
	// What was refused has touched nothing.
	if err := x.start(); err != nil {
		t.Fatal(err)
	}
	ask("get", "pod", "late")
	x.stop(syscall.SIGTERM)

	if out, err := x.peapod("restore", "--replace", file); err != nil {
		t.Fatalf("restore: %v\n%s", err, out)
	}
	if err := x.start(); err != nil {
		t.Fatal(err)
	}
	restored := func() {
		t.Helper()
		if got := ask("get", "configmap", "kept", "-o", "jsonpath={.data.k}"); got != "v" {
			t.Errorf("the object that was lost is %q", got)
		}
		if out, err := x.run(t, "", "get", "pod", "late"); err == nil || !strings.Contains(out, "NotFound") {
			t.Errorf("what came after the backup: %v %s", err, out)
		}
		if got := ask("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", "--kubeconfig=/dev/null", "--server=https://127.0.0.1:25443", "--certificate-authority="+x.dir+"/pki/ca.crt", "--token="+token); got != "system:serviceaccount:default:default" {
			t.Errorf("the token of before the backup is %q", got)
		}
		ask("wait", "--for=condition=Ready", "pod/kept", "--timeout=30s")
	}
	restored()
	if after := ask("get", "pod", "kept", "-o", state); after != before {
		t.Errorf("the Pod was %s and is %s", before, after)
	}
	eventually(t, "what the cluster does not know ends", func() bool {
		out, err := x.run(t, "", "get", "--raw", "/api/v1/nodes/n2/proxy/pods")
		return err == nil && strings.Contains(out, `"kept"`) && !strings.Contains(out, `"late"`)
	})

	// The machine is lost.
	saved := filepath.Join(x.home, "saved.kubeconfig")
	b, err := os.ReadFile(x.kubeconfig())
	if err == nil {
		err = os.WriteFile(saved, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	x.stop(syscall.SIGTERM)
	if out, err := x.peapod("down", "--purge", "--grace=1s"); err != nil {
		t.Fatalf("down: %v\n%s", err, out)
	}
	if out, err := x.peapod("restore", file); err != nil {
		t.Fatalf("restore into an empty folder: %v\n%s", err, out)
	}
	if out, err := x.peapod("image", "import", c.home+"/examples.tar"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if err := x.start(); err != nil {
		t.Fatal(err)
	}
	restored()
	if after := ask("get", "pod", "kept", "-o", "jsonpath={.metadata.uid}", "--kubeconfig="+saved); !strings.HasPrefix(before, after+" ") {
		t.Errorf("by the kubeconfig of before, the Pod was %s and is %s", before, after)
	}
}
