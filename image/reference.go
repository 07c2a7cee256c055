// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"

	"github.com/distribution/reference"
)

// Normalize completes a reference as docker and Kubernetes do: registry and
// repository filled in, the tag latest where there is neither tag nor digest,
// and no tag where there is a digest.
func Normalize(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("cannot read image reference %q: %w", ref, err)
	}
	return named.String(), nil
}

// tagOf is the full name when ref has a tag, and the repository.
func tagOf(ref string) (tag, repo string, err error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", "", fmt.Errorf("cannot read image reference %q: %w", ref, err)
	}
	repo = named.Name()
	if _, digested := named.(reference.Digested); digested {
		return "", repo, nil
	}
	return reference.TagNameOnly(named).String(), repo, nil
}
