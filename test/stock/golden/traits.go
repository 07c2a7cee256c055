// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"slices"

	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// traits are what a kind's strategies say of it without an object.
type traits struct {
	Cluster          bool                `json:"cluster,omitempty"`
	CreateOnUpdate   bool                `json:"createOnUpdate,omitempty"`   // PUT to a missing name creates it
	WithoutVersion   bool                `json:"withoutVersion,omitempty"`   // PUT without a resourceVersion is accepted
	Collection       string              `json:"collection,omitempty"`       // the default of garbage collection
	Resets           map[string][]string `json:"resets,omitempty"`           // what writers of a part never own, by part
	Selectors        []string            `json:"selectors,omitempty"`        // of fields
	UnknownSelectors string              `json:"unknownSelectors,omitempty"` // the refusal
}

// selectors are all that any kind knows, and some that none does.
var selectors = []string{
	"metadata.name", "metadata.namespace", "spec.nodeName", "spec.host", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
	"spec.hostNetwork", "status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName", "spec.unschedulable", "status.replicas",
	"type", "spec.type", "spec.clusterIP", "reason", "source", "reportingComponent", "reportingController", "involvedObject.kind",
	"involvedObject.namespace", "involvedObject.name", "involvedObject.uid", "involvedObject.apiVersion", "involvedObject.resourceVersion",
	"involvedObject.fieldPath", "regarding.kind", "regarding.name", "regarding.namespace", "regarding.uid", "metadata.uid", "metadata.labels", "name",
	"status.successful", "spec.driver", "spec.pool.name",
}

func (k kind) traits() traits {
	ctx := genericapirequest.WithRequestInfo(context.Background(), &genericapirequest.RequestInfo{APIGroup: k.gvk.Group, APIVersion: k.gvk.Version})
	t := traits{
		Cluster: !k.main.NamespaceScoped(), CreateOnUpdate: k.main.AllowCreateOnUpdate(ctx), WithoutVersion: k.main.AllowUnconditionalUpdate(ctx),
		Resets: map[string][]string{},
	}
	if gc, ok := k.main.(rest.GarbageCollectionDeleteStrategy); ok {
		t.Collection = string(gc.DefaultGarbageCollectionPolicy(ctx))
	}
	note := func(part string, s any) {
		r, ok := s.(rest.ResetFieldsStrategy)
		if !ok {
			return
		}
		r.GetResetFields()[fieldpath.APIVersion(k.gvk.GroupVersion().String())].Iterate(func(p fieldpath.Path) { t.Resets[part] = append(t.Resets[part], p.String()) })
		slices.Sort(t.Resets[part])
	}
	note("", k.main)
	for part, s := range k.parts {
		note(part, s)
	}
	for _, name := range selectors {
		if _, _, err := legacyscheme.Scheme.ConvertFieldLabel(k.gvk, name, "x"); err == nil {
			t.Selectors = append(t.Selectors, name)
		}
	}
	if _, _, err := legacyscheme.Scheme.ConvertFieldLabel(k.gvk, "spec.color", "x"); err != nil {
		t.UnknownSelectors = err.Error()
	}
	return t
}
