// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/test/machine"
)

func listed(name, uid, writes string) metav1.PartialObjectMetadata {
	return metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(uid), Annotations: map[string]string{counter: writes}}}
}

// TestLedger: what was acknowledged and is not so is found, and what may still
// be so or otherwise is not.
func TestLedger(t *testing.T) {
	there := entry{kind: pods, name: "p", uid: "1", standing: present, writes: 2, attempted: 3}
	ended, asked, changed := there, there, there
	ended.standing, asked.standing = gone, unsure
	changed.turn = 1
	for name, c := range map[string]struct {
		before, after entry
		list          []metav1.PartialObjectMetadata
		want          string
	}{
		"as acknowledged":          {there, there, []metav1.PartialObjectMetadata{listed("p", "1", "2")}, ""},
		"a write was not answered": {there, there, []metav1.PartialObjectMetadata{listed("p", "1", "3")}, ""},
		"a write is lost":          {there, there, []metav1.PartialObjectMetadata{listed("p", "1", "1")}, "2 writes were acknowledged, it has 1"},
		"a write too many":         {there, there, []metav1.PartialObjectMetadata{listed("p", "1", "4")}, "3 writes were sent, it has 4"},
		"lost":                     {there, there, nil, "it was acknowledged, and is not there"},
		"another":                  {there, there, []metav1.PartialObjectMetadata{listed("p", "2", "0")}, "acknowledged as 1, it is another one: 2"},
		"changed meanwhile":        {there, changed, nil, ""},
		"asked to go":              {asked, asked, nil, ""},
		"gone":                     {ended, ended, []metav1.PartialObjectMetadata{listed("p", "2", "0")}, ""},
		"back":                     {ended, ended, []metav1.PartialObjectMetadata{listed("p", "1", "2")}, "it has ended, and is there again"},
	} {
		got := strings.Join(compare([]entry{c.before}, []entry{c.after}, c.list), "\n")
		want := c.want
		if want != "" {
			want = "pods p: " + want
		}
		if got != want {
			t.Errorf("%s: %q, not %q", name, got, want)
		}
	}
}

func TestUntrue(t *testing.T) {
	pod := func(state corev1.ContainerState) []corev1.Pod {
		return []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", UID: "u"}, Status: corev1.PodStatus{
			ContainerStatuses: []corev1.ContainerStatus{{Name: "c", ContainerID: "peapod://x", State: state}}}}}
	}
	runs := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	lives := []machine.Member{{Pid: 1, UID: "u", Container: "x"}}
	for name, c := range map[string]struct {
		list    []corev1.Pod
		members []machine.Member
		want    []string
	}{
		"runs":             {pod(runs), lives, nil},
		"ended":            {pod(ended), nil, nil},
		"runs by the API":  {pod(runs), nil, []string{"container c of pod n/p (u), x, runs by the API, and has no process"}},
		"ended by the API": {pod(ended), lives, []string{"container c of pod n/p (u), x, does not run by the API, and has a process"}},
		"unknown":          {nil, lives, []string{"a process of pod u lives, which the API does not have"}},
	} {
		if got := untrue(c.list, c.members); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, not %q", name, got, c.want)
		}
	}
}

// TestSuspect: what is untrue is told when it stays so, and a fault in between
// gives it its time anew.
func TestSuspect(t *testing.T) {
	w := &weather{}
	x := newTruth(&node{}, w, nil)
	begin := time.Now()
	at := func(d time.Duration) []string { return x.suspect([]string{"s"}, begin.Add(d)) }
	if got := slices.Concat(at(0), at(newsTime)); len(got) != 0 {
		t.Errorf("told at once: %q", got)
	}
	if got := at(newsTime + 1); !slices.Equal(got, []string{"s"}) {
		t.Errorf("not told: %q", got)
	}
	w.trouble()()
	if got := at(newsTime + 2); len(got) != 0 {
		t.Errorf("told after a fault: %q", got)
	}
}

