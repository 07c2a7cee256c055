// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
)

// TestJob: K27. A Job runs to its end under kubectl's eyes, and leaves what
// people look for.
func TestJob(t *testing.T) {
	t.Parallel()
	t.Run("indexed", func(t *testing.T) {
		t.Parallel()
		example(t, "job.yaml")
		must(t, "wait", "--for=condition=complete", "job/squares", "--timeout=60s")
		if got := must(t, "logs", "-l", "batch.kubernetes.io/job-name=squares,batch.kubernetes.io/job-completion-index=3"); strings.Join(strings.Fields(got), " ") != "81 100 121" {
			t.Errorf("index 3 printed %q", got)
		}
		row := strings.Fields(must(t, "get", "job", "squares", "--no-headers"))
		if len(row) != 5 || row[1] != "Complete" || row[2] != "4/4" {
			t.Errorf("the row is %v", row)
		}
		if got := must(t, "get", "job", "squares", "-o", "jsonpath={.status.completedIndexes}"); got != "0-3" {
			t.Errorf("the completed indexes are %q", got)
		}
		described := must(t, "describe", "job", "squares")
		for _, want := range []string{"0 Active (0 Ready) / 4 Succeeded / 0 Failed", "Job completed"} {
			if !strings.Contains(described, want) {
				t.Errorf("the description has no %q:\n%s", want, described)
			}
		}
	})
	t.Run("fails", func(t *testing.T) {
		t.Parallel()
		manifest := `
apiVersion: batch/v1
kind: Job
metadata: {name: hopeless}
spec:
  podFailurePolicy:
    rules:
    - {action: FailJob, onExitCodes: {operator: In, values: [42]}}
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: ` + image + `, command: [sh, -c, "exit 42"]}]
`
		if out, err := kubectlIn(t, manifest, "apply", "-f", "-"); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		removeLater(t, "job/hopeless")
		must(t, "wait", "--for=condition=failed", "job/hopeless", "--timeout=60s")
		if got := must(t, "get", "job", "hopeless", "-o", "jsonpath={.status.conditions[*].reason} {.status.failed}"); got != "PodFailurePolicy PodFailurePolicy 1" {
			t.Errorf("it ended with %q", got)
		}
	})
	t.Run("by kubectl", func(t *testing.T) {
		t.Parallel()
		must(t, "create", "job", "later", "--image="+image, "--", "true")
		removeLater(t, "job/later")
		must(t, "wait", "--for=condition=complete", "job/later", "--timeout=60s")
		must(t, "delete", "job", "later", "--timeout=60s")
		if left := must(t, "get", "pods", "-l", "batch.kubernetes.io/job-name=later", "-o", "name"); strings.TrimSpace(left) != "" {
			t.Errorf("it leaves %s", left)
		}
	})
}

// TestCronJob: K27. A CronJob starts a Job at its minute; kubectl starts one
// by hand meanwhile.
func TestCronJob(t *testing.T) {
	t.Parallel()
	example(t, "cronjob.yaml")
	if row := strings.Fields(must(t, "get", "cronjob", "nightly", "--no-headers")); strings.Join(row[1:9], " ") != "0 3 * * * Europe/Zurich False 0" {
		t.Errorf("the row is %v", row)
	}
	must(t, "create", "job", "by-hand", "--from=cronjob/nightly")
	removeLater(t, "job/by-hand")
	must(t, "wait", "--for=condition=complete", "job/by-hand", "--timeout=60s")
	if got := strings.TrimSpace(must(t, "logs", "job/by-hand")); got != "cleaned" {
		t.Errorf("it printed %q", got)
	}
	must(t, "create", "cronjob", "tick", "--image="+image, "--schedule=* * * * *", "--", "true")
	removeLater(t, "cronjob/tick")
	must(t, "wait", "--for=jsonpath={.status.lastSuccessfulTime}", "cronjob/tick", "--timeout=100s")
	job := strings.TrimSpace(must(t, "get", "jobs", "-o", `jsonpath={.items[?(@.metadata.ownerReferences[0].name=="tick")].metadata.name}`))
	if !strings.HasPrefix(job, "tick-2") {
		t.Errorf("the Job is %q", job)
	}
}
