// SPDX-License-Identifier: Apache-2.0

package table

import (
	"slices"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FlowSchema are the columns of schemas of requests.
func FlowSchema() Columns[flowcontrolv1.FlowSchema] {
	spec := flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()
	return Columns[flowcontrolv1.FlowSchema]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("PriorityLevel", flowcontrolv1.PriorityLevelConfigurationReference{}.SwaggerDoc()["name"]),
			text("MatchingPrecedence", spec["matchingPrecedence"]), text("DistinguisherMethod", spec["distinguisherMethod"]),
			ageColumn(), text("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
		},
		Cells: func(f *flowcontrolv1.FlowSchema, now time.Time) []any {
			method, missing := none, "?"
			if m := f.Spec.DistinguisherMethod; m != nil {
				method = string(m.Type)
			}
			dangling := func(c flowcontrolv1.FlowSchemaCondition) bool {
				return c.Type == flowcontrolv1.FlowSchemaConditionDangling
			}
			if i := slices.IndexFunc(f.Status.Conditions, dangling); i >= 0 {
				missing = string(f.Status.Conditions[i].Status)
			}
			return []any{f.Name, f.Spec.PriorityLevelConfiguration.Name, int64(f.Spec.MatchingPrecedence), method, age(f.CreationTimestamp, now), missing}
		},
	}
}

// PriorityLevelConfiguration are the columns of levels of priority.
func PriorityLevelConfiguration() Columns[flowcontrolv1.PriorityLevelConfiguration] {
	queue := flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()
	return Columns[flowcontrolv1.PriorityLevelConfiguration]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Type", flowcontrolv1.PriorityLevelConfigurationSpec{}.SwaggerDoc()["type"]),
			text("NominalConcurrencyShares", flowcontrolv1.LimitedPriorityLevelConfiguration{}.SwaggerDoc()["nominalConcurrencyShares"]),
			text("Queues", queue["queues"]), text("HandSize", queue["handSize"]), text("QueueLengthLimit", queue["queueLengthLimit"]), ageColumn(),
		},
		Cells: func(p *flowcontrolv1.PriorityLevelConfiguration, now time.Time) []any {
			var nominal, queues, hand, length any = none, none, none, none
			if l := p.Spec.Limited; l != nil {
				nominal = int32(0)
				if n := l.NominalConcurrencyShares; n != nil {
					nominal = *n
				}
				if q := l.LimitResponse.Queuing; q != nil {
					queues, hand, length = q.Queues, q.HandSize, q.QueueLengthLimit
				}
			}
			return []any{p.Name, string(p.Spec.Type), nominal, queues, hand, length, age(p.CreationTimestamp, now)}
		},
	}
}
