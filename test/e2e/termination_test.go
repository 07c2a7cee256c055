// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
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

	"github.com/peapod/peapod/test/machine"
)

// TestGraceIsRecorded: S74, S78-S80, S91, S92. The object says how long, and
// kubectl says Terminating; what kubectl refuses.
func TestGraceIsRecorded(t *testing.T) {
	for _, x := range []struct {
		name string
		args []string
		want int64
	}{
		{"grace-default", nil, 30},
		{"grace-5", []string{"--grace-period=5"}, 5},
		{"grace-now", []string{"--now"}, 1},
		{"grace-0", []string{"--grace-period=0"}, 1},
	} {
		apply(t, x.name, "containers: [{name: c, image: "+witnessImage+", command: [witness, live, /dev/null]}]\n")
		before := await(t, x.name, "runs", ready)
		must(t, append([]string{"delete", "pod", x.name, "--wait=false"}, x.args...)...)
		p := getPod(t, x.name)
		if p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != x.want || p.Generation != before.Generation+1 {
			t.Fatalf("%s: grace %v, generation %d; want %d and %d", x.name, p.DeletionGracePeriodSeconds, p.Generation, x.want, before.Generation+1)
		}
		if left := time.Until(p.DeletionTimestamp.Time); left > time.Duration(x.want)*time.Second+time.Second {
			t.Errorf("%s: the time of death is %v away", x.name, left)
		}
	}
	if out := must(t, "get", "pod", "grace-default", "--no-headers"); !strings.Contains(out, "Terminating") {
		t.Errorf("get shows %s", out)
	}
	described := must(t, "describe", "pod", "grace-default")
	for _, want := range []string{"Terminating (lasts ", "Termination Grace Period:  30s"} {
		if !strings.Contains(described, want) {
			t.Errorf("describe has no %q:\n%s", want, described)
		}
	}
	if out, err := kubectl(t, "delete", "pod", "grace-default", "--force", "--grace-period=5"); err == nil || !strings.Contains(out, "--force and --grace-period greater than 0 cannot be specified together") {
		t.Errorf("--force with a grace: %v %s", err, out)
	}
}

