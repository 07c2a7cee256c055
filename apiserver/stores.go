// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
)

func preconditions(p *metav1.Preconditions) *storage.Preconditions {
	if p == nil {
		return nil
	}
	return &storage.Preconditions{UID: p.UID, ResourceVersion: p.ResourceVersion}
}

// update changes an object in the store outside the strategies, again when
// another writer came in between. out receives what was written. Errors are
// API statuses but for those of change itself.
func update[T any](ctx context.Context, s *registry.Store, name string, p *metav1.Preconditions, dryRun []string, out *T, change func(*T) error) error {
	key, err := s.KeyFunc(ctx, name)
	if err != nil {
		return err
	}
	try := func(o runtime.Object) (runtime.Object, error) {
		if err := change(any(o).(*T)); err != nil {
			return nil, err
		}
		return o, nil
	}
	err = s.Storage.GuaranteedUpdate(ctx, key, any(out).(runtime.Object), false, preconditions(p), storage.SimpleUpdate(try), dryrun.IsDryRun(dryRun), nil)
	if err == nil {
		return nil
	}
	err = storeerr.InterpretGetError(err, s.DefaultQualifiedResource, name)
	return storeerr.InterpretUpdateError(err, s.DefaultQualifiedResource, name)
}

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
