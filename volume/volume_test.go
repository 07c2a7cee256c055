// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/linux"
)

// objects are what the tests' API holds.
type objects struct {
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
	claim      *corev1.PersistentVolumeClaim
	volume     *corev1.PersistentVolume
	bundles    []*certificatesv1.ClusterTrustBundle
	failure    error // what the API says to everything
	fetch      func(r *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
}

func (o *objects) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if c := o.configMaps[name]; c != nil || o.failure != nil {
		return c, o.failure
	}
	return nil, apierrors.NewNotFound(corev1.Resource("configmap"), name)
}

func (o *objects) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if s := o.secrets[name]; s != nil || o.failure != nil {
		return s, o.failure
	}
	return nil, apierrors.NewNotFound(corev1.Resource("secret"), name)
}

func (o *objects) Claim(_ context.Context, _, name string) (*corev1.PersistentVolumeClaim, error) {
	if o.claim != nil && o.claim.Name == name {
		return o.claim, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("persistentvolumeclaim"), name)
}

func (o *objects) PersistentVolume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	if o.volume != nil && o.volume.Name == name {
		return o.volume, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("persistentvolume"), name)
}

func (o *objects) ClusterTrustBundle(_ context.Context, name string) (*certificatesv1.ClusterTrustBundle, error) {
	for _, b := range o.bundles {
		if b.Name == name {
			return b, nil
		}
	}
	return nil, apierrors.NewNotFound(certificatesv1.Resource("clustertrustbundle"), name)
}

func (o *objects) ClusterTrustBundles(_ context.Context, signer string) (out []*certificatesv1.ClusterTrustBundle, _ error) {
	for _, b := range o.bundles {
		if b.Spec.SignerName == signer {
			out = append(out, b)
		}
	}
	return out, o.failure
}

func (o *objects) Token(_ context.Context, _, _ string, r *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	return o.fetch(r)
}

// bench is a node's volumes in a folder of the test's.
type bench struct {
	*Mounter
	*objects
	t   *testing.T
	pod *corev1.Pod
}

func newBench(t *testing.T) *bench {
	t.Helper()
	o := &objects{configMaps: map[string]*corev1.ConfigMap{}, secrets: map[string]*corev1.Secret{}}
	b := &bench{Mounter: &Mounter{Root: t.TempDir(), Sources: o, Allocatable: func() corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi"), corev1.ResourceCPU: resource.MustParse("2")}
	}}, objects: o, t: t}
	b.pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u-1"}}
	b.pod.Spec.SecurityContext = &corev1.PodSecurityContext{}
	b.pod.Spec.Containers = []corev1.Container{{Name: "c"}}
	t.Cleanup(func() {
		for range 2 { // it may be repeated
			if err := b.Unmount(b.pod.UID); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Lstat(b.PodDir(b.pod.UID)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the Pod's folder is left: %v", err)
		}
		if left, err := linux.MountsBelow(b.Root); err != nil || len(left) > 0 {
			t.Errorf("mounts left: %v, %v", left, err)
		}
	})
	return b
}

func (b *bench) mount(s corev1.VolumeSource) string {
	b.t.Helper()
	path, err := b.Mount(b.t.Context(), b.pod, corev1.Volume{Name: "v", VolumeSource: s})
	if err != nil {
		b.t.Fatal(err)
	}
	return path
}

func (b *bench) refused(s corev1.VolumeSource) string {
	b.t.Helper()
	_, err := b.Mount(b.t.Context(), b.pod, corev1.Volume{Name: "v", VolumeSource: s})
	if err == nil {
		b.t.Fatal("volume was made")
	}
	return err.Error()
}

