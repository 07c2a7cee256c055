// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func configMap(name string, optional bool, items ...corev1.KeyToPath) corev1.VolumeSource {
	return corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Items: items, Optional: &optional, DefaultMode: ptr(int32(0o644)),
	}}
}

func secret(name string, optional bool, items ...corev1.KeyToPath) corev1.VolumeSource {
	return corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, Items: items, Optional: &optional, DefaultMode: ptr(int32(0o400))}}
}

func TestConfigMapAndSecret(t *testing.T) {
	b := newBench(t)
	b.configMaps["c"] = &corev1.ConfigMap{Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"bin": {0xff}}}
	b.secrets["s"] = &corev1.Secret{Data: map[string][]byte{"user": []byte("me"), "key": []byte("k")}}
	for name, c := range map[string]struct {
		source corev1.VolumeSource
		want   []string
	}{
		"all":      {configMap("c", false), []string{"a 0644 0:0 1", "b 0644 0:0 2", "bin 0644 0:0 \xff"}},
		"items":    {configMap("c", false, corev1.KeyToPath{Key: "a", Path: "deep/er/x", Mode: ptr(int32(0o755))}), []string{"deep/er/x 0755 0:0 1"}},
		"absent":   {configMap("none", true), nil},
		"optional": {configMap("c", true, corev1.KeyToPath{Key: "none", Path: "x"}, corev1.KeyToPath{Key: "b", Path: "y"}), []string{"y 0644 0:0 2"}},
		"secret":   {secret("s", false), []string{"key 0400 0:0 k", "user 0400 0:0 me"}},
	} {
		t.Run(name, func(t *testing.T) {
			path, err := b.Mount(t.Context(), b.pod, corev1.Volume{Name: name, VolumeSource: c.source})
			if err != nil {
				t.Fatal(err)
			}
			b.sees(path, c.want...)
			var st unix.Statfs_t
			if err := unix.Statfs(path, &st); err != nil || c.source.Secret != nil && st.Type != unix.TMPFS_MAGIC {
				t.Errorf("a secret is on a disk: type %x, %v", st.Type, err)
			}
		})
	}
	const setUp = `MountVolume.SetUp failed for volume "v" : `
	for want, s := range map[string]corev1.VolumeSource{
		setUp + `configmap "none" not found`:                            configMap("none", false),
		setUp + `secret "none" not found`:                               secret("none", false),
		setUp + "configmap references non-existent config key: missing": configMap("c", false, corev1.KeyToPath{Key: "missing", Path: "x"}),
		setUp + "references non-existent secret key: missing":           secret("s", false, corev1.KeyToPath{Key: "missing", Path: "x"}),
		setUp + "invalid path: ../out":                                  configMap("c", false, corev1.KeyToPath{Key: "a", Path: "../out"}),
	} {
		if got := b.refused(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	// An API that does not answer is not an object that is not there.
	b.failure = errors.New("connection refused")
	if got := b.refused(configMap("none", true)); !strings.Contains(got, "connection refused") {
		t.Error(got)
	}
}

func TestGroupOwnsFiles(t *testing.T) {
	b := newBench(t)
	b.pod.Spec.SecurityContext.FSGroup = ptr(int64(3000))
	b.secrets["s"] = &corev1.Secret{Data: map[string][]byte{"k": []byte("v")}}
	dir := b.mount(secret("s", false, corev1.KeyToPath{Key: "k", Path: "d/k"}))
	b.sees(dir, "d/k 0440 0:3000 v")
	if info, err := os.Stat(dir + "/d"); err != nil || info.Mode() != os.ModeDir|os.ModeSetgid|0o755 {
		t.Errorf("folder: %v, %v", info, err)
	}
}

// TestUpdateIsOneStep: the layout is upstream's, files change together, names
// that are gone go, and nothing of the old remains.
func TestUpdateIsOneStep(t *testing.T) {
	b := newBench(t)
	b.configMaps["c"] = &corev1.ConfigMap{Data: map[string]string{"a": "1", "gone": "x"}}
	dir := b.mount(configMap("c", false))
	first, err := os.Readlink(dir + "/..data")
	if err != nil || !strings.HasPrefix(first, "..20") {
		t.Fatalf("..data leads to %q, %v", first, err)
	}
	if link, err := os.Readlink(dir + "/a"); err != nil || link != "..data/a" {
		t.Errorf("a leads to %q, %v", link, err)
	}
	b.mount(configMap("c", false))
	if again, err := os.Readlink(dir + "/..data"); err != nil || again != first {
		t.Errorf("nothing has changed, but ..data leads to %q, %v", again, err)
	}
	open, err := os.Open(dir + "/..data/a")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	b.configMaps["c"] = &corev1.ConfigMap{Data: map[string]string{"a": "2", "new": "y"}}
	b.mount(configMap("c", false))
	b.sees(dir, "a 0644 0:0 2", "new 0644 0:0 y")
	second, err := os.Readlink(dir + "/..data")
	if err != nil || second == first {
		t.Errorf("..data leads to %q, %v", second, err)
	}
	entries := names(t, dir)
	if !slices.Equal(entries, []string{"..data", second, "a", "new"}) && !slices.Equal(entries, []string{second, "..data", "a", "new"}) {
		t.Errorf("entries %v", entries)
	}
}

// TestKilledWhileWriting: what an earlier try left, at any of its steps, is
// mended by the next.
func TestKilledWhileWriting(t *testing.T) {
	b := newBench(t)
	b.configMaps["c"] = &corev1.ConfigMap{Data: map[string]string{"a": "1"}}
	dir := b.mount(configMap("c", false))
	current, err := os.Readlink(dir + "/..data")
	if err != nil {
		t.Fatal(err)
	}
	for name, leave := range map[string]func() error{
		"folder":    func() error { return os.MkdirAll(dir+"/..2026_01_01_00_00_00.1/half", 0o755) },
		"link":      func() error { return os.Symlink("..nowhere", dir+"/..data_tmp") },
		"no link":   func() error { return os.Remove(dir + "/a") },
		"old names": func() error { return os.Symlink("..data/old", dir+"/old") },
	} {
		if err := leave(); err != nil {
			t.Fatal(err)
		}
		b.configMaps["c"].Data["a"] += "1"
		if name == "no link" || name == "old names" {
			b.mount(configMap("c", false))
			if err := leave(); err != nil {
				t.Fatal(err)
			}
		}
		b.mount(configMap("c", false))
		b.sees(dir, "a 0644 0:0 "+b.configMaps["c"].Data["a"])
		if got := names(t, dir); len(got) != 3 {
			t.Errorf("%s: left %v (%s was first)", name, got, current)
		}
	}
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestDownwardAPI(t *testing.T) {
	b := newBench(t)
	b.pod.Labels = map[string]string{"b": `q"uote`, "a": "1"}
	b.pod.Annotations = map[string]string{"note": "two\nlines"}
	b.pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("10Mi")},
	}
	field := func(path, from string) corev1.DownwardAPIVolumeFile {
		return corev1.DownwardAPIVolumeFile{Path: path, FieldRef: &corev1.ObjectFieldSelector{FieldPath: from}}
	}
	amount := func(path, what, divisor string) corev1.DownwardAPIVolumeFile {
		return corev1.DownwardAPIVolumeFile{Path: path, ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "c", Resource: what, Divisor: resource.MustParse(divisor)}}
	}
	source := func(items ...corev1.DownwardAPIVolumeFile) corev1.VolumeSource {
		return corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: items, DefaultMode: ptr(int32(0o644))}}
	}
	dir := b.mount(source(
		field("annotations", "metadata.annotations"), amount("cpu", "requests.cpu", "0"), amount("cpu-limit", "limits.cpu", "1"), amount("cpu-milli", "requests.cpu", "1m"),
		field("label", "metadata.labels['a']"), field("labels", "metadata.labels"), amount("memory", "limits.memory", "1Mi"),
		amount("memory-ki", "limits.memory", "3Ki"), field("name", "metadata.name"), field("uid", "metadata.uid"),
	))
	b.sees(dir, `annotations 0644 0:0 note="two\nlines"`, "cpu 0644 0:0 1", "cpu-limit 0644 0:0 2", "cpu-milli 0644 0:0 250", "label 0644 0:0 1",
		"labels 0644 0:0 a=\"1\"\nb=\"q\\\"uote\"", "memory 0644 0:0 10", "memory-ki 0644 0:0 3414", "name 0644 0:0 p", "uid 0644 0:0 u-1")
	b.pod.Labels["a"] = "2"
	b.mount(source(field("label", "metadata.labels['a']")))
	b.sees(dir, "label 0644 0:0 2")
	for _, bad := range []corev1.DownwardAPIVolumeFile{field("x", "spec.nonsense"), amount("x", "limits", "1")} {
		if got := b.refused(source(bad)); !strings.Contains(got, "unsupported") {
			t.Error(got)
		}
	}
}

