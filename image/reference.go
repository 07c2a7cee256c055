// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// Normalize completes a reference as docker and Kubernetes do: registry and
// repository filled in, the tag latest where there is neither tag nor digest,
// and no tag where there is a digest. One that cannot be read is
// errdefs.ErrInvalidArgument.
func Normalize(ref string) (string, error) {
	named, err := parse(ref)
	if err != nil {
		return "", err
	}
	return named.String(), nil
}

func parse(ref string) (reference.Named, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, fmt.Errorf("cannot read image reference %q: %w", ref, classed{err, errdefs.ErrInvalidArgument})
	}
	return named, nil
}

// names are what an image is called after a pull or import by ref of what has
// this digest: a tag, unless ref is by digest, and a digest in its repository.
func names(ref string, digest string) (tags, digests []string, err error) {
	named, err := parse(ref)
	if err != nil {
		return nil, nil, err
	}
	digests = []string{reference.TrimNamed(named).String() + "@" + digest}
	if tagged, ok := named.(reference.NamedTagged); ok {
		tags = []string{tagged.String()}
	}
	return tags, digests, nil
}

// classed is an error that also belongs to a class of errdefs, with a text
// that does not show it.
type classed struct {
	error
	class error
}

func (c classed) Unwrap() []error { return []error{c.error, c.class} }

// classify gives an error a class, unless it has it already.
func classify(err, class error) error {
	if errors.Is(err, class) {
		return err
	}
	return classed{err, class}
}