// look describes what a container sees in a volume: mode, group and content of
// each file, without the folders behind ..data.
func look(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		top, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			data, err := os.ReadFile(path)
			st := info.Sys().(*syscall.Stat_t)
			out = append(out, fmt.Sprintf("%s %04o %d:%d %s", filepath.Join(e.Name(), strings.TrimPrefix(path, top)), info.Mode().Perm(), st.Uid, st.Gid, data))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func (b *bench) sees(dir string, want ...string) {
	b.t.Helper()
	if got := look(b.t, dir); !slices.Equal(got, want) {
		b.t.Errorf("volume has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func ptr[T any](v T) *T { return &v }

func TestEmptyDir(t *testing.T) {
	b := newBench(t)
	source := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
	dir := b.mount(source)
	if want := filepath.Join(b.Root, "pods/u-1/volumes/kubernetes.io~empty-dir/v"); dir != want {
		t.Errorf("path %s, want %s", dir, want)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode() != fs.ModeDir|0o777 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(dir+"/kept", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.mount(source)
	b.sees(dir, "kept 0600 0:0 x")
	b.pod.Spec.SecurityContext.FSGroup = ptr(int64(2000))
	b.mount(source)
	b.sees(dir, "kept 0660 0:2000 x")
	if info, err := os.Stat(dir); err != nil || info.Mode() != fs.ModeDir|fs.ModeSetgid|0o777 || info.Sys().(*syscall.Stat_t).Gid != 2000 {
		t.Errorf("with fsGroup: %v, %v", info, err)
	}
}

func TestEmptyDirInMemory(t *testing.T) {
	for name, c := range map[string]struct {
		limit, size string
		want        int64
	}{
		"node":           {"", "", 64 << 20},
		"volume":         {"", "1Mi", 1 << 20},
		"pod":            {"8Mi", "", 8 << 20},
		"pod and volume": {"8Mi", "16Mi", 8 << 20},
		"more than node": {"", "1Gi", 64 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			e := &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}
			if c.size != "" {
				e.SizeLimit = ptr(resource.MustParse(c.size))
			}
			if c.limit != "" {
				b.pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(c.limit)}
			}
			dir := b.mount(corev1.VolumeSource{EmptyDir: e})
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				t.Fatal(err)
			}
			if got := int64(st.Blocks) * st.Bsize; st.Type != unix.TMPFS_MAGIC || got != c.want {
				t.Errorf("type %x of %d bytes, want %d", st.Type, got, c.want)
			}
			if st.Flags&unix.MS_NOEXEC != 0 {
				t.Error("programs in it cannot be run")
			}
			b.mount(corev1.VolumeSource{EmptyDir: e}) // not a second mount
		})
	}
}

func TestHostPath(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	file, socket, link := dir+"/file", dir+"/socket", dir+"/link"
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	missing := dir + "/missing"
	const check = `MountVolume.SetUp failed for volume "v" : hostPath type check failed`
	for _, c := range []struct {
		kind       corev1.HostPathType
		path, want string
	}{
		{"", missing, ""},
		{corev1.HostPathDirectory, dir, ""},
		{corev1.HostPathFile, file, ""},
		{corev1.HostPathFile, link, ""},
		{corev1.HostPathSocket, socket, ""},
		{corev1.HostPathCharDev, "/dev/null", ""},
		{corev1.HostPathDirectory, file, check + ": " + file + " is not a directory, it's a File"},
		{corev1.HostPathDirectoryOrCreate, file, check + ": " + file + " is not a directory, it's a File"},
		{corev1.HostPathFile, dir, check + ": " + dir + " is not a file, it's a Directory"},
		{corev1.HostPathFileOrCreate, "/dev/null", check + ": /dev/null is not a file, it's a CharDevice"},
		{corev1.HostPathSocket, file, check + ": " + file + " is not a socket file, it's a File"},
		{corev1.HostPathCharDev, socket, check + ": " + socket + " is not a character device, it's a Socket"},
		{corev1.HostPathBlockDev, "/dev/null", check + ": /dev/null is not a block device, it's a CharDevice"},
		{corev1.HostPathDirectory, missing, check + ", " + missing + ` is not a directory, unable to determine its type: path "` + missing + `" does not exist`},
		{"Nonsense", dir, `MountVolume.SetUp failed for volume "v" : Nonsense is an invalid volume type`},
		{corev1.HostPathDirectoryOrCreate, dir + "/new/folder", ""},
		{corev1.HostPathFileOrCreate, dir + "/new/file", ""},
	} {
		s := corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: c.path, Type: &c.kind}}
		if c.want != "" {
			if got := b.refused(s); got != c.want {
				t.Errorf("%s %s: %q, want %q", c.kind, c.path, got, c.want)
			}
		} else if got := b.mount(s); got != c.path {
			t.Errorf("%s %s: path %s", c.kind, c.path, got)
		}
	}
	for path, mode := range map[string]fs.FileMode{dir + "/new/folder": fs.ModeDir | 0o755, dir + "/new/file": 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

func TestUnsupported(t *testing.T) {
	b := newBench(t)
	got := b.refused(corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}})
	if want := `MountVolume.SetUp failed for volume "v" : no volume plugin matched name: kubernetes.io/nfs`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestUnmountFollowsNoLink: what a Pod put into its folder leads nowhere.
func TestUnmountFollowsNoLink(t *testing.T) {
	b := newBench(t)
	outside := t.TempDir()
	if err := os.WriteFile(outside+"/precious", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := b.mount(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
	if err := os.Symlink(outside, dir+"/trap"); err != nil {
		t.Fatal(err)
	}
	memory := b.mount(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}})
	busy, err := os.Create(memory + "/busy")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	if err := b.Unmount(b.pod.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(outside + "/precious"); err != nil {
		t.Error(err)
	}
}