func TestDoubled(t *testing.T) {
	x := newTruth(&node{}, &weather{}, nil)
	x.names = map[string]named{"a": {"1", "n/p", "c"}, "b": {"1", "n/p", "c"}, "d": {"1", "n/p", "d"}, "e": {"2", "n/p", "c"}}
	members := func(ids ...string) (out []machine.Member) {
		for i, id := range ids {
			out = append(out, machine.Member{Pid: i, Container: id})
		}
		return out
	}
	for ids, want := range map[string]int{"a a": 0, "a d": 0, "a b": 1, "a e": 1, "a unknown": 0} {
		if got := x.doubled(members(strings.Fields(ids)...)); len(got) != want {
			t.Errorf("%s: %q, not %d", ids, got, want)
		}
	}
	x.pardon("n/p")
	if got := x.doubled(members("a", "e")); len(got) != 0 {
		t.Errorf("of a name that was forced: %q", got)
	}
}

func TestMemory(t *testing.T) {
	begin := time.Now()
	row := func(values ...float64) (out []sample) {
		for i, v := range values {
			out = append(out, sample{at: begin.Add(time.Duration(i) * time.Minute), pid: 1, heap: v})
		}
		return out
	}
	heap := func(s sample) float64 { return s.heap }
	for _, c := range []struct {
		row   []sample
		slope float64
		leaks bool
	}{
		{row(10, 10, 10, 10), 0, false},
		{row(10, 12, 14, 16), 120, true},
		{row(10, 12, 11, 16), 102, false},     // once it fell
		{row(10, 10.1, 10.2, 10.3), 6, false}, // not by much
		{row(10, 20, 30), 600, false},         // too few
		{row(10), 0, false},
	} {
		if got := slope(c.row, heap); math.Abs(got-c.slope) > 1e-6 {
			t.Errorf("slope: %v, not %v", got, c.slope)
		}
		if got := leaks(c.row, heap, 0.25); got != c.leaks {
			t.Errorf("leaks: %v, not %v", got, c.leaks)
		}
	}
	other := sample{pid: 2}
	if got := sampleLives(append(row(1, 2), other, other, other)); len(got) != 2 || len(got[0]) != 2 || len(got[1]) != 3 {
		t.Errorf("cut wrongly: %v", got)
	}
}

func TestFirstGap(t *testing.T) {
	for log, want := range map[string]string{"": "it is empty", "0\n1\n2\n": "", "0\n2\n": `"2\n" instead of 1`, "1\n": `"1\n" instead of 0`} {
		if got := firstGap(log); got != want {
			t.Errorf("%q: %q, not %q", log, got, want)
		}
	}
}

// TestProxy: bytes pass but while the wire is frozen, and a cut is an end.
func TestProxy(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	p, err := newProxy(server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	c, err := net.Dial("tcp", p.address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var got string
	echo := func() error {
		_, err := fmt.Fscan(c, &got)
		return err
	}
	fmt.Fprintln(c, "whole")
	if err := echo(); err != nil || got != "whole" {
		t.Fatalf("%q, %v", got, err)
	}
	p.freeze()
	fmt.Fprintln(c, "frozen")
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if err := echo(); err == nil {
		t.Errorf("%q came through a frozen wire", got)
	}
	c.SetReadDeadline(time.Time{})
	p.thaw()
	if err := echo(); err != nil || got != "frozen" {
		t.Errorf("after the thaw: %q, %v", got, err)
	}
	p.cut()
	if err := echo(); err == nil {
		t.Errorf("%q came through a cut wire", got)
	}
}

// TestOdd: what stays or lacks is told, once.
func TestOdd(t *testing.T) {
	x := &soak{}
	if got := x.odd([]string{"cgroup /x", "cgroup /x/pod1"}); !slices.Equal(got, []string{"cgroup /x/pod1"}) {
		t.Errorf("before the first storm: %q", got)
	}
	x.baseline = []string{"a", "b"}
	got := x.odd([]string{"a", "c"})
	if !slices.Equal(got, []string{"+ c", "- b"}) {
		t.Errorf("after it: %q", got)
	}
	x.known = got
	if got := x.odd([]string{"a", "c"}); len(got) != 0 {
		t.Errorf("told twice: %q", got)
	}
}