func projected(sources ...corev1.VolumeProjection) corev1.VolumeSource {
	return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources, DefaultMode: ptr(int32(0o640))}}
}

func TestProjected(t *testing.T) {
	b := newBench(t)
	b.configMaps["ca"] = &corev1.ConfigMap{Data: map[string]string{"ca.crt": "cert"}}
	b.secrets["s"] = &corev1.Secret{Data: map[string][]byte{"k": []byte("v")}}
	b.fetch = func(r *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
		r.Status.Token, r.Status.ExpirationTimestamp = "token for "+strings.Join(r.Spec.Audiences, ","), metav1.NewTime(time.Now().Add(time.Hour))
		return r, nil
	}
	source := projected(
		corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault", Path: "token"}},
		corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "ca"}}},
		corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Items: []corev1.KeyToPath{{Key: "k", Path: "s/k", Mode: ptr(int32(0o400))}}}},
		corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}, Optional: ptr(true)}},
		corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "ns", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
	)
	b.sees(b.mount(source), "ca.crt 0640 0:0 cert", "ns 0640 0:0 ns", "s/k 0400 0:0 v", "token 0640 0:0 token for vault")
	b.pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: ptr(int64(1000))}
	b.pod.UID = "u-2"
	t.Cleanup(func() {
		if err := b.Unmount("u-1"); err != nil {
			t.Error(err)
		}
	})
	if got := look(t, b.mount(source)); !slices.Contains(got, "token 0600 1000:0 token for vault") {
		t.Errorf("with one user: %q", got)
	}
	b.pod.UID, b.pod.Spec.SecurityContext.FSGroup = "u-3", ptr(int64(2000))
	t.Cleanup(func() {
		if err := b.Unmount("u-2"); err != nil {
			t.Error(err)
		}
	})
	if got := look(t, b.mount(source)); !slices.Contains(got, "token 0640 0:2000 token for vault") {
		t.Errorf("with a group: %q", got)
	}
}

