// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/test/registry"
)

// busyboxLayer is a system of one file.
func busyboxLayer(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	return registry.Layer(registry.Entry{Header: tar.Header{Name: "bin/busybox", Mode: 0o755, Typeflag: tar.TypeReg}, Data: string(b)})
}

// TestMissingKeys: a reference to nothing holds its container, says so in
// `get` and in an event, and the Pod goes on when it is there.
func TestMissingKeys(t *testing.T) {
	t.Parallel()
	removeLater(t, "secret/partial", "configmap/partial")
	must(t, "create", "secret", "generic", "partial", "--from-literal=other=x")
	must(t, "create", "configmap", "partial", "--from-literal=other=x")
	for kind, x := range map[string]struct{ ref, message, patch string }{
		"secret":    {"secretKeyRef", "couldn't find key key in Secret default/partial", `{"stringData":{"key":"here"}}`},
		"configmap": {"configMapKeyRef", "couldn't find key key in ConfigMap default/partial", `{"data":{"key":"here"}}`},
	} {
		name := "no-key-" + kind
		apply(t, name, fmt.Sprintf("terminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: %s, command: [sleep, '1000'], env: [{name: KEY, valueFrom: {%s: {name: partial, key: key}}}]}]\n", image, x.ref))
		p := await(t, name, "says so", waitingFor("CreateContainerConfigError"))
		if got := p.Status.ContainerStatuses[0].State.Waiting.Message; got != x.message {
			t.Errorf("the status says %q, want %q", got, x.message)
		}
		eventually(t, "an event says so", func() bool {
			return strings.Contains(must(t, "get", "events", "--field-selector", "reason=Failed,involvedObject.name="+name), "Error: "+x.message)
		})
		must(t, "patch", kind, "partial", "-p", x.patch)
		await(t, name, "runs", ready)
		if got := in(t, name, "c", "sh", "-c", "echo $KEY"); got != "here" {
			t.Errorf("KEY is %q", got)
		}
	}
}

