// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
	"github.com/peapod/peapod/controller/world"
)

// stage is a ReplicaSet "web" in front of an API in memory.
type stage struct {
	*testing.T
	client client.WithWatch
	events *record.FakeRecorder
	set    replicaSet
	seen   string
}

func setUp(t *testing.T, funcs interceptor.Funcs, objects ...client.Object) *stage {
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "web-uid"}}
	rs.Spec.Replicas, rs.Spec.Selector = ptr.To[int32](1), &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	rs.Spec.Template.Labels = map[string]string{"app": "web"}
	s := &stage{T: t, events: record.NewFakeRecorder(100), seen: "1000"}
	n := 0
	create := funcs.Create
	funcs.Create = func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
		if n++; o.GetName() == "" {
			o.SetName(fmt.Sprint(o.GetGenerateName(), n))
			o.SetUID(types.UID(o.GetName()))
		}
		if create != nil {
			return create(ctx, c, o, opts...)
		}
		return c.Create(ctx, o, opts...)
	}
	s.client = fake.NewClientBuilder().WithScheme(clientscheme.Scheme).WithObjects(append(objects, rs)...).WithStatusSubresource(rs).
		WithInterceptorFuncs(funcs).WithIndex(&corev1.Pod{}, owned.ByController, owned.ControllerOf).Build()
	s.set = replicaSet{&owned.Replicas{
		Owning: owned.Owning{Client: s.client, Live: s.client, Events: s.events, Gvk: appsv1.SchemeGroupVersion.WithKind("ReplicaSet")},
		Seen:   func() string { return s.seen },
	}}
	return s
}

func (s *stage) sync() (ctrl.Result, error) {
	s.Helper()
	return s.set.Reconcile(s.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "web"}})
}

func (s *stage) status() appsv1.ReplicaSetStatus {
	s.Helper()
	var rs appsv1.ReplicaSet
	if err := s.client.Get(s.Context(), client.ObjectKey{Namespace: "ns", Name: "web"}, &rs); err != nil {
		s.Fatal(err)
	}
	return rs.Status
}

func (s *stage) scale(n int32) {
	s.Helper()
	var rs appsv1.ReplicaSet
	key := client.ObjectKey{Namespace: "ns", Name: "web"}
	if err := s.client.Get(s.Context(), key, &rs); err != nil {
		s.Fatal(err)
	}
	rs.Spec.Replicas = &n
	if err := s.client.Update(s.Context(), &rs); err != nil {
		s.Fatal(err)
	}
}

// told are the events since it was asked last.
func (s *stage) told() (out []string) {
	for len(s.events.Events) > 0 {
		out = append(out, <-s.events.Events)
	}
	return out
}

// TestPodComesAndGoes: a Pod that is deleted before its creation has returned
// is replaced, once the cache has come that far.
func TestPodComesAndGoes(t *testing.T) {
	created := 0
	s := setUp(t, interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
		created++
		err := c.Create(ctx, o, opts...)
		rv := o.GetResourceVersion()
		if created == 1 {
			err = errors.Join(err, c.Delete(ctx, o))
		}
		o.SetResourceVersion(map[int]string{1: "100"}[created] + rv)
		return err
	}})
	s.seen = "99"
	for range 3 { // whatever happens meanwhile
		if r, err := s.sync(); err != nil || created != 1 || created > 0 && r.RequeueAfter > loop.Unseen {
			t.Fatalf("%d created, looked at again after %v, %v", created, r.RequeueAfter, err)
		}
	}
	if r, _ := s.sync(); r.RequeueAfter != loop.Unseen {
		t.Errorf("what no event may tell of is looked at after %v", r.RequeueAfter)
	}
	s.seen = "1002"
	if _, err := s.sync(); err != nil || created != 2 {
		t.Fatalf("%d created, %v", created, err)
	}
}

// TestReplicaFailure: the condition is there while Pods cannot be made or
// removed, and whatever other conditions there are.
func TestReplicaFailure(t *testing.T) {
	var refusal, stuck error
	tries := 0
	s := setUp(t, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if tries++; refusal != nil {
				return refusal
			}
			return c.Create(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if stuck != nil {
				return stuck
			}
			return c.Delete(ctx, o)
		},
	})
	var rs appsv1.ReplicaSet
	if err := s.client.Get(t.Context(), client.ObjectKey{Namespace: "ns", Name: "web"}, &rs); err != nil {
		t.Fatal(err)
	}
	rs.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: "Other", Status: corev1.ConditionTrue}}
	if err := s.client.Status().Update(t.Context(), &rs); err != nil {
		t.Fatal(err)
	}
	check := func(wantErr error, reason, message string, events ...string) {
		t.Helper()
		if _, err := s.sync(); !errors.Is(err, wantErr) {
			t.Errorf("%v, want %v", err, wantErr)
		}
		st := s.status()
		switch i := slices.IndexFunc(st.Conditions, func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }); {
		case i < 0 && reason != "":
			t.Errorf("no condition %s: %v", reason, st.Conditions)
		case i >= 0 && (st.Conditions[i].Reason != reason || st.Conditions[i].Message != message || st.Conditions[i].Status != corev1.ConditionTrue):
			t.Errorf("%+v, want %s: %s", st.Conditions[i], reason, message)
		}
		if len(st.Conditions) == 0 || st.Conditions[0].Type != "Other" {
			t.Errorf("another's condition is gone: %v", st.Conditions)
		}
		if got := s.told(); !slices.Equal(got, events) {
			t.Errorf("events %q, want %q", got, events)
		}
	}
	refusal = errors.New("quota is used up")
	check(refusal, "FailedCreate", "quota is used up", "Warning FailedCreate Error creating: quota is used up")
	refusal = &apierrors.StatusError{ErrStatus: metav1.Status{Reason: metav1.StatusReasonForbidden, Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}}}}
	tries = 0
	s.scale(5)
	check(nil, "", "")
	if tries != 1 {
		t.Errorf("%d tries in a namespace that ends", tries)
	}
	refusal = nil
	s.scale(1)
	check(nil, "", "", "Normal SuccessfulCreate Created pod: web-3")
	s.scale(0)
	stuck = errors.New("not now")
	check(stuck, "FailedDelete", "unable to delete pods: not now", "Warning FailedDelete Error deleting: not now")
	stuck = nil
	check(nil, "", "", "Normal SuccessfulDelete Deleted pod: web-3")
}

