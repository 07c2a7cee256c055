// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"slices"

	"github.com/peapod/peapod/api/pod"
)

const portsTaken = "node(s) didn't have free ports for the requested pod ports"

// hostPorts are ports of the node that Pods ask for; each is given once.
var hostPorts = rule{
	refuse: func(w *wish, p *place) []reason {
		for _, want := range w.ports {
			for taken := range p.ports {
				if want.Clashes(taken) {
					return []reason{{text: portsTaken}}
				}
			}
		}
		return nil
	},
	cures: func(w *wish, c any) bool {
		switch c := c.(type) {
		case nodeChange:
			return c.old == nil
		case podLeft:
			return slices.ContainsFunc(w.ports, func(want pod.HostPort) bool { return slices.ContainsFunc(c.ports, want.Clashes) })
		}
		return false
	},
}
