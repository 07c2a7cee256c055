// SPDX-License-Identifier: Apache-2.0

// Package e2e drives the whole program as a user does: bin/peapod on a fresh
// data folder, and the stock kubectl of Kubernetes 1.37. Tests are named after
// the promises they prove.
package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	toolswatch "k8s.io/client-go/tools/watch"

	"github.com/peapod/peapod/test/hosts"
	"github.com/peapod/peapod/test/imagefile"
	"github.com/peapod/peapod/test/machine"
)

// patience is how long a test waits for anything before it says what it saw.
const patience = 60 * time.Second

// image is the examples' own; witnessImage has the program of the same name.
const (
	image        = "peapod.dev/examples:1"
	witnessImage = "peapod.dev/witness:1"
)

// cluster is one node: a data folder with a program on it.
type cluster struct {
	home, dir    string // the tests' own files; the data folder in it
	bin, kubectl string
	flags        []string
	host         *hosts.Host // on which it is; nil is the test's own machine
	member       bool        // its control plane is elsewhere
	process      *exec.Cmd
	log          *os.File
	client       kubernetes.Interface
	config       *rest.Config
}

// c is the node that the tests share.
var c *cluster

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	// Short: sockets lie below it.
	dir, err := os.MkdirTemp("", "pea")
	if err != nil {
		return 1, err
	}
	if c, err = newCluster(dir, "--listen", "127.0.0.1:17443", "--node-listen", ":17250", "--node-name", "n1", "--pod-cidr", "10.201.0.0/20", "--service-cidr", "10.202.0.0/16"); err != nil {
		return 1, err
	}
	defer func() {
		if downErr := c.down(); downErr != nil {
			err, code = downErr, 1
		}
	}()
	if err := c.importImages(); err != nil {
		return 1, err
	}
	if err := c.start(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// launcher is who starts the containers of the tests.
var launcher = flag.String("launcher", "auto", "as of peapod up: oci, native or auto")

func newCluster(dir string, flags ...string) (*cluster, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	x := &cluster{home: dir, dir: filepath.Join(dir, "d"), bin: filepath.Join(root, "bin"), kubectl: filepath.Join(root, "bin/stock/kubectl"), flags: flags}
	for _, f := range []string{"peapod", "peapod-keeper", "peapod-launcher", "stock/kubectl", "stock/crictl"} {
		if _, err := os.Stat(filepath.Join(x.bin, f)); err != nil {
			return nil, fmt.Errorf("%w (run the tests with `make test`)", err)
		}
	}
	return x, nil
}

// importImages packs the images of the examples and of the tests.
func (c *cluster) importImages() error {
	examples, witness := filepath.Join(c.home, "examples.tar"), filepath.Join(c.home, "witness.tar")
	pack := exec.Command(filepath.Join(c.bin, "../scripts/examples-image"), examples)
	if out, err := pack.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot pack the image: %w\n%s", err, out)
	}
	program := filepath.Join(c.home, "witness")
	build := exec.Command("go", "build", "-o", program, "./witness")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // its image has no libraries
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build witness: %w\n%s", err, out)
	}
	if err := packImage(witness, witnessImage, ispecs.ImageConfig{Cmd: []string{"sleep", "1000"}}, map[string]string{"/bin/witness": program}); err != nil {
		return err
	}
	if out, err := c.peapod("image", "import", examples, witness); err != nil {
		return fmt.Errorf("cannot import the images: %w\n%s", err, out)
	}
	return nil
}

