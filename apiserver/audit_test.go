// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  userGroups: ["system:masters"]
  users: ["system:apiserver"]
- level: Metadata
  resources: [{group: "", resources: ["secrets", "serviceaccounts/token"]}]
- level: RequestResponse
  namespaces: ["default"]
  resources: [{group: "", resources: ["configmaps"]}]
- level: None
`

// readAudit reads the events of a log by resource, subresource and name.
func readAudit(t *testing.T, path string) map[string]auditv1.Event {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]auditv1.Event{}
	for line := range bytes.Lines(b) {
		var e auditv1.Event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if e.Kind != "Event" || e.APIVersion != "audit.k8s.io/v1" || e.AuditID == "" || e.Stage != auditv1.StageResponseComplete {
			t.Errorf("an event is %s", line)
		}
		all[strings.Join([]string{e.Verb, e.ObjectRef.Resource, e.ObjectRef.Subresource, e.ObjectRef.Name}, " ")] = e
	}
	return all
}

// The log has who did what, as much of it as the policy says, and no more.
func TestAuditLog(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log", "audit.log")
	s := serve(t, dir, "--audit-policy-file="+written(t, filepath.Join(dir, "policy"), auditPolicy), "--audit-log-path="+log)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "quiet"}, StringData: map[string]string{"k": "nobody-may-read-this"}}
	if _, err := s.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := s.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	loud := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "loud"}, Data: map[string]string{"k": "everybody-may"}}
	if _, err := s.CoreV1().ConfigMaps("default").Create(t.Context(), loud, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	jane := s.with(t, func(c *rest.Config) {
		c.Impersonate = rest.ImpersonationConfig{UserName: "jane", Groups: []string{"dev"}}
	})
	if _, err := jane.CoreV1().ConfigMaps("default").Get(t.Context(), "loud", metav1.GetOptions{}); err == nil {
		t.Error("jane may read")
	}
	if _, err := s.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	s.end(t)

	events := readAudit(t, log)
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, private := range []string{"nobody-may-read-this", "bm9ib2R5", token.Status.Token} {
		if bytes.Contains(b, []byte(private)) {
			t.Errorf("the log has %q", private)
		}
	}
	if info, err := os.Stat(log); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the log is %v, %v", info, err)
	}
	for key, level := range map[string]auditv1.Level{
		"create secrets  quiet": auditv1.LevelMetadata, "create serviceaccounts token default": auditv1.LevelMetadata,
		"create configmaps  loud": auditv1.LevelRequestResponse, "get configmaps  loud": auditv1.LevelRequestResponse,
	} {
		e, found := events[key]
		whole := level == auditv1.LevelRequestResponse && e.Verb == "create"
		if !found || e.Level != level || e.User.Username != "kubernetes-admin" || len(e.SourceIPs) == 0 || (e.RequestObject != nil) != whole || (e.ResponseObject != nil) != (level == auditv1.LevelRequestResponse) {
			t.Errorf("%s: %+v", key, e)
		}
	}
	if e := events["get configmaps  loud"]; e.ImpersonatedUser == nil || e.ImpersonatedUser.Username != "jane" || e.ResponseStatus.Code != 403 || e.Annotations["authorization.k8s.io/decision"] != "forbid" {
		t.Errorf("what jane asked: %+v", e)
	}
	if e := events["create configmaps  loud"]; e.ResponseStatus.Code != 201 || e.Annotations["authorization.k8s.io/decision"] != "allow" || !bytes.Contains(e.RequestObject.Raw, []byte("everybody-may")) {
		t.Errorf("a body: %+v", e)
	}
	if _, told := events["get namespaces  default"]; told {
		t.Error("what the policy leaves out is in the log")
	}
}

// A log that is full goes on in another file.
func TestAuditLogRotates(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log", "audit.log")
	s := serve(t, dir, "--audit-policy-file="+written(t, filepath.Join(dir, "policy"), auditPolicy), "--audit-log-path="+log, "--audit-log-maxsize=1")
	for i := range 4 {
		big := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("big-", i)}, Data: map[string]string{"k": strings.Repeat("x", 200<<10)}}
		if _, err := s.CoreV1().ConfigMaps("default").Create(t.Context(), big, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s.end(t)
	if files, err := filepath.Glob(filepath.Join(dir, "log", "audit-*.log")); err != nil || len(files) != 1 {
		t.Errorf("old logs: %v, %v", files, err)
	}
}

// hookTo is a kubeconfig that leads to a server of the test.
func hookTo(t *testing.T, dir string, h http.HandlerFunc) (kubeconfig string) {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	c := clientcmdapi.NewConfig()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	c.Clusters["hook"] = &clientcmdapi.Cluster{Server: server.URL, CertificateAuthorityData: ca}
	c.AuthInfos["api"] = &clientcmdapi.AuthInfo{}
	c.Contexts["hook"] = &clientcmdapi.Context{Cluster: "hook", AuthInfo: "api"}
	c.CurrentContext = "hook"
	path := filepath.Join(dir, "hook.kubeconfig")
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// A webhook is told before the answer in the mode that says so.
func TestAuditWebhook(t *testing.T) {
	dir := t.TempDir()
	told := make(chan auditv1.Event, 100)
	hook := hookTo(t, dir, func(_ http.ResponseWriter, r *http.Request) {
		var list auditv1.EventList
		if err := json.NewDecoder(r.Body).Decode(&list); err != nil {
			t.Error(err)
		}
		for _, e := range list.Items {
			told <- e
		}
	})
	s := serve(t, dir, "--audit-policy-file="+written(t, filepath.Join(dir, "policy"), auditPolicy), "--audit-webhook-config-file="+hook, "--audit-webhook-mode=blocking")
	if _, err := s.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	s.end(t)
	close(told)
	for e := range told {
		if e.User.Username == "kubernetes-admin" && e.Verb == "list" && e.ObjectRef.Resource == "secrets" && e.Level == auditv1.LevelMetadata {
			return
		}
	}
	t.Error("the webhook has not heard of it")
}
