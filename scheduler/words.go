// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"slices"
	"strings"
)

const noNodes = "no nodes available to schedule pods"

// explain says why a Pod fits nowhere, as `kubectl describe` shows it, and what
// preemption says to that.
func explain(v *verdict, preemption string) string {
	if v.total == 0 {
		return noNodes
	}
	why := v.whole
	if why == "" {
		why = histogram(v.reasons)
	}
	return available(v.total) + why + ". preemption: " + preemption
}

func available(total int) string { return fmt.Sprintf("0/%d nodes are available: ", total) }

// histogram lists what was said how often, sorted as text.
func histogram(counts map[string]int) string {
	var list []string
	for text, n := range counts {
		list = append(list, fmt.Sprintf("%d %s", n, text))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}