// TestHostileImages: whatever an image's tar says, it is contained or refused,
// and nothing is written outside the image store.
func TestHostileImages(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	link := func(name, to string, kind byte) registry.Entry {
		return registry.Entry{Header: tar.Header{Name: name, Linkname: to, Typeflag: kind, Mode: 0o777}}
	}
	reg, system := registry.New(t), busyboxLayer(t)
	for name, x := range map[string]struct {
		entries []registry.Entry
		refused string // part of the message; empty: the Pod runs
	}{
		"dotdot":       {[]registry.Entry{registry.File(up+strings.TrimPrefix(outside, "/")+"/a", "evil")}, ""},
		"absolute":     {[]registry.Entry{registry.File(outside+"/b", "evil")}, ""},
		"through-link": {[]registry.Entry{link("l", outside, tar.TypeSymlink), registry.File("l/c", "evil")}, ""},
		"up-link":      {[]registry.Entry{link("l", up+strings.TrimPrefix(outside, "/"), tar.TypeSymlink), registry.File("l/d", "evil")}, ""},
		"hard-link":    {[]registry.Entry{link("stolen", up+strings.TrimPrefix(outside, "/")+"/secret", tar.TypeLink)}, "cannot unpack layer"},
		"device":       {[]registry.Entry{{Header: tar.Header{Name: "mem", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 1}}}, ""},
	} {
		reg.Push(name, "1", registry.Image{Layers: [][]byte{system, registry.Layer(x.entries...)}})
		pod := "hostile-" + name
		apply(t, pod, fmt.Sprintf("terminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: '%s/%s:1', command: [/bin/busybox, sleep, '1000']}]\n", reg.Host(), name))
		p := await(t, pod, "runs or says why not", func(p *corev1.Pod) bool {
			return ready(p) || waitingFor("ErrImagePull")(p) || waitingFor("ImagePullBackOff")(p)
		})
		if runs := ready(p); runs != (x.refused == "") {
			t.Errorf("%s: running %v, %+v", name, runs, p.Status.ContainerStatuses)
		} else if m := p.Status.ContainerStatuses[0].State.Waiting; !runs && !strings.Contains(m.Message, x.refused) {
			t.Errorf("%s is refused with %q", name, m.Message)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("written outside: %v %v", left, err)
	}
	if out, err := kubectl(t, "exec", "hostile-device", "--", "/bin/busybox", "head", "-c1", "/mem"); err == nil || !strings.Contains(out, "Operation not permitted") {
		t.Errorf("a device of the image opens: %v %s", err, out)
	}
}

// TestFullDisk: an image that does not fit is a message of the Pod that says
// so; nothing of it stays, others go on, and with room it is pulled.
func TestFullDisk(t *testing.T) {
	reg := registry.New(t)
	noise := make([]byte, 48<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	reg.Push("big", "1", registry.Image{Layers: [][]byte{busyboxLayer(t), registry.Layer(registry.File("noise", string(noise)))}})
	reg.Push("small", "1", registry.Image{Layers: [][]byte{busyboxLayer(t)}})
	x := second(t, func(dir string) {
		images := filepath.Join(dir, "images")
		// An image makes the folder Peapod's own; it lies below the mount then.
		if out, err := c.peapod("image", "import", "--data-dir", dir, filepath.Join(c.home, "witness.tar")); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		if err := unix.Mount("tmpfs", images, "tmpfs", 0, "size=90m"); err != nil {
			t.Fatal(err)
		}
	})
	images := filepath.Join(x.dir, "images")
	t.Cleanup(func() {
		x.stop(syscall.SIGTERM)
		if _, err := x.peapod("down", "--grace=1s"); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(images, 0); err != nil {
			t.Errorf("the image folder is busy: %v", err)
		}
	})
	used := func() int64 {
		var s unix.Statfs_t
		if err := unix.Statfs(images, &s); err != nil {
			t.Fatal(err)
		}
		return int64(s.Blocks-s.Bfree) * s.Bsize
	}
	before := used()
	run := func(name, image string) {
		t.Helper()
		if out, err := x.run(t, "", "run", name, "--image="+image, "--grace-period=1", "--command", "--", "/bin/busybox", "sleep", "1000"); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	run("big", reg.Host()+"/big:1")
	eventually(t, "an event says that the disk is full", func() bool {
		out, _ := x.run(t, "", "get", "events", "--field-selector", "involvedObject.name=big,reason=Failed")
		return strings.Contains(out, "no space left on device") && strings.Contains(out, reg.Host()+"/big:1")
	})
	if out, _ := x.run(t, "", "get", "pod", "big", "--no-headers"); !strings.Contains(out, "ErrImagePull") && !strings.Contains(out, "ImagePullBackOff") {
		t.Errorf("get shows %s", out)
	}
	run("small", reg.Host()+"/small:1")
	if out, err := x.run(t, "", "wait", "--for=condition=Ready", "pod/small", "--timeout=30s"); err != nil {
		t.Errorf("%v %s", err, out)
	}
	if out, err := x.run(t, "", "delete", "pod", "big", "--now"); err != nil {
		t.Errorf("%v %s", err, out)
	}
	const busybox = 4 << 20 // blob and files of the small image
	eventually(t, "nothing of the big image stays", func() bool { return used() < before+busybox })
	if err := unix.Mount("", images, "", unix.MS_REMOUNT, "size=400m"); err != nil {
		t.Fatal(err)
	}
	run("big", reg.Host()+"/big:1")
	if out, err := x.run(t, "", "wait", "--for=condition=Ready", "pod/big", "--timeout=30s"); err != nil {
		t.Errorf("with room: %v %s", err, out)
	}
}

// upFails runs a second `peapod up` that must end by itself with a message.
func upFails(t *testing.T, dir string, flags ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "peapod"), append([]string{"up", "--data-dir", dir, "--pod-cidr", "10.215.0.0/20", "--service-cidr", "10.225.0.0/16", "--node-name", "n3"}, flags...)...)
	out, err := cmd.CombinedOutput()
	if err == nil || ctx.Err() != nil {
		t.Fatalf("peapod up %v: %v, %v\n%s", flags, err, ctx.Err(), out)
	}
	return string(out)
}

// TestTaken: ports and folders that are in use are named, and the one who
// came too late leaves nothing.
func TestTaken(t *testing.T) {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := fmt.Sprintf(":%d", l.Addr().(*net.TCPAddr).Port)
	for what, flags := range map[string][]string{
		"the API's port":  {"--listen", "127.0.0.1" + port, "--node-listen", ":25250"},
		"the node's port": {"--listen", "127.0.0.1:25443", "--node-listen", port},
	} {
		dir, err := os.MkdirTemp("", "pea")
		if err != nil {
			t.Fatal(err)
		}
		x, err := newCluster(dir)
		if err != nil {
			t.Fatal(err)
		}
		out := upFails(t, x.dir, flags...)
		if !strings.Contains(out, port) || !strings.Contains(out, "address already in use") {
			t.Errorf("%s taken: %s", what, out)
		}
		if err := x.down(); err != nil {
			t.Errorf("%s taken: %v", what, err)
		}
	}
	out := upFails(t, c.dir, "--listen", "127.0.0.1:25443", "--node-listen", ":25250")
	if !strings.Contains(out, c.dir) || !strings.Contains(out, fmt.Sprint(c.process.Process.Pid)) {
		t.Errorf("a folder in use is refused with: %s", out)
	}
	must(t, "get", "nodes")
}

// TestCorruptRecords: what a bad disk did to a record costs that Pod, not the
// node: the others live on, and the log names the file.
func TestCorruptRecords(t *testing.T) {
	x := second(t, nil)
	for _, name := range []string{"healthy", "damaged"} {
		if out, err := x.run(t, "", "run", name, "--image="+image, "--command", "--", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	if out, err := x.run(t, "", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=30s"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	const state = "jsonpath={.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}"
	healthy, _ := x.run(t, "", "get", "pod", "healthy", "-o", state)
	id, _ := x.run(t, "", "get", "pod", "damaged", "-o", "jsonpath={.status.containerStatuses[0].containerID}")
	x.stop(syscall.SIGTERM)
	records, err := filepath.Glob(filepath.Join(x.dir, "runtime/containers", strings.TrimPrefix(id, "peapod://"), "*.json"))
	if err != nil || len(records) == 0 {
		t.Fatalf("no record of %s: %v", id, err)
	}
	for _, r := range records {
		if err := os.WriteFile(r, []byte(`{"version": 1, "na`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the damaged one runs anew", func() bool {
		now, err := x.run(t, "", "get", "pod", "damaged", "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.phase}")
		return err == nil && !strings.HasPrefix(now, id) && strings.HasSuffix(now, "Running")
	})
	if now, _ := x.run(t, "", "get", "pod", "healthy", "-o", state); now != healthy {
		t.Errorf("the healthy one was %s and is %s", healthy, now)
	}
	log, err := os.ReadFile(filepath.Join(x.home, "up.log"))
	if err != nil || !strings.Contains(string(log), filepath.Dir(records[0])) {
		t.Errorf("the log does not name the record: %v", err)
	}
}

// TestDownAfterKill: the program died with a Pod, and in the middle of cleaning
// up after another; `peapod down` needs no `up` in between to leave nothing.
func TestDownAfterKill(t *testing.T) {
	x := second(t, nil)
	if out, err := x.run(t, "", "run", "lives", "--image="+image, "--command", "--", "sleep", "1000"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := x.run(t, "", "wait", "--for=condition=Ready", "pod/lives", "--timeout=30s"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	x.stop(syscall.SIGKILL)
	volume := filepath.Join(x.dir, "node/pods/11111111-2222-3333-4444-555555555555/volumes/kubernetes.io~empty-dir/m")
	if err := os.MkdirAll(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", volume, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if err := x.down(); err != nil {
		t.Error(err)
		_ = unix.Unmount(volume, unix.MNT_DETACH)
	}
}

// TestDownIsKilled: `peapod down` is killed again and again, each time a
// little later, and the one that is let be finds all the states they left.
func TestDownIsKilled(t *testing.T) {
	x := second(t, nil)
	pod := "apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\nspec:\n  volumes: [{name: m, emptyDir: {medium: Memory}}]\n  containers:\n" +
		"  - {name: c, image: " + image + ", command: [sh, -c, \"trap 'exit 0' TERM; sleep 1000 & wait\"], volumeMounts: [{name: m, mountPath: /m}]}\n"
	for _, name := range []string{"a", "b", "c"} {
		if out, err := x.run(t, fmt.Sprintf(pod, name), "create", "-f", "-"); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	if out, err := x.run(t, "", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=30s"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	x.stop(syscall.SIGKILL)
	for kills := 0; ; kills++ {
		var said bytes.Buffer
		down := exec.Command(filepath.Join(x.bin, "peapod"), "down", "--data-dir", x.dir, "--purge", "--grace=1s")
		down.Stderr = &said
		if err := down.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- down.Wait() }()
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("after %d kills: %v\n%s", kills, err, &said)
			}
			t.Logf("finished after %d kills", kills)
			_ = os.Remove(x.dir) // empty and nobody's, if a kill fell between the last two steps
			return               // the end of the test looks for what is left
		case <-time.After(time.Duration(kills) * 5 * time.Millisecond): // the moment of the kill
			_ = down.Process.Kill() // it may end just now
			<-ended
		}
	}
}
