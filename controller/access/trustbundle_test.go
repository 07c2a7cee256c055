// SPDX-License-Identifier: Apache-2.0

package access

import (
	"regexp"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/world"
)

// The API server's signer has one bundle, with the CA that every namespace is
// told of; it comes back, and others of that signer go.
func TestTrustBundleOfTheAPI(t *testing.T) {
	var root corev1.ConfigMapList
	world.Until(t, "the root CA is published", &root, func() bool { return len(root.Items) == 1 }, client.InNamespace("default"))
	ca := root.Items[0].Data["ca.crt"]
	named := regexp.MustCompile("^kubernetes.io:kube-apiserver-serving:[0-9a-f]{24}$")
	var bundles certificatesv1.ClusterTrustBundleList
	alone := func() bool {
		return len(bundles.Items) == 1 && named.MatchString(bundles.Items[0].Name) && bundles.Items[0].Spec.TrustBundle == ca
	}
	signed := client.MatchingFields{"spec.signerName": "kubernetes.io/kube-apiserver-serving"}
	world.Until(t, "the bundle is there", &bundles, alone, signed)
	if err := world.Client.Delete(t.Context(), &bundles.Items[0]); err != nil {
		t.Fatal(err)
	}
	world.Until(t, "the bundle is back", &bundles, alone, signed)
	older := &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes.io:kube-apiserver-serving:older"},
		Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: "kubernetes.io/kube-apiserver-serving", TrustBundle: ca},
	}
	if err := world.Client.Create(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	world.Until(t, "an older bundle is gone", &bundles, alone, signed)
}