// TestTermThenKill: S71-S73, S76, S81, S90. TERM at once, KILL when the grace
// is over, then the last word of the object, then its end. An open file on a
// volume holds up nothing.
func TestTermThenKill(t *testing.T) {
	w := testify(t, "killed", 3)
	p := getPod(t, "killed")
	seen, err := c.client.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=killed", ResourceVersion: p.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer seen.Stop()
	open, err := os.Open(filepath.Join(w.dir, "c"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	begin := moment(t)
	must(t, "delete", "pod", "killed", "--wait=false")
	var last *corev1.Pod
	for e := range seen.ResultChan() {
		now := e.Object.(*corev1.Pod)
		if e.Type == watch.Deleted {
			break
		}
		last = now
	}
	end := moment(t)
	if alive := processesOf(p.UID); len(alive) > 0 {
		t.Errorf("alive when the API said DELETED: %v", alive)
	}
	if last == nil || last.Status.Phase != corev1.PodFailed || last.Status.ContainerStatuses[0].State.Terminated == nil || last.Status.ContainerStatuses[0].State.Terminated.ExitCode != 137 {
		t.Errorf("the last word was %+v", last)
	}
	term := w.once(t, "c", "SIGTERM")
	between(t, "DELETE to TERM", begin, term, 0)
	between(t, "TERM to KILL", term, w.last(t, "c"), 3*time.Second)
	between(t, "KILL to DELETED", w.last(t, "c"), end, 0)
}

func processesOf(uid types.UID) (out []string) {
	for _, s := range machine.Belongings(c.dir, string(uid)) {
		if strings.HasPrefix(s, "process ") {
			out = append(out, s)
		}
	}
	return out
}

// TestShorten: S91 and the gap of the law: a second DELETE with less time is
// felt by a stop that is under way; one with more is not.
func TestShorten(t *testing.T) {
	w := testify(t, "shortened", 60)
	del(t, "shortened", 60)
	eventually(t, "TERM comes", func() bool { return w.has("c", "SIGTERM") })
	del(t, "shortened", 100)
	if g := *getPod(t, "shortened").DeletionGracePeriodSeconds; g != 60 {
		t.Errorf("a longer grace was taken: %d", g)
	}
	del(t, "shortened", 3)
	if g := *getPod(t, "shortened").DeletionGracePeriodSeconds; g != 3 {
		t.Errorf("a shorter grace was not taken: %d", g)
	}
	gone(t, "shortened")
	between(t, "TERM to KILL", w.once(t, "c", "SIGTERM"), w.last(t, "c"), 3*time.Second)
}

// TestForce: S92-S94. Gone from the API at once, TERM and 2 s on the node; the
// successor of the name shares nothing with the dying.
func TestForce(t *testing.T) {
	w := testify(t, "forced", 30)
	first := getPod(t, "forced")
	begin := moment(t)
	out := must(t, "delete", "pod", "forced", "--force")
	if !strings.Contains(out, "Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.") {
		t.Errorf("kubectl warns %q", out)
	}
	between(t, "the API's answer", begin, moment(t), 0)
	testify(t, "forced", 1)
	if second := getPod(t, "forced"); second.UID == first.UID || second.Status.PodIP == first.Status.PodIP {
		t.Errorf("the successor shares with the dying: %s %s", second.UID, second.Status.PodIP)
	}
	eventually(t, "nothing is left of the first", func() bool { return len(leftovers(t, first.UID)) == 0 })
	term := w.once(t, "c", "SIGTERM")
	between(t, "DELETE to TERM", begin, term, 0)
	between(t, "TERM to KILL", term, w.last(t, "c"), 2*time.Second)
}

// TestForceOfTheDying: S94 and the gap of the law. A Pod that is terminating is
// forced: its processes have two seconds from TERM, and not their old grace.
func TestForceOfTheDying(t *testing.T) {
	w := testify(t, "dying", 300)
	uid := getPod(t, "dying").UID
	del(t, "dying", 300)
	eventually(t, "TERM comes", func() bool { return w.has("c", "SIGTERM") })
	must(t, "delete", "pod", "dying", "--force")
	if _, err := kubectl(t, "get", "pod", "dying"); err == nil {
		t.Error("the object is still there")
	}
	eventually(t, "nothing is left", func() bool { return len(leftovers(t, uid)) == 0 })
	between(t, "TERM to KILL", w.once(t, "c", "SIGTERM"), w.last(t, "c"), 2*time.Second)
}

// TestPreStop: S82-S85. The hook comes before TERM and counts against the
// grace; when it takes it all, two seconds remain. A hook of one container
// delays its own TERM alone.
func TestPreStop(t *testing.T) {
	const note = `{exec: {command: [sh, -c, "read t rest < /proc/uptime; echo hook $t >> /w/hook; %s"]}}`
	over := testify(t, "hook-hangs", 3, container{name: "c", hook: fmt.Sprintf(note, "exec sleep 999")})
	within := testify(t, "hook-ends", 8, container{name: "c", hook: fmt.Sprintf(note, "sleep 2; echo done > /w/done"), program: "exec witness live $0 0"})
	two := testify(t, "hook-of-one", 8, container{name: "a", hook: "{sleep: {seconds: 3}}"}, container{name: "b"})
	fails := testify(t, "hook-fails", 2, container{name: "c", hook: "{exec: {command: [sh, -c, 'exit 4']}}", program: "exec witness live $0 0"})
	begin := moment(t)
	for _, w := range []*witness{over, within, two, fails} {
		must(t, "delete", "pod", w.name, "--wait=false")
	}
	for _, w := range []*witness{over, within, two, fails} {
		gone(t, w.name)
	}
	term := over.once(t, "c", "SIGTERM")
	between(t, "DELETE to TERM with a hook that hangs", begin, term, 3*time.Second)
	between(t, "TERM to KILL after a hook that hung", term, over.last(t, "c"), 2*time.Second)
	if !over.has("hook", "hook") {
		t.Error("the hook did not run")
	}
	between(t, "DELETE to TERM with a hook of 2 s", begin, within.once(t, "c", "SIGTERM"), 2*time.Second)
	if within.text("done") != "done\n" {
		t.Error("the hook did not end by itself")
	}
	a, b := two.once(t, "a", "SIGTERM"), two.once(t, "b", "SIGTERM")
	between(t, "DELETE to TERM of the one without a hook", begin, b, 0)
	between(t, "TERM of the one to TERM of the other", b, a, 3*time.Second-500*time.Millisecond)
	between(t, "DELETE to KILL of the one with a hook", begin, two.last(t, "a"), 8*time.Second)
	between(t, "DELETE to TERM with a hook that fails", begin, fails.once(t, "c", "SIGTERM"), 0)
	if out := must(t, "get", "events", "--field-selector", "reason=FailedPreStopHook,involvedObject.name=hook-fails", "-o", "jsonpath={.items[*].message}"); out != "PreStopHook failed" {
		t.Errorf("the event of a failed hook says %q", out)
	}
}

// TestWhoGetsTheSignal: S75, S9. The main process alone, and the signal that
// the image asks for.
func TestWhoGetsTheSignal(t *testing.T) {
	child := testify(t, "signal-child", 2, container{name: "c", program: `witness live /w/child & exec witness live $0`})
	eventually(t, "the child lives", func() bool { return child.has("child", "start") })
	file := filepath.Join(t.TempDir(), "quit.tar")
	const ref = "peapod.dev/quits:1"
	if err := packImage(file, ref, ispecs.ImageConfig{StopSignal: "SIGQUIT"}, map[string]string{"/bin/witness": filepath.Join(c.home, "witness")}); err != nil {
		t.Fatal(err)
	}
	if out, err := c.peapod("image", "import", file); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	quit := &witness{"signal-quit", t.TempDir()}
	apply(t, quit.name, fmt.Sprintf("volumes: [{name: w, hostPath: {path: %s}}]\ncontainers: [{name: c, image: %s, command: [witness, live, /w/c, '0'], volumeMounts: [{name: w, mountPath: /w}]}]\n", quit.dir, ref))
	await(t, quit.name, "runs", ready)
	eventually(t, "the witness lives", func() bool { return quit.has("c", "start") })
	for _, name := range []string{child.name, quit.name} {
		must(t, "delete", "pod", name, "--wait=false")
	}
	gone(t, child.name)
	gone(t, quit.name)
	child.once(t, "c", "SIGTERM")
	if child.has("child", "SIGTERM") {
		t.Error("the child got the signal")
	}
	quit.once(t, "c", "SIGQUIT")
	if quit.has("c", "SIGTERM") {
		t.Error("TERM came beside the image's signal")
	}
}

// TestEverythingIsKilled: S89. Children that left their parents, and the
// processes of exec sessions, die with the Pod.
func TestEverythingIsKilled(t *testing.T) {
	w := testify(t, "tree", 2, container{name: "c", program: `for i in 1 2 3; do (setsid sh -c "witness live /w/orphan$i &") & done; exec witness live $0`})
	uid := getPod(t, "tree").UID
	session := c.command(t.Context(), "exec", "tree", "--", "witness", "live", "/w/session")
	if err := session.Start(); err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{"orphan1", "orphan2", "orphan3", "session"} {
		eventually(t, who+" lives", func() bool { return w.has(who, "start") })
	}
	if n := len(processesOf(uid)); n < 5 {
		t.Fatalf("%d processes in the Pod's cgroups", n)
	}
	must(t, "delete", "pod", "tree", "--wait=false")
	gone(t, "tree")
	if alive := processesOf(uid); len(alive) > 0 {
		t.Errorf("still alive: %v", alive)
	}
	if err := session.Wait(); err == nil {
		t.Error("the exec session ended well")
	}
}

// TestKillInTermination: S77. The program dies in the middle of a termination;
// the next one calls the hook and sends TERM again, with the full grace.
func TestKillInTermination(t *testing.T) {
	w := testify(t, "retried", 4, container{name: "c", hook: `{exec: {command: [sh, -c, "echo hook >> /w/hook"]}}`})
	del(t, "retried", 4)
	eventually(t, "TERM comes", func() bool { return w.has("c", "SIGTERM") })
	c.stop(syscall.SIGKILL)
	again := moment(t)
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	gone(t, "retried")
	terms := w.at(t, "c", "SIGTERM")
	if len(terms) != 2 || w.text("hook") != "hook\nhook\n" {
		t.Fatalf("TERM at %v, hooks %q; want two of each", terms, w.text("hook"))
	}
	between(t, "the new start to TERM", again, terms[1], 0)
	// The hook's own time is part of the grace: it is counted from the start.
	between(t, "the new start to KILL", again, w.last(t, "c"), 4*time.Second)
}

// TestForceWhileDown: S94, third variant. A Pod is forced while its node is
// down; when the node is back it is given TERM and two seconds.
func TestForceWhileDown(t *testing.T) {
	w := testify(t, "unseen", 30)
	uid := getPod(t, "unseen").UID
	// The node agent and the API are one program: the object goes at the last
	// moment, and the program with it.
	del(t, "unseen", 0)
	c.stop(syscall.SIGKILL)
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left", func() bool { return len(leftovers(t, uid)) == 0 })
	terms := w.at(t, "c", "SIGTERM")
	if len(terms) == 0 {
		t.Fatal("TERM did not come")
	}
	between(t, "TERM to KILL", terms[len(terms)-1], w.last(t, "c"), 2*time.Second)
}
