// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/test/machine"
)

var secondNode sync.Mutex

// second is a node beside the shared one, for tests that break it. It is taken
// down at the end, and must leave nothing. There is one at a time.
func second(t *testing.T, prepare func(dir string)) *cluster {
	t.Helper()
	secondNode.Lock()
	t.Cleanup(secondNode.Unlock)
	return apart(t, prepare, "--listen", "127.0.0.1:25443", "--node-listen", ":25250", "--node-name", "n2", "--pod-cidr", "10.215.0.0/20", "--service-cidr", "10.225.0.0/16")
}

// apart is a node of a test's own, with ports and ranges of its own.
func apart(t *testing.T, prepare func(dir string), flags ...string) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "pea")
	if err != nil {
		t.Fatal(err)
	}
	x, err := newCluster(dir, flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(x.home, "up.log"))
			t.Logf("the end of its log:\n%s", log[max(0, len(log)-6000):])
		}
		if err := x.down(); err != nil {
			t.Error(err)
		}
	})
	if prepare != nil {
		prepare(x.dir)
	}
	if out, err := x.peapod("image", "import", c.home+"/examples.tar"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if err := x.start(); err != nil {
		t.Fatal(err)
	}
	return x
}

const (
	chaosRounds  = 200
	chaosWorkers = 6
	chaosTime    = 6 * time.Minute
	keepEvery    = 20 // rounds whose Pods stay until the storm is over
)

// chaos is one run of the test: its node, and what may be killed when.
type chaos struct {
	*cluster
	t      *testing.T
	ctx    context.Context
	client *kubernetes.Clientset // finds the API again after each start

	mu     sync.Mutex // guards the random numbers
	random *rand.Rand
}

func (x *chaos) below(n int) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.random.IntN(n)
}

// pause lets some time pass, or none if the test is over.
func (x *chaos) pause(d time.Duration) {
	clock := time.NewTimer(d)
	defer clock.Stop()
	select {
	case <-clock.C:
	case <-x.ctx.Done():
	}
}

