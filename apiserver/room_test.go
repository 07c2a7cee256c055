// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fill writes objects until one is refused, and says why.
func (s *flagged) fill(t *testing.T, at int) (made int, refused error) {
	t.Helper()
	for ; made < at; made++ {
		big := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "big-"}, Data: map[string]string{"k": strings.Repeat("x", 500<<10)}}
		if _, err := s.CoreV1().ConfigMaps("default").Create(t.Context(), big, metav1.CreateOptions{}); err != nil {
			return made, err
		}
	}
	t.Fatalf("%d objects of 500 KiB fit", made)
	return made, nil
}

// refuses checks that nothing is written, with the words, and that all is read.
func (s *flagged) refuses(t *testing.T, err error, made int, words string) {
	t.Helper()
	if !strings.Contains(err.Error(), words) {
		t.Errorf("refused with %v, want %s", err, words)
	}
	if _, err := s.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("what is there already: %v", err)
	}
	got, err := s.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	big := 0
	for _, m := range got.Items {
		if strings.HasPrefix(m.Name, "big-") {
			big++
		}
	}
	if big != made {
		t.Errorf("%d of %d objects are read", big, made)
	}
}

func (s *flagged) clear(t *testing.T) {
	t.Helper()
	all, err := s.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all.Items {
		if err := s.CoreV1().ConfigMaps("default").Delete(t.Context(), m.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatalf("a delete: %v", err)
		}
	}
}

// A database that has reached its quota is read, refuses writes with what to
// do, lets delete, and writes again when that has made room: nobody has to
// compact, defragment or disarm anything, nor start again.
func TestTheQuotaIsReached(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir, "--quota-backend-bytes=16777216")
	made, err := s.fill(t, 40)
	s.refuses(t, err, made, "cannot write: the database of etcd has reached its quota of 16 MiB; delete objects, and writes go on, or start with a larger --quota-backend-bytes")
	s.end(t)
	// It is still full after a restart.
	s = serve(t, dir, "--quota-backend-bytes=16777216")
	more, err := s.fill(t, 40)
	s.refuses(t, err, made+more, "has reached its quota")
	s.clear(t)
	s.end(t)
	s = serve(t, dir, "--quota-backend-bytes=16777216") // as after the pause in which no more room is looked for
	if again, err := s.fill(t, 40); again < made/2 {
		t.Errorf("%d objects fit, %d did at first: %v", again, made, err)
	}
	s.end(t)
}

// History alone never fills a database: it makes room for writes.
func TestHistoryMakesRoom(t *testing.T) {
	s := serve(t, t.TempDir(), "--quota-backend-bytes=16777216")
	m, err := s.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "one"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		m.Data = map[string]string{"k": strings.Repeat(fmt.Sprint(i%10), 500<<10)}
		if m, err = s.CoreV1().ConfigMaps("default").Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
			t.Fatalf("update %d: %v", i, err)
		}
	}
	s.end(t)
}

// A disk that is full is not written to, and the server goes on.
func TestTheDiskIsFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=420m,mode=0700"); err != nil {
		t.Skipf("cannot mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := serve(t, dir)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(fs.Bavail)*fs.Bsize-100<<20); err != nil {
		t.Fatal(err)
	}
	made, err := s.fill(t, 10)
	s.refuses(t, err, made, "cannot write: the disk of "+dir+"/etcd has ")
	s.refuses(t, err, made, "MiB left, and 128 are kept free; make room on it, and writes go on")
	s.clear(t)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CoreV1().ConfigMaps("default").Create(context.Background(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "again"}}, metav1.CreateOptions{}); err != nil {
		t.Errorf("with room again: %v", err)
	}
	s.end(t)
}
