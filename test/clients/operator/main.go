// SPDX-License-Identifier: Apache-2.0

// Command operator is an operator as people write them, with controller-runtime:
// of each Page it makes a ConfigMap with its text and a Deployment that shows
// it, both owned by the Page, and says in its status whether it is shown.
package main

import (
	"context"
	"fmt"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// Page is the resource of testdata/operator.txtar.
type Page struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              PageSpec   `json:"spec"`
	Status            PageStatus `json:"status,omitzero"`
}

// PageSpec is what is wanted.
type PageSpec struct {
	Text     string `json:"text"`
	Replicas int32  `json:"replicas"`
}

// PageStatus is what is so.
type PageStatus struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

// PageList is what a list of them is answered with.
type PageList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Page `json:"items"`
}

// DeepCopyObject makes it a runtime.Object.
func (p *Page) DeepCopyObject() runtime.Object {
	c := *p
	p.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Status.Conditions = append([]metav1.Condition(nil), p.Status.Conditions...)
	return &c
}

// DeepCopyObject makes it a runtime.Object.
func (l *PageList) DeepCopyObject() runtime.Object {
	c := *l
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	c.Items = make([]Page, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*Page)
	}
	return &c
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "operator:", err)
		os.Exit(1)
	}
}

func run() error {
	ctrl.SetLogger(zap.New())
	group := schema.GroupVersion{Group: "press.example.com", Version: "v1"}
	scheme.Scheme.AddKnownTypes(group, &Page{}, &PageList{})
	metav1.AddToGroupVersion(scheme.Scheme, group)
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	m, err := ctrl.NewManager(config, ctrl.Options{
		LeaderElection: true, LeaderElectionID: "press", LeaderElectionReleaseOnCancel: true,
		Metrics: server.Options{BindAddress: "0"},
	})
	if err != nil {
		return err
	}
	r := &reconciler{m.GetClient()}
	if err := ctrl.NewControllerManagedBy(m).For(&Page{}).Owns(&corev1.ConfigMap{}).Owns(&appsv1.Deployment{}).Complete(r); err != nil {
		return err
	}
	return m.Start(ctrl.SetupSignalHandler())
}

type reconciler struct{ client.Client }

// Reconcile makes what a Page wants so.
func (r *reconciler) Reconcile(ctx context.Context, q ctrl.Request) (ctrl.Result, error) {
	var p Page
	if err := r.Get(ctx, q.NamespacedName, &p); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	name := metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}
	text := &corev1.ConfigMap{ObjectMeta: name}
	if _, err := controllerutil.CreateOrUpdate(ctx, r, text, func() error {
		text.Data = map[string]string{"index.html": p.Spec.Text}
		return ctrl.SetControllerReference(&p, text, r.Scheme())
	}); err != nil {
		return ctrl.Result{}, err
	}
	d := &appsv1.Deployment{ObjectMeta: name}
	if _, err := controllerutil.CreateOrUpdate(ctx, r, d, func() error {
		show(d, &p)
		return ctrl.SetControllerReference(&p, d, r.Scheme())
	}); err != nil {
		return ctrl.Result{}, err
	}
	shown := metav1.Condition{Type: "Shown", Status: metav1.ConditionFalse, Reason: "Starting", ObservedGeneration: p.Generation}
	if d.Status.ObservedGeneration == d.Generation && d.Status.AvailableReplicas == p.Spec.Replicas && d.Status.Replicas == p.Spec.Replicas {
		shown.Status, shown.Reason = metav1.ConditionTrue, "Available"
	}
	changed := meta.SetStatusCondition(&p.Status.Conditions, shown)
	if !changed && p.Status.ObservedGeneration == p.Generation {
		return ctrl.Result{}, nil
	}
	p.Status.ObservedGeneration = p.Generation
	return ctrl.Result{}, r.Status().Update(ctx, &p)
}

// show has a Deployment show a Page.
func show(d *appsv1.Deployment, p *Page) {
	labels := map[string]string{"page": p.Name}
	d.Spec.Replicas = &p.Spec.Replicas
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	t := &d.Spec.Template
	t.Labels = labels
	if len(t.Spec.Containers) == 0 {
		t.Spec.Containers = make([]corev1.Container, 1)
	}
	c := &t.Spec.Containers[0]
	c.Name, c.Image, c.Command = "web", "peapod.dev/examples:1", []string{"/bin/web", "/page"}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "page", MountPath: "/page"}}
	if len(t.Spec.Volumes) == 0 {
		t.Spec.Volumes = make([]corev1.Volume, 1)
	}
	v := &t.Spec.Volumes[0]
	v.Name = "page"
	if v.ConfigMap == nil {
		v.VolumeSource = corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}
	}
	v.ConfigMap.Name = p.Name
}
