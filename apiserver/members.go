// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"maps"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
		func() error { return b.describeCluster(auth.Cluster{Pods: c.Pods, Services: c.Services}) },
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

// describeCluster keeps the ConfigMap as this server was started.
func (b bootstrap) describeCluster(c auth.Cluster) error {
	want := c.ConfigMap()
	configs := b.client.CoreV1().ConfigMaps(want.Namespace)
	have, err := configs.Get(b.ctx, want.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = configs.Create(b.ctx, want, metav1.CreateOptions{})
		return unlessThere(err)
	case err != nil || maps.Equal(have.Data, want.Data):
		return err
	}
	have.Data = want.Data
	_, err = configs.Update(b.ctx, have, metav1.UpdateOptions{})
	return err
}
