// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
)

// AwaitRange makes the Node of a machine that joins, if there is none, and waits
// until the cluster has given it its range of Pod addresses.
func AwaitRange(ctx context.Context, c kubernetes.Interface, name string) (podCIDR string, err error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("cannot get a range of Pod addresses for node %s: %w", name, err)
	}
	_, err = c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: nodeLabels(name)}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fail(err)
	}
	lw := cache.NewListWatchFromClient(c.CoreV1().RESTClient(), "nodes", "", fields.OneTermEqualSelector(metav1.ObjectNameField, name))
	_, err = toolswatch.UntilWithSync(ctx, lw, &corev1.Node{}, nil, func(e watch.Event) (bool, error) {
		if n, ok := e.Object.(*corev1.Node); ok && e.Type != watch.Deleted {
			podCIDR = n.Spec.PodCIDR
		}
		return podCIDR != "", nil
	})
	if err != nil {
		return fail(err)
	}
	return podCIDR, nil
}
