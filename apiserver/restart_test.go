// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
	"k8s.io/client-go/kubernetes"
)

// childEnv names the data folder of a server in a process of its own, which a
// test can kill; childEtcd an etcd of the user's; childFlags its flags, one a
// line, and that the test is its only client.
const childEnv, childEtcd, childFlags = "APISERVER_TEST_CHILD", "APISERVER_TEST_ETCD", "APISERVER_TEST_FLAGS"

// child says what it finds, and then each object it made, as soon as the server
// has acknowledged it, until it is killed or its standard input ends.
func child(dir string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var etcd []string
	if e := os.Getenv(childEtcd); e != "" {
		etcd = []string{e}
	}
	flags, quiet := os.LookupEnv(childFlags)
	o := NewOptions()
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, fs := range o.Flags().FlagSets {
		all.AddFlagSet(fs)
	}
	if err := all.Parse(strings.Fields(flags)); err != nil {
		return err
	}
	controller.EncryptionConfigFileChangePollDuration = 100 * time.Millisecond // no test is to wait a minute
	s, stop, err := start(ctx, dir, o, etcd...)
	if err != nil {
		return err
	}
	fmt.Println("listens", s.config.Listen[0])
	client, err := kubernetes.NewForConfig(s.ClientConfig("admin", "system:masters"))
	if err != nil {
		return err
	}
	maps := client.CoreV1().ConfigMaps("default")
	before, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, m := range before.Items {
		fmt.Println("found", m.Name)
	}
	fmt.Println("ready")
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // an end is an end
		cancel()
	}()
	if quiet {
		<-ctx.Done()
		return stop()
	}
	for {
		m, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "w-"}}, metav1.CreateOptions{})
		if ctx.Err() != nil {
			return stop()
		}
		if err != nil {
			return err
		}
		fmt.Println("made", m.Name)
	}
}

// process is a server in a process of its own.
type process struct {
	*exec.Cmd
	lines *bufio.Scanner
	in    io.WriteCloser
	fault *strings.Builder
	at    string // see address
}

// address is where the server listens: the first that it says.
func (p *process) address(t *testing.T) string {
	t.Helper()
	if p.at == "" {
		p.at = p.read(t, "listens", 1)[0]
	}
	return p.at
}

func spawn(t *testing.T, dir string, env ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.CommandContext(t.Context(), self), fault: &strings.Builder{}}
	p.Env = append(append(os.Environ(), childEnv+"="+dir), env...)
	p.Stderr = p.fault
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.in, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(out)
	return p
}

// read reads names of one kind until the n-th, or the line "ready" for n = 0.
func (p *process) read(t *testing.T, kind string, n int) (names []string) {
	t.Helper()
	for p.lines.Scan() {
		word, name, _ := strings.Cut(p.lines.Text(), " ")
		if word == kind {
			names = append(names, name)
		}
		if n == 0 && word == "ready" || n > 0 && len(names) == n {
			return names
		}
	}
	t.Fatalf("the server ended: %s", p.fault)
	return nil
}

// Kills in the middle of writes lose nothing that was acknowledged.
func TestKilledServersKeepWhatTheyAcknowledged(t *testing.T) {
	dir := t.TempDir()
	made := map[string]bool{}
	for round := range 4 {
		p := spawn(t, dir)
		found := map[string]bool{}
		for _, name := range p.read(t, "found", 0) {
			found[name] = true
		}
		for name := range made {
			if !found[name] {
				t.Errorf("round %d: %s is lost", round, name)
			}
		}
		for _, name := range p.read(t, "made", 40) {
			made[name] = true
		}
		if round == 3 {
			p.in.Close() // an orderly end
			for p.lines.Scan() {
			}
			if err := p.Wait(); err != nil {
				t.Errorf("an orderly end: %v, %s", err, p.fault)
			}
			break
		}
		if err := p.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for p.lines.Scan() { // what it said before it died
			if word, name, _ := strings.Cut(p.lines.Text(), " "); word == "made" && name != "" {
				made[name] = true
			}
		}
		_ = p.Wait() // killed
	}
	if len(made) < 160 {
		t.Errorf("%d objects", len(made))
	}
}

