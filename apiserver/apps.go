// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// appsRows are the workloads whose Pods run for ever.
func (s *Server) appsRows() []*row {
	apps := appsv1.SchemeGroupVersion
	return []*row{
		resource[appsv1.Deployment, appsv1.DeploymentList](apps, "Deployment", "deployments", "deployment", hooks[appsv1.Deployment]{
			Defaults: defaults.Deployment, Validate: validation.Deployment, ValidateUpdate: validation.DeploymentUpdate,
			ValidateStatus: validation.DeploymentStatusUpdate, Warn: warn(validation.DeploymentWarnings), Columns: table.Deployment(),
			Prepare:       func(_ context.Context, d, old *appsv1.Deployment) { defaults.PrepareDeployment(d, old) },
			PrepareStatus: defaults.PrepareDeploymentStatus,
			ScaleGet: func(d *appsv1.Deployment) (*int32, int32, *metav1.LabelSelector) {
				return d.Spec.Replicas, d.Status.Replicas, d.Spec.Selector
			},
			ScaleSet: func(d *appsv1.Deployment, n int32) { d.Spec.Replicas = &n },
		}, shortNames("deploy"), inAll, collected(rest.DeleteDependents), withoutGeneration, func(r *row) { r.notByStatus = []string{"labels"} }),
		resource[appsv1.StatefulSet, appsv1.StatefulSetList](apps, "StatefulSet", "statefulsets", "statefulset", hooks[appsv1.StatefulSet]{
			Defaults: defaults.StatefulSet, Validate: validation.StatefulSet, ValidateUpdate: validation.StatefulSetUpdate,
			ValidateStatus: validation.StatefulSetStatusUpdate, Warn: warn(validation.StatefulSetWarnings), Columns: table.StatefulSet(),
			Prepare: func(_ context.Context, s, _ *appsv1.StatefulSet) { defaults.PreparePodTemplate(&s.Spec.Template) },
			ScaleGet: func(s *appsv1.StatefulSet) (*int32, int32, *metav1.LabelSelector) {
				return s.Spec.Replicas, s.Status.Replicas, s.Spec.Selector
			},
			ScaleSet: func(s *appsv1.StatefulSet, n int32) { s.Spec.Replicas = &n },
		}, shortNames("sts"), inAll, collected(rest.DeleteDependents)),
		resource[appsv1.DaemonSet, appsv1.DaemonSetList](apps, "DaemonSet", "daemonsets", "daemonset", hooks[appsv1.DaemonSet]{
			Defaults: defaults.DaemonSet, Validate: validation.DaemonSet, ValidateUpdate: validation.DaemonSetUpdate,
			ValidateStatus: validation.DaemonSetStatusUpdate, Warn: warn(validation.DaemonSetWarnings), Columns: table.DaemonSet(),
			Prepare:       func(_ context.Context, d, old *appsv1.DaemonSet) { defaults.PrepareDaemonSet(d, old) },
			PrepareStatus: defaults.PrepareDaemonSetStatus,
		}, shortNames("ds"), inAll, collected(rest.DeleteDependents)),
		resource[appsv1.ControllerRevision, appsv1.ControllerRevisionList](apps, "ControllerRevision", "controllerrevisions", "controllerrevision", hooks[appsv1.ControllerRevision]{
			Validate: validation.ControllerRevision, ValidateUpdate: validation.ControllerRevisionUpdate, Columns: table.ControllerRevision(),
		}),
		resource[appsv1.ReplicaSet, appsv1.ReplicaSetList](apps, "ReplicaSet", "replicasets", "replicaset", hooks[appsv1.ReplicaSet]{
			Defaults: defaults.ReplicaSet, Validate: validation.ReplicaSet, ValidateUpdate: validation.ReplicaSetUpdate,
			ValidateStatus: validation.ReplicaSetStatusUpdate, Warn: warn(validation.ReplicaSetWarnings), Columns: table.ReplicaSet(),
			Prepare: func(_ context.Context, r, _ *appsv1.ReplicaSet) { defaults.PreparePodTemplate(&r.Spec.Template) },
			ScaleGet: func(r *appsv1.ReplicaSet) (*int32, int32, *metav1.LabelSelector) {
				return r.Spec.Replicas, r.Status.Replicas, r.Spec.Selector
			},
			ScaleSet: func(r *appsv1.ReplicaSet, n int32) { r.Spec.Replicas = &n },
		}, shortNames("rs"), inAll, collected(rest.DeleteDependents)),
	}
}
