// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// What images must weigh, and can weigh each, to make a difference;
// kube-scheduler's figures.
const (
	leastImages = 23 << 20
	mostImage   = 1000 << 20
)

// locality is how much a node has already of the images that a Pod needs. What
// few nodes have counts less, lest all Pods go to the same few.
func locality(w *wish, i *nodeInfo, k *known) int64 {
	names := imagesOf(w.pod)
	if len(names) == 0 || len(i.node.Status.Images) == 0 {
		return 0
	}
	total := 0
	for _, other := range k.nodes {
		if other.node != nil {
			total++
		}
	}
	sum := int64(0)
	for _, name := range names {
		size, ok := imageSize(i.node, name)
		if !ok {
			continue
		}
		have := 0
		for _, other := range k.nodes {
			if other.node == nil {
				continue
			}
			if _, ok := imageSize(other.node, name); ok {
				have++
			}
		}
		sum += int64(float64(size) * (float64(have) / float64(total)))
	}
	most := mostImage * int64(len(names))
	return maxScore * (min(max(sum, leastImages), most) - leastImages) / (most - leastImages)
}

// imagesOf are the images of all containers and of image volumes, each with its
// tag.
func imagesOf(p *corev1.Pod) (names []string) {
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		names = append(names, tagged(c.Image))
	}
	for _, v := range p.Spec.Volumes {
		if v.Image != nil {
			names = append(names, tagged(v.Image.Reference))
		}
	}
	return names
}

func tagged(image string) string {
	if strings.LastIndex(image, ":") <= strings.LastIndex(image, "/") {
		return image + ":latest"
	}
	return image
}

func imageSize(n *corev1.Node, name string) (int64, bool) {
	for _, image := range n.Status.Images {
		if slices.Contains(image.Names, name) {
			return image.SizeBytes, true
		}
	}
	return 0, false
}