// TestClaim: which Pods are counted, taken over and let go.
func TestClaim(t *testing.T) {
	of := func(uid string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: types.UID(uid), Controller: ptr.To(true)}}
		}
	}
	is := func(app string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Namespace, p.Labels = "ns", map[string]string{"app": app} }
	}
	over := func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
	ending := func(p *corev1.Pod) {
		p.DeletionTimestamp, p.Finalizers = &metav1.Time{Time: world.Noon}, []string{"example.com/hold"}
	}
	pods := []client.Object{
		world.Replica("own", is("web"), of("web-uid")), world.Replica("orphan", is("web")), world.Replica("relabelled", is("free"), of("web-uid")),
		world.Replica("others", is("web"), of("other-uid")), world.Replica("stranger", is("else")),
		world.Replica("orphan-over", is("web"), over), world.Replica("orphan-ending", is("web"), ending), world.Replica("own-ending", is("web"), of("web-uid"), ending),
	}
	s := setUp(t, interceptor.Funcs{}, pods...)
	s.scale(2)
	if _, err := s.sync(); err != nil {
		t.Fatal(err)
	}
	owners := map[string]string{}
	var list corev1.PodList
	if err := s.client.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		owners[p.Name] = ""
		if len(p.OwnerReferences) > 0 {
			owners[p.Name] = string(p.OwnerReferences[0].UID)
		}
	}
	want := map[string]string{"own": "web-uid", "orphan": "web-uid", "relabelled": "", "others": "other-uid", "stranger": "", "orphan-over": "", "orphan-ending": "", "own-ending": "web-uid"}
	if fmt.Sprint(owners) != fmt.Sprint(want) {
		t.Errorf("owners are\n%v, want\n%v", owners, want)
	}
	if st := s.status(); st.Replicas != 2 || st.ReadyReplicas != 2 || *st.TerminatingReplicas != 1 {
		t.Errorf("status %+v", st)
	}
}

// TestAdoptionNeedsTheOwner: an owner that is not what the cache says takes
// nothing over, and makes nothing instead.
func TestAdoptionNeedsTheOwner(t *testing.T) {
	s := setUp(t, interceptor.Funcs{}, world.Replica("orphan", func(p *corev1.Pod) { p.Namespace, p.Labels = "ns", map[string]string{"app": "web"} }))
	newer := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "newer"}}
	s.set.Live = fake.NewClientBuilder().WithScheme(clientscheme.Scheme).WithObjects(newer).Build()
	_, err := s.sync()
	if want := "cannot adopt Pod ns/orphan (orphan): the original ReplicaSet ns/web is gone: its UID is newer, not web-uid"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	var list corev1.PodList
	if err := s.client.List(t.Context(), &list); err != nil || len(list.Items) != 1 || len(list.Items[0].OwnerReferences) != 0 {
		t.Errorf("pods %v, %v", list.Items, err)
	}
}

// TestMinReady: a Pod that is ready, but not for long enough, is looked at
// again when it will be.
func TestMinReady(t *testing.T) {
	s := setUp(t, interceptor.Funcs{}, world.Replica("new", func(p *corev1.Pod) {
		p.Namespace, p.Labels = "ns", map[string]string{"app": "web"}
		p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(time.Now().Add(-time.Minute))
	}))
	var rs appsv1.ReplicaSet
	if err := s.client.Get(t.Context(), client.ObjectKey{Namespace: "ns", Name: "web"}, &rs); err != nil {
		t.Fatal(err)
	}
	rs.Spec.MinReadySeconds = 3600
	if err := s.client.Update(t.Context(), &rs); err != nil {
		t.Fatal(err)
	}
	r, err := s.sync()
	if st := s.status(); err != nil || r.RequeueAfter < 58*time.Minute || r.RequeueAfter > time.Hour-time.Minute || st.ReadyReplicas != 1 || st.AvailableReplicas != 0 {
		t.Errorf("again after %v, %+v, %v", r.RequeueAfter, st, err)
	}
}
