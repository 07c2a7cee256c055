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
func locality(w *wish, i *nodeInfo, b *board) int64 {
	if len(i.node.Status.Images) == 0 {
		return 0
	}
	names := imagesOf(w.pod)
	if len(names) == 0 {
		return 0
	}
	sum := int64(0)
	for _, name := range names {
		if size, ok := imageSize(i.node, name); ok {
			sum += int64(float64(size) * (float64(b.images[name]) / float64(len(b.nodes))))
		}
	}
	most := mostImage * int64(len(names))
	return maxScore * (min(max(sum, leastImages), most) - leastImages) / (most - leastImages)
}

// imagesOn are the names of a node's images, each once.
func imagesOn(n *corev1.Node) map[string]bool {
	names := make(map[string]bool, len(n.Status.Images))
	for _, image := range n.Status.Images {
		for _, name := range image.Names {
			names[name] = true
		}
	}
	return names
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
