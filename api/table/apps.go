// SPDX-License-Identifier: Apache-2.0

package table

import (
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Deployment are the columns of deployments.
func Deployment() Columns[appsv1.Deployment] {
	status := appsv1.DeploymentStatus{}.SwaggerDoc()
	defs := []metav1.TableColumnDefinition{
		name(), text("Ready", "Number of the pod with ready state"), text("Up-to-date", status["updatedReplicas"]),
		text("Available", status["availableReplicas"]), ageColumn(),
	}
	return Columns[appsv1.Deployment]{
		Definitions: append(append(defs, templateColumns()...), wide(text("Selector", appsv1.DeploymentSpec{}.SwaggerDoc()["selector"]))),
		Cells: func(d *appsv1.Deployment, now time.Time) []any {
			names, images := templateCells(d.Spec.Template.Spec)
			chosen := "<invalid>"
			if s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil {
				chosen = s.String()
			}
			return []any{
				d.Name, ratio(int(d.Status.ReadyReplicas), int(or(d.Spec.Replicas, 0))), int64(d.Status.UpdatedReplicas),
				int64(d.Status.AvailableReplicas), age(d.CreationTimestamp, now), names, images, chosen,
			}
		},
	}
}

// DaemonSet are the columns of daemonsets.
func DaemonSet() Columns[appsv1.DaemonSet] {
	status := appsv1.DaemonSetStatus{}.SwaggerDoc()
	defs := []metav1.TableColumnDefinition{
		name(), number("Desired", status["desiredNumberScheduled"]), number("Current", status["currentNumberScheduled"]), number("Ready", status["numberReady"]),
		number("Up-to-date", status["updatedNumberScheduled"]), number("Available", status["numberAvailable"]),
		text("Node Selector", corev1.PodSpec{}.SwaggerDoc()["nodeSelector"]), ageColumn(),
	}
	return Columns[appsv1.DaemonSet]{
		Definitions: append(append(defs, templateColumns()...), wide(text("Selector", appsv1.DaemonSetSpec{}.SwaggerDoc()["selector"]))),
		Cells: func(d *appsv1.DaemonSet, now time.Time) []any {
			names, images := templateCells(d.Spec.Template.Spec)
			s := &d.Status
			return []any{
				d.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady), int64(s.UpdatedNumberScheduled),
				int64(s.NumberAvailable), labels.FormatLabels(d.Spec.Template.Spec.NodeSelector), age(d.CreationTimestamp, now), names, images, metav1.FormatLabelSelector(d.Spec.Selector),
			}
		},
	}
}

// StatefulSet are the columns of statefulsets.
func StatefulSet() Columns[appsv1.StatefulSet] {
	return Columns[appsv1.StatefulSet]{
		Definitions: append([]metav1.TableColumnDefinition{name(), text("Ready", "Number of the pod with ready state"), ageColumn()}, templateColumns()...),
		Cells: func(s *appsv1.StatefulSet, now time.Time) []any {
			names, images := templateCells(s.Spec.Template.Spec)
			return []any{s.Name, ratio(int(s.Status.ReadyReplicas), int(or(s.Spec.Replicas, 0))), age(s.CreationTimestamp, now), names, images}
		},
	}
}

// ControllerRevision are the columns of controllerrevisions.
func ControllerRevision() Columns[appsv1.ControllerRevision] {
	return Columns[appsv1.ControllerRevision]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Controller", "Controller of the object"), text("Revision", appsv1.ControllerRevision{}.SwaggerDoc()["revision"]), ageColumn(),
		},
		Cells: func(r *appsv1.ControllerRevision, now time.Time) []any {
			owner := none
			if ref := metav1.GetControllerOfNoCopy(r); ref != nil {
				gv, _ := schema.ParseGroupVersion(ref.APIVersion) // owners are validated
				owner = strings.ToLower(ref.Kind)
				if gv.Group != "" {
					owner += "." + gv.Group
				}
				owner += "/" + ref.Name
			}
			return []any{r.Name, owner, r.Revision, age(r.CreationTimestamp, now)}
		},
	}
}
