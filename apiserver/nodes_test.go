// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// podOn makes a Pod on a node that reads a Secret and a ConfigMap of its name.
func podOn(t *testing.T, name, node string) *corev1.Pod {
	t.Helper()
	for _, err := range []error{
		second(admin.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})),
		second(admin.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	account(t, name)
	p, err := admin.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: name,
			Volumes: []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}},
			Containers: []corev1.Container{{Name: "c", Image: "i", EnvFrom: []corev1.EnvFromSource{{
				ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}},
			}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func second[T any](_ T, err error) error { return err }

// A node reads what its Pods refer to, and writes what is its own.
func TestNodesKeepToTheirOwn(t *testing.T) {
	mine, other := podOn(t, "keep-a", "keep-1"), podOn(t, "keep-b", "keep-2")
	for _, name := range []string{"keep-1", "keep-2"} {
		if _, err := admin.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	node := as(t, "system:node:keep-1", "system:nodes")
	core, ctx, dry := node.CoreV1(), t.Context(), []string{"All"}
	token := func(p *corev1.Pod, uid types.UID, audiences ...string) error {
		return second(core.ServiceAccounts("default").CreateToken(ctx, p.Name, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences: audiences, BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: uid},
		}}, metav1.CreateOptions{}))
	}
	patch := func(name, text string) error {
		return second(core.Nodes().Patch(ctx, name, types.MergePatchType, []byte(text), metav1.PatchOptions{DryRun: dry}))
	}
	status := func(p *corev1.Pod, text string) error {
		return second(core.Pods("default").Patch(ctx, p.Name, types.MergePatchType, []byte(text), metav1.PatchOptions{DryRun: dry}, "status"))
	}
	lease := func(name string) error {
		return second(node.CoordinationV1().Leases("kube-node-lease").Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{DryRun: dry}))
	}
	remove := func(name string) error {
		return core.Pods("default").Delete(ctx, name, metav1.DeleteOptions{DryRun: dry})
	}
	const unrelated = "no relationship found between node 'keep-1' and this object"
	for name, c := range map[string]struct {
		do   func() error
		want string
	}{
		"a Secret of its Pod":           {func() error { return second(core.Secrets("default").Get(ctx, "keep-a", metav1.GetOptions{})) }, ""},
		"another's Secret":              {func() error { return second(core.Secrets("default").Get(ctx, "keep-b", metav1.GetOptions{})) }, unrelated},
		"a Secret of another namespace": {func() error { return second(core.Secrets("kube-system").Get(ctx, "keep-a", metav1.GetOptions{})) }, unrelated},
		"all Secrets":                   {func() error { return second(core.Secrets("default").List(ctx, metav1.ListOptions{})) }, "No Object name found"},
		"a ConfigMap of its Pod":        {func() error { return second(core.ConfigMaps("default").Get(ctx, "keep-a", metav1.GetOptions{})) }, ""},
		"a ConfigMap, to write it": {func() error {
			return core.ConfigMaps("default").Delete(ctx, "keep-a", metav1.DeleteOptions{DryRun: dry})
		}, "can only read resources of this type"},
		"its Pods": {func() error {
			return second(core.Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=keep-1"}))
		}, ""},
		"another's Pods": {func() error {
			return second(core.Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=keep-2"}))
		}, "can only list/watch pods with spec.nodeName field selector"},
		"its Node":                {func() error { return second(core.Nodes().Get(ctx, "keep-1", metav1.GetOptions{})) }, ""},
		"another Node":            {func() error { return second(core.Nodes().Get(ctx, "keep-2", metav1.GetOptions{})) }, "node 'keep-1' cannot read 'keep-2', only its own Node object"},
		"Services":                {func() error { return second(core.Services("").List(ctx, metav1.ListOptions{})) }, ""},
		"a token of its Pod":      {func() error { return token(mine, mine.UID) }, ""},
		"a token of another":      {func() error { return token(other, other.UID) }, unrelated},
		"a token of a Pod before": {func() error { return token(mine, "x") }, "the UID in the bound object reference (x) does not match the UID in record"},
		"a token for others":      {func() error { return token(mine, mine.UID, "vault") }, `system:node:keep-1 is not authorized to request tokens for audience "vault"`},
		"an unbound token": {func() error {
			return second(core.ServiceAccounts("default").CreateToken(ctx, "keep-a", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}))
		}, "node requested token not bound to a pod"},
		"an end of its Pod": {func() error { return remove("keep-a") }, ""},
		"an end of another": {func() error { return remove("keep-b") }, `node "keep-1" can only delete pods with spec.nodeName set to itself`},
		"status of its Pod": {func() error { return status(mine, `{"status":{"phase":"Running"}}`) }, ""},
		"labels by status":  {func() error { return status(mine, `{"metadata":{"labels":{"a":"b"}}}`) }, `node "keep-1" cannot update labels through pod status`},
		"status of another": {func() error { return status(other, `{"status":{"phase":"Running"}}`) }, `node "keep-1" can only update pod status for pods with spec.nodeName set to itself`},
		"a Pod that is no mirror": {func() error {
			return second(core.Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: mine.Spec}, metav1.CreateOptions{DryRun: dry}))
		}, `node "keep-1" can only create mirror pods`},
		"a label of its own": {func() error {
			return patch("keep-1", `{"metadata":{"labels":{"example.com/a":"b","topology.kubernetes.io/zone":"z"}}}`)
		}, ""},
		"a restricted label": {func() error {
			return patch("keep-1", `{"metadata":{"labels":{"node-restriction.kubernetes.io/a":"b"}}}`)
		}, "is not allowed to modify labels: node-restriction.kubernetes.io/a"},
		"a label of Kubernetes": {func() error { return patch("keep-1", `{"metadata":{"labels":{"node-role.kubernetes.io/a":"b"}}}`) }, "is not allowed to modify labels: node-role.kubernetes.io/a"},
		"another Node's label":  {func() error { return patch("keep-2", `{"metadata":{"labels":{"a":"b"}}}`) }, `node "keep-1" is not allowed to modify node "keep-2"`},
		"a taint":               {func() error { return patch("keep-1", `{"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}`) }, `node "keep-1" is not allowed to modify taints`},
		"its Lease":             {func() error { return lease("keep-1") }, ""},
		"another's Lease":       {func() error { return lease("keep-2") }, "can only access node lease with the same name as the requesting node"},
		"its certificate": {func() error {
			return second(node.CertificatesV1().CertificateSigningRequests().Create(ctx, nodeRequest(t, "keep-1"), metav1.CreateOptions{DryRun: dry}))
		}, ""},
		"another's certificate": {func() error {
			return second(node.CertificatesV1().CertificateSigningRequests().Create(ctx, nodeRequest(t, "keep-2"), metav1.CreateOptions{DryRun: dry}))
		}, "can only create a node CSR with CN=system:node:keep-1"},
		"no name": {func() error {
			return second(as(t, "system:node:", "system:nodes").CoreV1().Nodes().Get(ctx, "keep-1", metav1.GetOptions{}))
		}, `unknown node for user "system:node:"`},
		"not in the group": {func() error {
			return second(as(t, "system:node:keep-1").CoreV1().Nodes().Get(ctx, "keep-1", metav1.GetOptions{}))
		}, "cannot get resource"},
	} {
		if err := c.do(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// nodeRequest asks for a client certificate of a node.
func nodeRequest(t *testing.T, name string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}
}
