// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The tests run in a network namespace of their own: TestMain starts the test
// binary again inside a fresh one, so that links, rules and sysctls of the
// machine are never touched and vanish with the process.
func TestMain(m *testing.M) {
	if os.Getenv("PEAPOD_TEST_NETNS") == "1" {
		if err := loopbackUp(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "PEAPOD_TEST_NETNS=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "cannot start the tests in a network namespace (root is needed):", err)
		os.Exit(1)
	}
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func open(t *testing.T, dir, cidr string) *Network {
	t.Helper()
	return openWith(t, Config{Dir: dir, Instance: "peapod-test", PodCIDR: netip.MustParsePrefix(cidr), Log: slog.New(slog.DiscardHandler)})
}

func openWith(t *testing.T, cfg Config) *Network {
	t.Helper()
	n, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Remove(context.Background(), cfg); err != nil {
			t.Error(err)
		}
	})
	return n
}

// newNamespace pins a network namespace at a path, as a sandbox has it.
func newNamespace(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	inNamespace(t, "", func() error {
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	})
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

// inNamespace runs f on a thread of the namespace at path, or of a new one for
// "". The thread is thrown away after it.
func inNamespace(t *testing.T, path string, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if path == "" {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				done <- err
				return
			}
			done <- f()
			return
		}
		ns, err := netns.GetFromPath(path)
		if err == nil {
			defer ns.Close()
			if err = netns.Set(ns); err == nil {
				err = f()
			}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// serve answers each connection inside the namespace with the peer's address.
func serve(t *testing.T, path string, port int) {
	t.Helper()
	inNamespace(t, path, func() error {
		l, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				io.WriteString(c, host)
				c.Close()
			}
		}()
		return nil
	})
}

func ask(addr string) (string, error) {
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).Dial("tcp4", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	return string(b), err
}

func askFrom(t *testing.T, path, addr string) (got string) {
	t.Helper()
	inNamespace(t, path, func() (err error) { got, err = ask(addr); return err })
	return got
}

func TestFlatNetwork(t *testing.T) {
	n := open(t, t.TempDir(), "10.90.0.0/24")
	a, b := newNamespace(t), newNamespace(t)
	ips := map[string]netip.Addr{}
	for id, ns := range map[string]string{"a": a, "b": b} {
		got, err := n.Setup(t.Context(), id, ns, nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := n.Setup(t.Context(), id, ns, nil)
		if err != nil || again[0] != got[0] {
			t.Fatalf("second Setup gave %v, %v; want %v", again, err, got)
		}
		ips[id] = got[0]
	}
	if ips["a"] == ips["b"] {
		t.Fatalf("two sandboxes share %v", ips["a"])
	}
	serve(t, b, 80)
	if got := askFrom(t, a, ips["b"].String()+":80"); got != ips["a"].String() {
		t.Errorf("Pod to Pod: the server saw %q, want the client's own address %v", got, ips["a"])
	}
	if got, err := ask(ips["b"].String() + ":80"); err != nil || got != "10.90.0.1" {
		t.Errorf("node to Pod: the server saw %q, %v; want 10.90.0.1", got, err)
	}
	l, err := net.Listen("tcp4", "10.90.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
			c.Close()
		}
	}()
	if got := askFrom(t, a, l.Addr().String()); got != ips["a"].String() {
		t.Errorf("Pod to node: the node saw %q, want %v", got, ips["a"])
	}
}