// TestTokenIsReplaced: the same token for four fifths of its life, then a new
// one by itself; an API that is away does not take the old one.
func TestTokenIsReplaced(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := 0
		var away error
		o := &objects{fetch: func(r *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
			n++
			r.Status.Token, r.Status.ExpirationTimestamp = fmt.Sprint("token", n), metav1.NewTime(time.Now().Add(time.Hour))
			return r, away
		}}
		due := make(chan types.UID, 1)
		m := &Mounter{Root: root, Sources: o, Due: func(uid types.UID) { due <- uid }}
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}}
		p.Spec.SecurityContext = &corev1.PodSecurityContext{}
		get := func() string {
			t.Helper()
			f, err := m.token(t.Context(), p, &corev1.ServiceAccountTokenProjection{Path: "token"})
			if err != nil {
				return err.Error()
			}
			return string(f["token"].data)
		}
		begin := time.Now()
		if a, b := get(), get(); a != "token1" || b != "token1" {
			t.Errorf("tokens %s, %s", a, b)
		}
		if uid := <-due; uid != "u" || time.Since(begin) > 48*time.Minute || time.Since(begin) < 47*time.Minute {
			t.Errorf("%s was due after %v", uid, time.Since(begin))
		}
		away = errors.New("API is away")
		if got := get(); got != "token1" {
			t.Errorf("while the API is away: %s", got)
		}
		<-due
		away = nil
		if got := get(); got != "token3" {
			t.Errorf("after it came back: %s", got)
		}
		if err := m.Unmount("u"); err != nil {
			t.Fatal(err)
		}
		away = errors.New("API is away")
		if got := get(); got != "failed to fetch token: API is away" {
			t.Errorf("a new Pod: %s", got)
		}
		select {
		case <-due:
			t.Error("a Pod that is gone is still looked after")
		case <-time.After(2 * time.Hour):
		}
	})
}

// FuzzPublish: whatever keys a ConfigMap has, no file is written outside.
func FuzzPublish(f *testing.F) {
	f.Add("a", "b/c")
	f.Add("../x", "..")
	f.Add("/etc/passwd", "..data")
	f.Fuzz(func(t *testing.T, one, two string) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "volume")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = publish(dir, files{one: {data: []byte("1"), mode: 0o600}, two: {data: []byte("2"), mode: 0o600}}, nil) // may be refused
		if got := names(t, outer); len(got) != 1 {
			t.Fatalf("written outside: %v", got)
		}
	})
}
