// SPDX-License-Identifier: Apache-2.0

package defaults

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// history is how many old revisions a workload keeps unless it says otherwise.
const history = int32(10)

// Deployment fills in the number of replicas, how they are replaced and the
// template.
func Deployment(d *appsv1.Deployment) {
	set(&d.Spec.Replicas, 1)
	s := &d.Spec.Strategy
	zero(&s.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if s.Type == appsv1.RollingUpdateDeploymentStrategyType {
		set(&s.RollingUpdate, appsv1.RollingUpdateDeployment{})
		set(&s.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		set(&s.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	set(&d.Spec.RevisionHistoryLimit, history)
	set(&d.Spec.ProgressDeadlineSeconds, 600)
	PodTemplateSpec(&d.Spec.Template)
}

// PrepareDeployment counts changes of the annotations as well as of the spec:
// they are copied to the ReplicaSets.
func PrepareDeployment(d, old *appsv1.Deployment) {
	PreparePodTemplate(&d.Spec.Template)
	same := equality.Semantic.DeepEqual
	switch {
	case old == nil:
		d.Generation = 1
	case same(d.Spec, old.Spec) && same(d.Annotations, old.Annotations):
		d.Generation = old.Generation
	default:
		d.Generation = old.Generation + 1
	}
}

// PrepareDeploymentStatus keeps what a writer of the status does not change:
// the labels, and the order to roll back.
func PrepareDeploymentStatus(d, old *appsv1.Deployment) {
	d.Labels = old.Labels
	keepAnnotation(d.Annotations, old.Annotations, appsv1.DeprecatedRollbackTo, &d.Annotations)
}

// keepAnnotation gives now the value that was has for a key, or none.
func keepAnnotation(now, was map[string]string, key string, into *map[string]string) {
	v, ok := was[key]
	switch {
	case ok && now == nil:
		*into = map[string]string{key: v}
	case ok:
		now[key] = v
	default:
		delete(now, key)
	}
}

// StatefulSet fills in the number of replicas, how they are managed and
// replaced, and the template with its claims.
func StatefulSet(s *appsv1.StatefulSet) {
	zero(&s.Spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	u := &s.Spec.UpdateStrategy
	if u.Type == "" {
		u.Type = appsv1.RollingUpdateStatefulSetStrategyType
		set(&u.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if u.Type == appsv1.RollingUpdateStatefulSetStrategyType && u.RollingUpdate != nil {
		set(&u.RollingUpdate.Partition, 0)
		set(&u.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	set(&s.Spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	zero(&s.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	zero(&s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	set(&s.Spec.Replicas, 1)
	set(&s.Spec.RevisionHistoryLimit, history)
	PodTemplateSpec(&s.Spec.Template)
	for i := range s.Spec.VolumeClaimTemplates {
		c := &s.Spec.VolumeClaimTemplates[i]
		PersistentVolumeClaim(c)
		// Kubernetes has always shown these of what lies within.
		c.APIVersion, c.Kind = "v1", "PersistentVolumeClaim"
	}
}
