// SPDX-License-Identifier: Apache-2.0

package defaults

import flowcontrolv1 "k8s.io/api/flowcontrol/v1"

// FlowSchema gives a schema its place among the others.
func FlowSchema(f *flowcontrolv1.FlowSchema) { zero(&f.Spec.MatchingPrecedence, 1000) }

// PriorityLevelConfiguration fills in shares and queues.
func PriorityLevelConfiguration(p *flowcontrolv1.PriorityLevelConfiguration) {
	if e := p.Spec.Exempt; e != nil {
		set(&e.NominalConcurrencyShares, 0)
		set(&e.LendablePercent, 0)
	}
	l := p.Spec.Limited
	if l == nil {
		return
	}
	set(&l.NominalConcurrencyShares, 30)
	set(&l.LendablePercent, 0)
	if q := l.LimitResponse.Queuing; q != nil {
		zero(&q.HandSize, 8)
		zero(&q.Queues, 64)
		zero(&q.QueueLengthLimit, 50)
	}
}
