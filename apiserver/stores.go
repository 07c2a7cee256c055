// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
)

func preconditions(p *metav1.Preconditions) *storage.Preconditions {
	if p == nil {
		return nil
	}
	return &storage.Preconditions{UID: p.UID, ResourceVersion: p.ResourceVersion}
}

func simpleUpdate(f storage.SimpleUpdateFunc) storage.UpdateFunc { return storage.SimpleUpdate(f) }

// rowOf finds a row by its plural name.
func (s *Server) rowOf(plural string) *row {
	for _, r := range s.rows {
		if r.plural == plural {
			return r
		}
	}
	return nil
}

// allNamespaces drops the namespace of a request, to reach all of them.
func allNamespaces(ctx context.Context) context.Context {
	return genericapirequest.WithNamespace(ctx, metav1.NamespaceAll)
}

// listAll asks the watch cache for everything, as fresh as the store.
func listAll() storage.ListOptions {
	return storage.ListOptions{Recursive: true, Predicate: storage.Everything}
}
