// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/auth"
)

// forMembers tells machines that join what the cluster is like.
func (b bootstrap) forMembers() []func() error {
	c := b.server.config
	if !c.Pods.IsValid() {
		return nil
	}
	role, binding := auth.ClusterReaders()
	return []func() error{
		func() error {
			return keepConfig(b.ctx, b.client, auth.Cluster{Pods: c.Pods, Services: c.Services}.ConfigMap())
		},
		func() error {
			_, err := b.client.RbacV1().Roles(role.Namespace).Create(b.ctx, role, metav1.CreateOptions{})
			return unlessThere(err)
		},
		func() error {
			_, err := b.client.RbacV1().RoleBindings(binding.Namespace).Create(b.ctx, binding, metav1.CreateOptions{})
			return unlessThere(err)
		},
	}
}
