// SPDX-License-Identifier: Apache-2.0

package table

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