// packImage writes an image around busybox.
func packImage(file, ref string, config ispecs.ImageConfig, programs map[string]string) error {
	entries, err := imagefile.Busybox("/bin/busybox")
	if err != nil {
		return err
	}
	for inside, outside := range programs {
		e, err := imagefile.File(inside, outside)
		if err != nil {
			return err
		}
		entries = append(entries, e)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(imagefile.Write(f, imagefile.Image{Ref: ref, Entries: entries, Config: config}), f.Close())
}

func (c *cluster) peapod(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := c.program(ctx, args...)
	cmd.Env = append(os.Environ(), "PEAPOD_DATA_DIR="+c.dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// program is peapod on the machine of c, not started.
func (c *cluster) program(ctx context.Context, args ...string) *exec.Cmd {
	if c.host != nil {
		return c.host.Command(ctx, filepath.Join(c.bin, "peapod"), args...)
	}
	return exec.CommandContext(ctx, filepath.Join(c.bin, "peapod"), args...)
}

// start runs `peapod up` until it says that the node is Ready.
func (c *cluster) start() error {
	log, err := os.OpenFile(filepath.Join(c.home, "up.log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	c.log = log
	c.process = c.program(context.Background(), append([]string{"up", "--data-dir", c.dir, "--launcher", *launcher, "-v=1"}, c.flags...)...)
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	c.process.Stdout, c.process.Stderr = w, log
	if err := c.process.Start(); err != nil {
		return err
	}
	w.Close()
	defer r.Close()
	line := make([]byte, 1024)
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	n, err := r.Read(line)
	if err != nil || !strings.Contains(string(line[:n]), "is Ready") {
		_ = c.process.Process.Kill()
		c.process.Wait()
		tail, _ := os.ReadFile(log.Name())
		return fmt.Errorf("peapod up did not become Ready: %q, %w\n%s", line[:n], err, tail[max(0, len(tail)-4000):])
	}
	if c.member {
		return nil
	}
	if c.config, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig()); err != nil {
		return err
	}
	c.config.QPS = -1
	c.client, err = kubernetes.NewForConfig(c.config)
	return err
}

func (c *cluster) kubeconfig() string { return filepath.Join(c.dir, "admin.kubeconfig") }

// stop ends the program (not its Pods) and waits for its end.
func (c *cluster) stop(sig syscall.Signal) {
	if c.process == nil || c.process.Process == nil {
		return
	}
	_ = c.process.Process.Signal(sig) // it may have ended by itself
	_ = c.process.Wait()              // how it ended is the test's business
	c.process = nil
	c.log.Close()
}

// down ends everything; that nothing is left is part of every test run.
func (c *cluster) down() error {
	c.stop(syscall.SIGTERM)
	if out, err := c.peapod("down", "--data-dir", c.dir, "--purge", "--grace=1s"); err != nil {
		return fmt.Errorf("peapod down: %w\n%s", err, out)
	}
	if left := machine.Belongings(c.dir, ""); len(left) > 0 {
		return fmt.Errorf("peapod down --purge left:\n%s", strings.Join(left, "\n"))
	}
	if _, err := os.Lstat(c.dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("peapod down --purge left the data folder %s: %v", c.dir, err)
	}
	// What lies beside it is the tests' own.
	return os.RemoveAll(c.home)
}

// command is the stock kubectl, not started.
func (c *cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.kubectl, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.kubeconfig(), "HOME="+c.home)
	return cmd
}

// kubectl runs the stock kubectl; its output is that of both streams.
func kubectl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return kubectlIn(t, "", args...)
}

func kubectlIn(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	return c.run(t, stdin, args...)
}

func (c *cluster) run(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := c.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must is kubectl that has to succeed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kubectl(t, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// apply makes a Pod from YAML without its first lines, and removes it at the
// end of the test.
func apply(t *testing.T, name, spec string) {
	t.Helper()
	manifest := "apiVersion: v1\nkind: Pod\nmetadata:\n  name: " + name + "\nspec:\n" + indent(spec)
	if out, err := kubectlIn(t, manifest, "apply", "-f", "-"); err != nil {
		t.Fatalf("apply: %v\n%s\n%s", err, out, manifest)
	}
	removeLater(t, "pod/"+name)
}

func indent(s string) string {
	lines := strings.Split(strings.Trim(s, "\n"), "\n")
	strip := len(lines[0]) - len(strings.TrimLeft(lines[0], "\t "))
	for i, l := range lines {
		lines[i] = "  " + strings.ReplaceAll(l[min(strip, len(l)):], "\t", "  ")
	}
	return strings.Join(lines, "\n") + "\n"
}

func removeLater(t *testing.T, what ...string) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cmd := c.command(ctx, append([]string{"delete", "--ignore-not-found", "--now"}, what...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("cannot remove %v: %v\n%s", what, err, out)
		}
	})
}

func getPod(t *testing.T, name string) *corev1.Pod {
	t.Helper()
	p, err := c.client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// await watches a Pod until it is as wanted.
func await(t *testing.T, name, what string, wanted func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	lw := podWatch(ctx, name)
	var last *corev1.Pod
	e, err := toolswatch.UntilWithSync(ctx, lw, &corev1.Pod{}, nil, func(e watch.Event) (bool, error) {
		if p, ok := e.Object.(*corev1.Pod); ok && e.Type != watch.Deleted {
			last = p
			return wanted(p), nil
		}
		return false, nil
	})
	if err != nil {
		b, _ := json.MarshalIndent(last, "", " ")
		events, _ := kubectl(t, "get", "events", "--field-selector", "involvedObject.name="+name)
		t.Fatalf("pod %s: %s: %v\nlast seen: %s\n%s", name, what, err, b, events)
	}
	return e.Object.(*corev1.Pod)
}

func running(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }

func ready(p *corev1.Pod) bool {
	for _, x := range p.Status.Conditions {
		if x.Type == corev1.PodReady {
			return x.Status == corev1.ConditionTrue
		}
	}
	return false
}

func phase(want corev1.PodPhase) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p.Status.Phase == want }
}

// in runs a command inside a container.
func in(t *testing.T, pod, container string, command ...string) string {
	t.Helper()
	return strings.TrimSpace(must(t, append([]string{"exec", pod, "-c", container, "--"}, command...)...))
}

// gone waits until a Pod is no longer in the API.
func gone(t *testing.T, name string) {
	t.Helper()
	must(t, "wait", "--for=delete", "pod/"+name, "--timeout=60s")
}

// eventually asks again until ok, for what has no watch: a page, a file.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	eventuallyWithin(t, patience, what, ok)
}

func eventuallyWithin(t *testing.T, patience time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if ok() {
			return
		}
		pause := time.NewTimer(50 * time.Millisecond)
		<-pause.C
	}
	t.Fatalf("%s: not within %v", what, patience)
}

// leftovers is what the machine holds of a Pod.
func leftovers(t *testing.T, uid types.UID) []string {
	t.Helper()
	return machine.Belongings(c.dir, string(uid))
}
