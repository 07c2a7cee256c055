// SPDX-License-Identifier: Apache-2.0

package scheduler

const noDevices = "cannot allocate all claims"

// devices: nobody here gives out the devices of drivers, so that a Pod that
// claims some waits, as under kube-scheduler while there is none to give.
var devices = rule{
	refuse: func(w *wish, _ *place) []reason {
		if len(w.pod.Spec.ResourceClaims) > 0 {
			return final(noDevices)
		}
		return nil
	},
	cures: func(*wish, any) bool { return false },
}