// TestChaos: M4, M7 and the fourth point. 200 Pods come and go while
// the program is killed again and again; then the machine is as it was.
func TestChaos(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("PEAPOD_CHAOS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("PEAPOD_CHAOS_SEED=%d", seed)
	ctx, cancel := context.WithTimeout(t.Context(), chaosTime)
	defer cancel()
	x := &chaos{cluster: second(t, nil), t: t, ctx: ctx, random: rand.New(rand.NewPCG(seed, 1))}
	var err error
	if x.client, err = kubernetes.NewForConfig(x.config); err != nil {
		t.Fatal(err)
	}
	x.make("first", 0) // makes what stays, such as the parents of cgroups
	x.outlive("first")
	before := x.settled(nil)

	rounds := make(chan int)
	var workers sync.WaitGroup
	for range chaosWorkers {
		workers.Go(func() {
			for i := range rounds {
				x.round(i)
			}
		})
	}
	stop, killed := make(chan struct{}), make(chan int)
	go func() { killed <- x.kill(stop) }()
	for i := range chaosRounds {
		select {
		case rounds <- i:
		case <-ctx.Done():
			t.Errorf("only %d rounds within %v", i, chaosTime)
		}
		if ctx.Err() != nil {
			break
		}
	}
	close(rounds)
	workers.Wait()
	close(stop)
	t.Logf("the program was killed %d times", <-killed)
	for i := 0; i < chaosRounds; i += keepEvery {
		x.outlive(chaosName(i))
	}
	if !t.Failed() {
		x.settled(before)
	}
}

// kill ends the program at random moments until stop, and starts it again.
func (x *chaos) kill(stop <-chan struct{}) (times int) {
	for {
		select {
		case <-stop:
			return times
		case <-x.ctx.Done():
			return times
		case <-time.After(time.Duration(x.below(1+x.below(1500))) * time.Millisecond):
		}
		x.stop(syscall.SIGKILL)
		times++
		if err := x.start(); err != nil {
			x.t.Errorf("after kill %d: %v", times, err)
			return times
		}
	}
}

func chaosName(i int) string { return fmt.Sprintf("chaos-%03d", i) }

// round is the life of one Pod, with its end at any moment. Some are kept.
func (x *chaos) round(i int) {
	name := chaosName(i)
	uid := x.make(name, i)
	x.pause(time.Duration(x.below(1+x.below(1500))) * time.Millisecond)
	if i%keepEvery != 0 {
		x.end(name, uid)
	}
}

func (x *chaos) make(name string, i int) (uid string) {
	pods := x.client.CoreV1().Pods("default")
	x.insist(name, "create", func() error {
		made, err := pods.Create(x.ctx, chaosPod(name, i), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // the answer was lost
			made, err = pods.Get(x.ctx, name, metav1.GetOptions{})
		}
		if err == nil {
			uid = string(made.UID)
		}
		return err
	})
	return uid
}

// end deletes a Pod and waits until it is gone, with all its processes unless
// it was forced.
func (x *chaos) end(name, uid string) {
	pods := x.client.CoreV1().Pods("default")
	grace := int64(x.below(3))
	x.insist(name, "delete", func() error {
		err := pods.Delete(x.ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	x.insist(name, "end", func() error {
		now, err := pods.Get(x.ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it is still there: %s, %v", now.Status.Phase, now.DeletionTimestamp)
		}
		return err
	})
	if grace > 0 && uid != "" {
		for _, s := range machine.Processes(x.dir) {
			if strings.Contains(s, uid) {
				x.t.Errorf("%s is gone from the API and lives: %s", name, s)
			}
		}
	}
}

// outlive: a Pod that was made in the storm runs once it is over.
func (x *chaos) outlive(name string) {
	x.insist(name, "run", func() error {
		now, err := x.client.CoreV1().Pods("default").Get(x.ctx, name, metav1.GetOptions{})
		if err == nil && now.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("it is %s: %+v", now.Status.Phase, now.Status.ContainerStatuses)
		}
		return err
	})
	x.end(name, "")
}

// chaosPod has a bit of everything that leaves traces on a machine.
func chaosPod(name string, i int) *corev1.Pod {
	mount := []corev1.VolumeMount{{Name: "d", MountPath: "/d"}, {Name: "m", MountPath: "/m"}}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.TerminationGracePeriodSeconds = ptr.To(int64(1))
	p.Spec.Volumes = []corev1.Volume{
		{Name: "d", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "m", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
	}
	p.Spec.ShareProcessNamespace = ptr.To(i%5 == 1)
	p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: image, Command: []string{"touch", "/d/f"}, VolumeMounts: mount}}
	p.Spec.Containers = []corev1.Container{
		{Name: "a", Image: image, Command: []string{"sh", "-c", "trap 'exit 0' TERM; (setsid sleep 1000 &); while :; do usleep 50000; done"}, VolumeMounts: mount},
		{Name: "b", Image: image, Command: []string{"sh", "-c", "[ $(($$ % 2)) = 0 ] || usleep 100000; exit 3"}, VolumeMounts: mount},
	}
	if i%3 == 0 {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: int32(26000 + i)}}
	}
	if i%4 == 0 {
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"usleep", "200000"}}}}
	}
	if i%7 == 0 {
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}}, PeriodSeconds: 1}
	}
	return p
}

// insist tries again until it succeeds, as a client does whose server is away.
func (x *chaos) insist(name, what string, f func() error) {
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end) && x.ctx.Err() == nil; x.pause(50 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	x.t.Errorf("%s does not %s: %v", name, what, err)
}

// settled waits until no Pod is left and what is on the machine is as before;
// with nil, until nothing of a Pod is there.
func (x *chaos) settled(before []string) (now []string) {
	x.t.Helper()
	want := strings.Join(before, "\n")
	for end := time.Now().Add(patience); time.Now().Before(end); x.pause(100 * time.Millisecond) {
		now = machine.Belongings(x.dir, "")
		text := strings.Join(now, "\n")
		if text == want || before == nil && !strings.Contains(text, "/pod") && !strings.Contains(text, "link ") && !strings.Contains(text, "record /runtime/sandboxes") {
			return now
		}
	}
	x.t.Errorf("the machine is not as it was:\n%s", cmp.Diff(before, now))
	return now
}
