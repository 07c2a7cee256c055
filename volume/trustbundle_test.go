// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func anchor(text string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(text)}))
}

func bundle(name, signer string, labels map[string]string, texts ...string) *certificatesv1.ClusterTrustBundle {
	b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer}}
	for _, text := range texts {
		b.Spec.TrustBundle += "who: " + text + "\n" + anchor(text)
	}
	return b
}

func TestTrustBundle(t *testing.T) {
	b := newBench(t)
	live := map[string]string{"live": "yes"}
	b.bundles = []*certificatesv1.ClusterTrustBundle{
		bundle("own", "", nil, "one", "two"), bundle("s:a", "example.com/s", live, "one", "three"), bundle("s:b", "example.com/s", live, "three", "four"),
		bundle("s:c", "example.com/s", nil, "five"), bundle("t:a", "example.com/t", live, "six"),
	}
	signed := func(signer string, s *metav1.LabelSelector, optional *bool) *corev1.ClusterTrustBundleProjection {
		return &corev1.ClusterTrustBundleProjection{SignerName: &signer, LabelSelector: s, Optional: optional, Path: "dir/ca.pem"}
	}
	named := func(name string, optional *bool) *corev1.ClusterTrustBundleProjection {
		return &corev1.ClusterTrustBundleProjection{Name: &name, Optional: optional, Path: "dir/ca.pem"}
	}
	chosen := &metav1.LabelSelector{MatchLabels: live}
	held := func(p *corev1.ClusterTrustBundleProjection) (texts []string) {
		t.Helper()
		content, err := os.ReadFile(filepath.Join(b.mount(projected(corev1.VolumeProjection{ClusterTrustBundle: p})), "dir/ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		again := ""
		for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
			texts = append(texts, string(block.Bytes))
			again += anchor(string(block.Bytes))
		}
		if string(content) != again {
			t.Errorf("more than certificates: %q", content)
		}
		slices.Sort(texts)
		return texts
	}
	for want, p := range map[string]*corev1.ClusterTrustBundleProjection{
		"one two":             named("own", nil),
		"four one three":      signed("example.com/s", chosen, nil),
		"five four one three": signed("example.com/s", &metav1.LabelSelector{}, nil),
		"":                    signed("example.com/s", nil, ptr(true)),
	} {
		if got := strings.Join(held(p), " "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := held(named("none", ptr(true))); got != nil {
		t.Errorf("an optional bundle that is not there holds %q", got)
	}
	const setUp = `MountVolume.SetUp failed for volume "v" : `
	for want, sources := range map[string][]*corev1.ClusterTrustBundleProjection{
		setUp + `while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io "none" not found`:                                                                                 {named("none", nil)},
		setUp + "combination of signerName and labelSelector matched zero ClusterTrustBundles":                                                                                              {signed("example.com/s", nil, nil)},
		setUp + `[combination of signerName and labelSelector matched zero ClusterTrustBundles, while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io "none" not found]`: {signed("example.com/u", chosen, ptr(false)), named("none", ptr(false))},
	} {
		var all []corev1.VolumeProjection
		for _, p := range sources {
			all = append(all, corev1.VolumeProjection{ClusterTrustBundle: p})
		}
		if got := b.refused(projected(all...)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Two Pods have the same anchors, each in an order of its own that stays.
func TestAnchorsHaveNoOrder(t *testing.T) {
	var texts []string
	for _, c := range "abcdefghijklmnopqrst" {
		texts = append(texts, string(c))
	}
	all := []*certificatesv1.ClusterTrustBundle{bundle("b", "", nil, texts...)}
	slices.Reverse(texts)
	reversed := []*certificatesv1.ClusterTrustBundle{bundle("b", "", nil, texts...)}
	if string(anchors("u-1", all)) != string(anchors("u-1", reversed)) {
		t.Error("the order follows the bundle's")
	}
	if string(anchors("u-1", all)) == string(anchors("u-2", all)) {
		t.Error("two Pods have one order")
	}
}
