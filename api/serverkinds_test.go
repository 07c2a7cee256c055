// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

func serverKinds() map[string]kind {
	type (
		schema = flowcontrolv1.FlowSchema
		level  = flowcontrolv1.PriorityLevelConfiguration
	)
	return map[string]kind{
		"FlowSchema": of(rules[schema]{
			cluster: true, defaults: defaults.FlowSchema, check: validation.FlowSchema, change: validation.FlowSchemaUpdate, columns: table.FlowSchema(),
			parts: map[string]part[schema]{"status": {check: validation.FlowSchemaStatusUpdate}},
		}),
		"APIService": of(rules[apiregistrationv1.APIService]{
			cluster: true, defaults: defaults.APIService, prepare: defaults.PrepareAPIService, check: validation.APIService, change: validation.APIServiceUpdate, columns: table.APIService(),
			parts: map[string]part[apiregistrationv1.APIService]{"status": {check: validation.APIServiceStatusUpdate}},
		}),
		"PriorityLevelConfiguration": of(rules[level]{
			cluster: true, defaults: defaults.PriorityLevelConfiguration, check: validation.PriorityLevelConfiguration, change: validation.PriorityLevelConfigurationUpdate, columns: table.PriorityLevelConfiguration(),
			parts: map[string]part[level]{"status": {check: validation.PriorityLevelConfigurationStatusUpdate}},
		}),
	}
}
