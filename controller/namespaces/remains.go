// SPDX-License-Identifier: Apache-2.0

package namespaces

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// remains are what holds the end of a namespace up.
type remains struct {
	discovery, parsing error
	// content are what could not be deleted and why, as the condition tells it;
	// failures the same as errors of the reconciliation.
	content, failures []error
	instances         map[schema.GroupVersionResource]int
	finalizers        map[string]int
}

// note counts what is left of a kind.
func (r *remains) note(kind schema.GroupVersionResource, items []metav1.PartialObjectMetadata) {
	if len(items) == 0 {
		return
	}
	if r.instances == nil {
		r.instances, r.finalizers = map[schema.GroupVersionResource]int{}, map[string]int{}
	}
	r.instances[kind] = len(items)
	for i := range items {
		for _, f := range items[i].Finalizers {
			r.finalizers[f]++
		}
	}
}

func (r *remains) err() error {
	return errors.Join(append([]error{r.discovery, r.parsing}, r.failures...)...)
}

// tell brings the conditions of a namespace up to date, and says whether
// anything is new. While Pods are waited for, upstream tells that all content
// is removed; here it is told what remains.
func (r *remains) tell(s *corev1.NamespaceStatus) (changed bool) {
	for _, c := range []corev1.NamespaceCondition{
		condition(corev1.NamespaceDeletionDiscoveryFailure, r.discoveryText(), "DiscoveryFailed", "ResourcesDiscovered", "All resources successfully discovered"),
		condition(corev1.NamespaceDeletionGVParsingFailure, text(r.parsing), "GroupVersionParsingFailed", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
		condition(corev1.NamespaceDeletionContentFailure, r.contentText(), "ContentDeletionFailed", "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
		condition(corev1.NamespaceContentRemaining, r.instancesText(), "SomeResourcesRemain", "ContentRemoved", "All content successfully removed"),
		condition(corev1.NamespaceFinalizersRemaining, r.finalizersText(), "SomeFinalizersRemain", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
	} {
		i := slices.IndexFunc(s.Conditions, func(x corev1.NamespaceCondition) bool { return x.Type == c.Type })
		if i < 0 {
			s.Conditions, changed = append(s.Conditions, c), true
			continue
		}
		old := &s.Conditions[i]
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		changed = changed || *old != c
		*old = c
	}
	return changed
}

// condition is True with a trouble's text, or False with the words of success.
func condition(t corev1.NamespaceConditionType, trouble, reason, fineReason, fine string) corev1.NamespaceCondition {
	if trouble == "" {
		return corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: fineReason, Message: fine, LastTransitionTime: metav1.Now()}
	}
	return corev1.NamespaceCondition{Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: trouble, LastTransitionTime: metav1.Now()}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (r *remains) discoveryText() string {
	if groups, failed := discovery.GroupDiscoveryFailedErrorGroups(r.discovery); failed {
		return fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(groups), r.discovery)
	}
	return text(r.discovery)
}

func (r *remains) contentText() string {
	var all []string
	for _, err := range r.content {
		all = append(all, err.Error())
	}
	return listed(all, fmt.Sprintf("Failed to delete all resource types, %d remaining: ", len(all)))
}

func (r *remains) instancesText() string {
	var all []string
	for kind, n := range r.instances {
		all = append(all, fmt.Sprintf("%s.%s has %d resource instances", kind.Resource, kind.Group, n))
	}
	return listed(all, "Some resources are remaining: ")
}

func (r *remains) finalizersText() string {
	var all []string
	for f, n := range r.finalizers {
		all = append(all, fmt.Sprintf("%s in %d resource instances", f, n))
	}
	return listed(all, "Some content in the namespace has finalizers remaining: ")
}

// listed joins what there is in a stable order, or is empty.
func listed(all []string, intro string) string {
	if len(all) == 0 {
		return ""
	}
	slices.Sort(all)
	return intro + strings.Join(all, ", ")
}
