// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// trustBundle is a file of the trust anchors of one ClusterTrustBundle, or of
// those of a signer that a selector finds. A missing one that is optional
// leaves the file empty.
func (m *Mounter) trustBundle(ctx context.Context, p *corev1.Pod, b *corev1.ClusterTrustBundleProjection) (files, error) {
	optional := b.Optional != nil && *b.Optional
	var bundles []*certificatesv1.ClusterTrustBundle
	var err error
	switch {
	case b.Name != nil:
		bundles, err = m.bundleOfName(ctx, *b.Name, optional)
	case b.SignerName != nil:
		bundles, err = m.bundlesOfSigner(ctx, *b.SignerName, b.LabelSelector, optional)
	default:
		err = errors.New("ClusterTrustBundle projection requires either name or signerName to be set")
	}
	if err != nil {
		return nil, err
	}
	return files{filepath.Clean(b.Path): private(p, anchors(p.UID, bundles))}, nil
}

func (m *Mounter) bundleOfName(ctx context.Context, name string, optional bool) ([]*certificatesv1.ClusterTrustBundle, error) {
	b, err := m.Sources.ClusterTrustBundle(ctx, name)
	switch {
	case apierrors.IsNotFound(err) && optional:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("while getting ClusterTrustBundle: %w", err)
	}
	return []*certificatesv1.ClusterTrustBundle{b}, nil
}

// bundlesOfSigner: no selector finds nothing, an empty one all.
func (m *Mounter) bundlesOfSigner(ctx context.Context, signer string, s *metav1.LabelSelector, optional bool) ([]*certificatesv1.ClusterTrustBundle, error) {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil, fmt.Errorf("while parsing label selector: %w", err)
	}
	all, err := m.Sources.ClusterTrustBundles(ctx, signer)
	if err != nil {
		return nil, fmt.Errorf("while listing ClusterTrustBundles matching label selector %v: %w", s, err)
	}
	var found []*certificatesv1.ClusterTrustBundle
	for _, b := range all {
		if selector.Matches(labels.Set(b.Labels)) {
			found = append(found, b)
		}
	}
	if len(found) == 0 && !optional {
		return nil, errors.New("combination of signerName and labelSelector matched zero ClusterTrustBundles")
	}
	return found, nil
}

// anchors are the certificates of all bundles, each once and without what stood
// around them. Their order means nothing and is another one for every Pod, so
// that nobody comes to rely on it; for one Pod it stays.
func anchors(pod types.UID, bundles []*certificatesv1.ClusterTrustBundle) []byte {
	ders := map[[sha256.Size]byte][]byte{}
	for _, b := range bundles {
		for block, rest := pem.Decode([]byte(b.Spec.TrustBundle)); block != nil; block, rest = pem.Decode(rest) {
			ders[sha256.Sum256(append([]byte(pod), block.Bytes...))] = block.Bytes
		}
	}
	order := make([][sha256.Size]byte, 0, len(ders))
	for h := range ders {
		order = append(order, h)
	}
	slices.SortFunc(order, func(a, b [sha256.Size]byte) int { return bytes.Compare(a[:], b[:]) })
	var out []byte
	for _, h := range order {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ders[h]})...)
	}
	return out
}
