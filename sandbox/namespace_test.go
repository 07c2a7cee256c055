// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/sandbox"
)

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return statIno(info)
}

func TestPin(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ns")
	t.Cleanup(func() {
		if err := sandbox.Unpin(dir); err != nil {
			t.Error(err)
		}
	})
	ns, err := sandbox.Pin(dir, sandbox.Request{Net: true, IPC: true, UTS: true, Hostname: "web-1",
		Sysctls: map[string]string{"net.ipv4.ip_forward": "1", "net/ipv4/tcp_syncookies": "0", "kernel.shm_rmid_forced": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	for kind, path := range map[string]string{"net": ns.Net, "ipc": ns.IPC, "uts": ns.UTS} {
		if inode(t, path) == inode(t, "/proc/self/ns/"+kind) {
			t.Errorf("%s: not a namespace of its own", kind)
		}
	}
	read := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(b))
	}
	var host, forward, cookies, forced string
	in := func(kind, path string, f func()) {
		t.Helper()
		if err := linux.InNamespace(kind, path, func() error { f(); return nil }); err != nil {
			t.Error(err)
		}
	}
	in("uts", ns.UTS, func() { host = read("/proc/sys/kernel/hostname") })
	in("net", ns.Net, func() { forward = read("/proc/sys/net/ipv4/ip_forward") })
	in("net", ns.Net, func() { cookies = read("/proc/sys/net/ipv4/tcp_syncookies") })
	in("ipc", ns.IPC, func() { forced = read("/proc/sys/kernel/shm_rmid_forced") })
	if host != "web-1" || forward != "1" || cookies != "0" || forced != "1" {
		t.Errorf("inside: hostname %q, ip_forward %q, tcp_syncookies %q, shm_rmid_forced %q", host, forward, cookies, forced)
	}
	if again, err := sandbox.Pinned(dir); err != nil || again != ns {
		t.Errorf("pinned: %+v, %v; want %+v", again, err, ns)
	}
	for range 2 {
		if err := sandbox.Unpin(dir); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := sandbox.Pinned(dir); err != nil || again != (sandbox.Namespaces{}) {
		t.Errorf("after unpin: %+v, %v", again, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestPinSome(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() {
		if err := sandbox.Unpin(dir); err != nil {
			t.Error(err)
		}
	})
	ns, err := sandbox.Pin(dir, sandbox.Request{IPC: true})
	if err != nil || ns != (sandbox.Namespaces{IPC: filepath.Join(dir, "ipc")}) {
		t.Errorf("got %+v, %v", ns, err)
	}
}

func TestPinRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    sandbox.Request
		want string
	}{
		{"sysctl of the machine", sandbox.Request{Net: true, IPC: true, UTS: true, Sysctls: map[string]string{"vm.swappiness": "1"}},
			`sysctl "vm.swappiness" is not of a namespace`},
		{"network of the machine", sandbox.Request{IPC: true, Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}}, `sysctl "net.ipv4.ip_forward" is not`},
		{"way out", sandbox.Request{Net: true, Sysctls: map[string]string{"net/../vm/swappiness": "1"}}, "is not of a namespace"},
		{"unknown", sandbox.Request{Net: true, Sysctls: map[string]string{"net.ipv4.no_such_thing": "1"}}, "cannot set sysctl"},
		{"bad value", sandbox.Request{Net: true, Sysctls: map[string]string{"net.ipv4.ip_forward": "x"}}, "cannot set sysctl"},
		{"bad hostname", sandbox.Request{UTS: true, Hostname: strings.Repeat("x", 65)}, "cannot set hostname"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := sandbox.Pin(dir, tt.r); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}
