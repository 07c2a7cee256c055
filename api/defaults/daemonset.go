// SPDX-License-Identifier: Apache-2.0

package defaults

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// DaemonSet fills in how its Pods are replaced, how much of the past is kept,
// the template, and how often that has changed.
func DaemonSet(d *appsv1.DaemonSet) {
	u := &d.Spec.UpdateStrategy
	zero(&u.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if u.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		set(&u.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		set(&u.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		set(&u.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	if r := u.RollingUpdate; r != nil { // with another type these have no meaning, but are shown
		set(&r.MaxUnavailable, intstr.FromInt32(0))
		set(&r.MaxSurge, intstr.FromInt32(0))
	}
	set(&d.Spec.RevisionHistoryLimit, history)
	PodTemplateSpec(&d.Spec.Template)
	if n, err := TemplateGeneration(d); err == nil {
		setTemplateGeneration(d, n)
	}
}

// PrepareDaemonSet counts the changes of the template in an annotation, which
// nobody else may set. One that is no number is left for validation to refuse.
func PrepareDaemonSet(d, old *appsv1.DaemonSet) {
	PreparePodTemplate(&d.Spec.Template)
	n, err := TemplateGeneration(d)
	switch {
	case err != nil:
		return
	case old == nil:
		n = max(n, 1)
	default:
		n, _ = TemplateGeneration(old) // it was checked when it was written
		if !equality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
			n++
		}
	}
	setTemplateGeneration(d, n)
}

// PrepareDaemonSetStatus keeps the count of the template's changes: it counts
// as a part of the spec.
func PrepareDaemonSetStatus(d, old *appsv1.DaemonSet) {
	n, _ := TemplateGeneration(old) // it was checked when it was written
	setTemplateGeneration(d, n)
}

// TemplateGeneration is how often the template has been another, beginning
// with 1; it is 0 where it was never counted.
func TemplateGeneration(d *appsv1.DaemonSet) (int64, error) {
	v, ok := d.Annotations[appsv1.DeprecatedTemplateGeneration]
	if !ok {
		return 0, nil
	}
	return strconv.ParseInt(v, 10, 64)
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
}
