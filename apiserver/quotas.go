// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	corev1 "k8s.io/api/core/v1"

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
	}
}