func TestHostPorts(t *testing.T) {
	dir := t.TempDir()
	n := open(t, dir, "10.91.0.0/24")
	if err := n.Claim(netip.MustParseAddr("192.0.2.77")); err != nil {
		t.Fatal(err)
	}
	if err := n.Claim(netip.MustParseAddr("192.0.2.78")); err != nil {
		t.Fatal(err)
	}
	a, b := newNamespace(t), newNamespace(t)
	ports := []HostPort{
		{Protocol: "tcp", HostPort: 8080, ContainerPort: 80},
		{Protocol: "tcp", HostIP: netip.MustParseAddr("192.0.2.77"), HostPort: 8081, ContainerPort: 80},
	}
	got, err := n.Setup(t.Context(), "a", a, ports)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Setup(t.Context(), "b", b, nil); err != nil {
		t.Fatal(err)
	}
	serve(t, a, 80)
	for _, addr := range []string{"192.0.2.77:8080", "127.0.0.1:8080", "192.0.2.77:8081"} {
		if got, err := ask(addr); err != nil || got == "" {
			t.Errorf("node to host port %s: %q, %v", addr, got, err)
		}
	}
	if _, err := ask("192.0.2.78:8081"); err == nil {
		t.Error("host port of 192.0.2.77 answers on 192.0.2.78")
	}
	if from := askFrom(t, b, "192.0.2.77:8080"); from != "10.91.0.3" && from != "10.91.0.2" {
		t.Errorf("Pod to host port: server saw %q, want the client Pod", from)
	}
	if from := askFrom(t, a, "192.0.2.77:8080"); from == "" {
		t.Error("a Pod cannot reach its own host port")
	}
	// A second process on the same records finds the ports open.
	n2 := open(t, dir, "10.91.0.0/24")
	if _, err := ask("192.0.2.77:8080"); err != nil {
		t.Errorf("host port after reopening: %v", err)
	}
	if err := n2.Teardown(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := ask("192.0.2.77:8080"); err == nil {
		t.Error("host port answers after Teardown")
	}
	if _, err := ask(got[0].String() + ":80"); err == nil {
		t.Error("Pod address answers after Teardown")
	}
	if err := n2.Teardown(t.Context(), "a"); err != nil {
		t.Errorf("second Teardown: %v", err)
	}
}

func TestAddressesAreUniqueAndComeBackLate(t *testing.T) {
	n := open(t, t.TempDir(), "10.92.0.0/28") // 16 addresses: 13 for Pods
	seen := map[netip.Addr]bool{}
	var last netip.Addr
	for i := range 13 {
		r, _, err := n.reserve(fmt.Sprint("s", i), nil)
		if err != nil {
			t.Fatal(err)
		}
		if seen[r.IP] || r.IP == n.Gateway() || !n.cfg.PodCIDR.Contains(r.IP) {
			t.Fatalf("address %v is not fit", r.IP)
		}
		seen[r.IP], last = true, r.IP
	}
	if _, _, err := n.reserve("full", nil); !errors.Is(err, errNoAddress) {
		t.Fatalf("full range: %v", err)
	}
	for _, id := range []string{"s3", "s4"} {
		if err := n.release(id); err != nil {
			t.Fatal(err)
		}
	}
	reopened := open(t, n.cfg.Dir, "10.92.0.0/28")
	if r, _, err := reopened.reserve("again", nil); err != nil || r.IP == last {
		t.Fatalf("after reopening got %v, %v", r.IP, err)
	}
	if err := reopened.Keep(t.Context(), map[string]bool{"again": true}); err != nil {
		t.Fatal(err)
	}
	if len(reopened.records) != 1 || len(reopened.used) != 1 {
		t.Errorf("Keep left %v", reopened.records)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	before := hostPicture(t)
	cfg := Config{Dir: filepath.Join(t.TempDir(), "net"), Instance: "peapod-test", PodCIDR: netip.MustParsePrefix("10.93.0.0/24")}
	n, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Setup(t.Context(), "a", newNamespace(t), []HostPort{{Protocol: "udp", HostPort: 53, ContainerPort: 53}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	if after := hostPicture(t); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
	if _, err := os.Stat(cfg.Dir); !os.IsNotExist(err) {
		t.Errorf("folder is still there: %v", err)
	}
}

// hostPicture is what ip and nft say, and the sysctls the network may set.
func hostPicture(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, c := range [][]string{{"ip", "-o", "link"}, {"ip", "-o", "addr"}, {"ip", "route"}, {"nft", "list", "tables"}} {
		out, err := exec.Command(c[0], c[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", c, err, out)
		}
		b.Write(out)
	}
	for _, s := range forwarding {
		v, err := os.ReadFile(filepath.Join("/proc/sys", s.path))
		if err != nil {
			t.Fatal(err)
		}
		b.Write(v)
	}
	return b.String()
}

func BenchmarkSetupTeardown(b *testing.B) {
	cfg := Config{Dir: b.TempDir(), Instance: "peapod-bench", PodCIDR: netip.MustParsePrefix("10.94.0.0/16"), Log: slog.New(slog.DiscardHandler)}
	n, err := Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { Remove(context.Background(), cfg) })
	i := 0
	for b.Loop() {
		i++
		b.StopTimer()
		runtime.LockOSThread()
		old, _ := netns.Get()
		ns, err := netns.New()
		if err != nil {
			b.Fatal(err)
		}
		netns.Set(old)
		b.StartTimer()
		id := fmt.Sprint(i)
		if _, err := n.Setup(b.Context(), id, fmt.Sprintf("/proc/self/fd/%d", int(ns)), nil); err != nil {
			b.Fatal(err)
		}
		if err := n.Teardown(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		ns.Close()
		old.Close()
	}
}
