// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/util/uuid"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// quotaRows are the kinds that bound what a namespace takes.
func quotaRows() []*row {
	return []*row{
		resource[corev1.ResourceQuota, corev1.ResourceQuotaList](corev1.SchemeGroupVersion, "ResourceQuota", "resourcequotas", "resourcequota", hooks[corev1.ResourceQuota]{
			Defaults: defaults.ResourceQuota, Validate: validation.ResourceQuota, ValidateUpdate: validation.ResourceQuotaUpdate, ValidateStatus: validation.ResourceQuotaStatusUpdate, Columns: table.ResourceQuota(),
		}, shortNames("quota"), withoutGeneration, echoDeleted),
		resource[corev1.LimitRange, corev1.LimitRangeList](corev1.SchemeGroupVersion, "LimitRange", "limitranges", "limitrange", hooks[corev1.LimitRange]{
			Defaults: defaults.LimitRange, Validate: validation.LimitRange, ValidateUpdate: validation.LimitRangeUpdate, Columns: table.LimitRange(),
			Prepare: func(_ context.Context, l, old *corev1.LimitRange) {
				if old == nil && l.Name == "" {
					l.Name = string(uuid.NewUUID())
				}
			},
		}, shortNames("limits"), upsertable, withoutGeneration),
	}
}

// limitRanges are those of a namespace as the watch cache has them.
func (s *Server) limitRanges(ctx context.Context, namespace string) ([]corev1.LimitRange, error) {
	store := s.stores.main[corev1.Resource("limitranges")]
	found, err := store.List(genericapirequest.WithNamespace(ctx, namespace), &metainternalversion.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	return found.(*corev1.LimitRangeList).Items, nil
}