// failure starts a server that cannot start, and returns what it says.
func failure(t *testing.T, dir string, env ...string) string {
	t.Helper()
	p := spawn(t, dir, env...)
	for p.lines.Scan() {
	}
	if err := p.Wait(); err == nil {
		t.Error("it ended well")
	}
	return p.fault.String()
}

func TestADamagedStoreIsNamed(t *testing.T) {
	for _, c := range []struct{ name, file string }{{"log", "member/wal/*.wal"}, {"database", "member/snap/db"}} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			p := spawn(t, dir)
			p.read(t, "made", 5)
			p.in.Close()
			for p.lines.Scan() {
			}
			if err := p.Wait(); err != nil {
				t.Fatal(err, p.fault)
			}
			files, err := filepath.Glob(filepath.Join(dir, "etcd", c.file))
			if err != nil || len(files) == 0 {
				t.Fatal(files, err)
			}
			for _, f := range files {
				if err := os.WriteFile(f, []byte(strings.Repeat("rubbish!", 4096)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			said := failure(t, dir)
			if !strings.Contains(said, "cannot open etcd in "+dir) || !strings.Contains(said, "the store is damaged, move it away or restore it from a backup") || strings.Contains(said, "goroutine ") {
				t.Errorf("it said %s", said)
			}
		})
	}
}

// A write that a crash has cut off was acknowledged to nobody: it is taken back.
func TestATornWriteIsTakenBack(t *testing.T) {
	dir := t.TempDir()
	p := spawn(t, dir)
	made := p.read(t, "made", 20)
	p.in.Close()
	for p.lines.Scan() {
	}
	if err := p.Wait(); err != nil {
		t.Fatal(err, p.fault)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "etcd/member/wal/*.wal"))
	if err != nil || len(logs) == 0 {
		t.Fatal(logs, err)
	}
	last := slices.Max(logs)
	b, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	// Records begin at multiples of 8 with their length; what follows is zero.
	end := (len(bytes.TrimRight(b, "\x00")) + 7) &^ 7
	torn := binary.LittleEndian.AppendUint64(nil, 4096)
	torn = append(torn, bytes.Repeat([]byte{0xa5}, 600)...)
	if len(b) < end+8192 {
		b = append(b, make([]byte, 8192)...)
	}
	copy(b[end:], torn)
	if err := os.WriteFile(last, b, 0o600); err != nil {
		t.Fatal(err)
	}
	p = spawn(t, dir)
	found := p.read(t, "found", 0)
	for _, name := range made {
		if !slices.Contains(found, name) {
			t.Errorf("%s is lost", name)
		}
	}
	p.read(t, "made", 5)
	p.in.Close()
	for p.lines.Scan() {
	}
	if err := p.Wait(); err != nil {
		t.Error(err, p.fault)
	}
}

func TestTwoServersOnOneStore(t *testing.T) {
	dir := t.TempDir()
	p := spawn(t, dir)
	p.read(t, "made", 1)
	if said, want := failure(t, dir), "cannot open etcd in "+dir+"/etcd: another process uses it"; !strings.Contains(said, want) {
		t.Errorf("it said %s, want %s", said, want)
	}
	p.in.Close()
	for p.lines.Scan() {
	}
	if err := p.Wait(); err != nil {
		t.Error(err, p.fault)
	}
}

func TestAnEtcdThatDoesNotAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	said := failure(t, t.TempDir(), childEtcd+"=http://"+address)
	if !strings.Contains(said, "cannot reach etcd at http://"+address+" within 10s") || !strings.Contains(said, "connection refused") {
		t.Errorf("it said %s", said)
	}
}

func TestAPortInUse(t *testing.T) {
	c := server.config
	_, err := New(t.Context(), Config{DataDir: t.TempDir(), Listen: c.Listen, PKI: c.PKI, Services: netip.MustParsePrefix("10.96.0.0/16"), Log: c.Log})
	if want := fmt.Sprintf("cannot listen on %s: bind: address already in use", c.Listen[0]); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
