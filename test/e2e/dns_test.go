// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
)

// TestNames: K28. Services and the Pods behind them have names in the cluster, which
// are there as soon as they are, and lead to them.
func TestNames(t *testing.T) {
	t.Parallel()
	apply(t, "named", `
		hostname: one
		subdomain: names
		terminationGracePeriodSeconds: 1
		containers:
		- {name: web, image: peapod.dev/examples:1, command: [sh, -c, "mkdir /d; echo here > /d/index.html; exec /bin/web /d"], ports: [{name: http, containerPort: 8080}]}
	`)
	p := await(t, "named", "runs", ready)
	must(t, "label", "pod", "named", "names=yes")
	if out, err := kubectlIn(t, `
apiVersion: v1
kind: Service
metadata: {name: named}
spec: {selector: {names: "yes"}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: names}
spec: {clusterIP: None, selector: {names: "yes"}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: named.default.svc.cluster.local}
`, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	removeLater(t, "service/named", "service/names", "service/elsewhere")
	ip := must(t, "get", "service", "named", "-o", "jsonpath={.spec.clusterIP}")
	look := func(name string) string {
		out, _ := kubectl(t, "exec", "named", "--", "nslookup", name) // it fails for a name that is not there
		return out
	}
	for name, want := range map[string]string{
		"named.default.svc.cluster.local": ip, "one.names.default.svc.cluster.local": p.Status.PodIP, "names.default.svc.cluster.local": p.Status.PodIP,
		"elsewhere.default.svc.cluster.local": ip, "kubernetes.default.svc.cluster.local": "10.202.0.1",
	} {
		eventually(t, name+" is "+want, func() bool { return strings.Contains(look(name), want) })
	}
	if got := look("nobody.default.svc.cluster.local"); !strings.Contains(got, "NXDOMAIN") {
		t.Errorf("a name of nobody: %s", got)
	}
	for _, host := range []string{"named", "named.default", "one.names:8080", "elsewhere"} {
		if got := in(t, "named", "web", "wget", "-qO-", "http://"+host+"/"); got != "here" {
			t.Errorf("http://%s: %q", host, got)
		}
	}
}
