// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/table"
)

// tableOf turns objects of one kind into the Table that kubectl prints.
type tableOf[T any] struct {
	columns table.Columns[T]
	of      func(runtime.Object) *T
}

func newTable[T any](c table.Columns[T], of func(runtime.Object) *T) rest.TableConvertor {
	if c.Cells == nil {
		return rest.NewDefaultTableConvertor(schema.GroupResource{})
	}
	return tableOf[T]{c, of}
}

func (t tableOf[T]) ConvertToTable(_ context.Context, o, options runtime.Object) (*metav1.Table, error) {
	out, now := &metav1.Table{}, time.Now()
	if opts, ok := options.(*metav1.TableOptions); !ok || !opts.NoHeaders {
		out.ColumnDefinitions = t.columns.Definitions
	}
	add := func(o runtime.Object) error {
		obj := t.of(o)
		row := metav1.TableRow{Cells: t.columns.Cells(obj, now), Object: runtime.RawExtension{Object: o}}
		if t.columns.Conditions != nil {
			row.Conditions = t.columns.Conditions(obj)
		}
		out.Rows = append(out.Rows, row)
		return nil
	}
	if meta.IsListType(o) {
		l, err := meta.ListAccessor(o)
		if err != nil {
			return nil, fmt.Errorf("cannot print %T: %w", o, err)
		}
		out.ResourceVersion, out.Continue, out.RemainingItemCount = l.GetResourceVersion(), l.GetContinue(), l.GetRemainingItemCount()
		if err := meta.EachListItem(o, add); err != nil || t.columns.Listed == nil {
			return out, err
		}
		var all []*T
		for _, row := range out.Rows {
			all = append(all, t.of(row.Object.Object))
		}
		change := t.columns.Listed(all)
		for k, row := range out.Rows {
			change(all[k], row.Cells)
		}
		return out, nil
	}
	m, err := meta.Accessor(o)
	if err != nil {
		return nil, fmt.Errorf("cannot print %T: %w", o, err)
	}
	out.ResourceVersion = m.GetResourceVersion()
	return out, add(o)
}
