// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
)

// namespace of all measured Pods.
const namespace = "default"

// node is one running `peapod up`.
type node struct {
	launcher     string
	bin, dir     string
	process      *exec.Cmd
	client       kubernetes.Interface
	begun, ready time.Time
}

// withNode runs do on a node that starts from an empty folder but for the
// image, and takes the node down again.
func withNode(ctx context.Context, o options, do func(*node) error) (err error) {
	// Short: sockets lie below it.
	dir, err := os.MkdirTemp("", "pb")
	if err != nil {
		return err
	}
	n := &node{bin: o.bin, dir: dir, launcher: o.launcher}
	defer func() {
		down := exec.Command(filepath.Join(n.bin, "peapod"), "down", "--data-dir", dir, "--purge", "--grace=1s")
		out, downErr := down.CombinedOutput()
		if downErr != nil {
			err = errors.Join(err, fmt.Errorf("peapod down: %w\n%s", downErr, out))
		}
		if n.process != nil {
			// It was told to stop; its exit code was seen by `down`.
			_ = n.process.Wait()
		}
	}()
	if out, err := exec.CommandContext(ctx, filepath.Join(o.bin, "peapod"), "image", "import", "--data-dir", dir, o.tar).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot import the image: %w\n%s", err, out)
	}
	if err := n.up(); err != nil {
		return err
	}
	return do(n)
}

// up starts the node on ports that are free, and waits for its one line.
func (n *node) up() error {
	api, err := freePort()
	if err != nil {
		return err
	}
	n.process = exec.Command(filepath.Join(n.bin, "peapod"), "up", "--data-dir", n.dir, "--node-name", "bench", "--launcher", n.launcher,
		"--listen", "127.0.0.1:"+api, "--node-listen", ":0", "--pod-cidr", "10.230.0.0/20", "--service-cidr", "10.231.0.0/16")
	n.process.Stderr = os.Stderr
	out, err := n.process.StdoutPipe()
	if err != nil {
		return err
	}
	n.begun = time.Now()
	if err := n.process.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	n.ready = time.Now()
	if err != nil || !strings.Contains(line, "is Ready") {
		return fmt.Errorf("peapod up did not become Ready: %q, %w", line, err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(n.dir, "admin.kubeconfig"))
	if err != nil {
		return err
	}
	config.QPS = -1
	n.client, err = kubernetes.NewForConfig(config)
	return err
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// pod runs one shell command and ends on TERM at once.
func pod(name, image, command string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](5), RestartPolicy: corev1.RestartPolicyNever,
			Containers: []corev1.Container{{Name: "c", Image: image, Command: []string{"sh", "-c", "trap 'exit 0' TERM; " + command + " & wait"}}},
		},
	}
}

func (n *node) create(ctx context.Context, p *corev1.Pod) error {
	_, err := n.client.CoreV1().Pods(namespace).Create(ctx, p, metav1.CreateOptions{})
	return err
}

func (n *node) delete(ctx context.Context, name string) error {
	return n.client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{})
}

// memory reports what the node's processes hold after all these Pods.
func (n *node) memory(r *report) error {
	b, err := os.ReadFile(filepath.Join(n.dir, "keeper", "keeper.json"))
	if err != nil {
		return err
	}
	var keeper struct {
		Process struct {
			Pid int `json:"pid"`
		} `json:"process"`
	}
	if err := json.Unmarshal(b, &keeper); err != nil {
		return err
	}
	for what, pid := range map[string]int{"RSS of peapod": n.process.Process.Pid, "RSS of the keeper": keeper.Process.Pid} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				r.say("P8", what, strings.TrimSpace(v))
			}
		}
	}
	return nil
}

// profile takes a CPU profile of the program until stop is called.
func (n *node) profile(ctx context.Context, dir, name string) (stop func() error, err error) {
	if dir == "" {
		return func() error { return nil }, nil
	}
	const most = 30 * time.Second
	done := make(chan error, 1)
	go func() {
		b, err := n.client.CoreV1().RESTClient().Get().AbsPath("/debug/pprof/profile").Param("seconds", strconv.Itoa(int(most.Seconds()))).Timeout(2 * most).DoRaw(ctx)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name+".pprof"), b, 0o644)
		}
		done <- err
	}()
	return func() error { return <-done }, nil
}
