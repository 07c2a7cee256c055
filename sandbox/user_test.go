// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/sandbox"
)

func rootfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n# comment\napp:x:1000:1001:App:/home/app:/bin/sh\nbroken:x\nbad:x:many:1:::\n",
		"etc/group":  "root:x:0:\napp:x:1001:\nextra:x:50:root,app\nmore:x:51:app\nwheel:x:10:root\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func value(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }

func TestResolveUser(t *testing.T) {
	root := rootfs(t)
	strict := runtimeapi.SupplementalGroupsPolicy_Strict
	for _, tt := range []struct {
		name  string
		sec   *security
		image string
		want  sandbox.User
		err   string
	}{
		{"nothing", nil, "", sandbox.User{Additional: []uint32{0, 50, 10}, Home: "/root"}, ""},
		{"image name", nil, "app", sandbox.User{UID: 1000, GID: 1001, Additional: []uint32{1001, 50, 51}, Home: "/home/app"}, ""},
		{"image number", nil, "1000", sandbox.User{UID: 1000, GID: 1001, Additional: []uint32{1001, 50, 51}, Home: "/home/app"}, ""},
		{"image name and group", nil, "app:wheel", sandbox.User{UID: 1000, GID: 10, Additional: []uint32{10, 50, 51}, Home: "/home/app"}, ""},
		{"image numbers", nil, "77:78", sandbox.User{UID: 77, GID: 78, Additional: []uint32{78}, Home: "/"}, ""},
		{"image unknown user", nil, "nobody", sandbox.User{}, `user "nobody" is not in /etc/passwd`},
		{"image unknown group", nil, "app:nope", sandbox.User{}, `group "nope" is not in /etc/group`},
		{"runAsUser", &security{RunAsUser: value(1000)}, "77", sandbox.User{UID: 1000, GID: 1001, Additional: []uint32{1001, 50, 51}, Home: "/home/app"}, ""},
		{"runAsUser unknown", &security{RunAsUser: value(4242)}, "app", sandbox.User{UID: 4242, Additional: []uint32{0}, Home: "/"}, ""},
		{"runAsUser and group", &security{RunAsUser: value(0), RunAsGroup: value(5)}, "app", sandbox.User{GID: 5, Additional: []uint32{5, 50, 10}, Home: "/root"}, ""},
		{"runAsUsername", &security{RunAsUsername: "app"}, "", sandbox.User{UID: 1000, GID: 1001, Additional: []uint32{1001, 50, 51}, Home: "/home/app"}, ""},
		{"group alone", &security{RunAsGroup: value(5)}, "", sandbox.User{}, "user group 5 is specified without user"},
		{"supplemental", &security{RunAsUser: value(1000), SupplementalGroups: []int64{51, 2000}}, "", sandbox.User{UID: 1000, GID: 1001, Additional: []uint32{1001, 50, 51, 2000}, Home: "/home/app"}, ""},
		{"strict", &security{RunAsUser: value(1000), SupplementalGroups: []int64{2000}, SupplementalGroupsPolicy: strict}, "",
			sandbox.User{UID: 1000, GID: 1001, Additional: []uint32{1001, 2000}, Home: "/home/app"}, ""},
		{"bad entry", nil, "bad", sandbox.User{}, "bad numbers"},
		{"negative", &security{RunAsUser: value(-1)}, "", sandbox.User{}, "negative"},
		{"huge group", &security{SupplementalGroups: []int64{1 << 31}}, "", sandbox.User{}, "out of range"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := sandbox.ResolveUser(root, tt.sec, tt.image)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestResolveUserHostile: an image's /etc/passwd may be a link out, a FIFO
// that nobody writes to, a device, or without end.
func TestResolveUserHostile(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(outside, []byte("spy:x:7:7::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(string) error{
		"absolute link": func(f string) error { return os.Symlink(outside, f) },
		"relative link": func(f string) error { return os.Symlink("../../../../../../../.."+outside, f) },
		"magic link":    func(f string) error { return os.Symlink("/proc/self/root"+outside, f) },
		"fifo":          func(f string) error { return unix.Mkfifo(f, 0o644) },
		"device":        func(f string) error { return unix.Mknod(f, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) },
		"folder":        func(f string) error { return os.Mkdir(f, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := plant(filepath.Join(root, "etc/passwd")); err != nil {
				t.Fatal(err)
			}
			if u, err := sandbox.ResolveUser(root, nil, "spy"); err == nil {
				t.Errorf("found %+v", u)
			}
		})
	}
	root := rootfs(t)
	if err := os.Rename(filepath.Join(root, "etc/passwd"), filepath.Join(root, "users")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/users", filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if u, err := sandbox.ResolveUser(root, nil, "app"); err != nil || u.UID != 1000 {
		t.Errorf("a link inside: %+v, %v", u, err)
	}
}

func FuzzResolveUser(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\n", "root:x:0:\n", "root")
	f.Add("a:b:c\n::::\n", ":::\n", "a:b")
	dir := f.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, passwd, group, user string) {
		for name, text := range map[string]string{"passwd": passwd, "group": group} {
			if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		u, err := sandbox.ResolveUser(dir, nil, user)
		if err == nil && (len(u.Additional) == 0 || u.Additional[0] != u.GID || !strings.HasPrefix(u.Home, "/")) {
			t.Errorf("%+v", u)
		}
	})
}
