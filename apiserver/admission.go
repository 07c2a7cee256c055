// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"

	podadmission "github.com/peapod/peapod/apiserver/admission"
)

// admission is the chain every write passes: first who may still be written
// to, then what is filled in, in upstream's order.
func (s *Server) admission(c *genericapiserver.Config, client kubernetes.Interface) error {
	life, err := lifecycle.NewLifecycle(sets.New[string]("default", "kube-system", "kube-public"))
	if err != nil {
		return fmt.Errorf("cannot set up admission: %w", err)
	}
	life.SetExternalKubeClientSet(client)
	life.SetExternalKubeInformerFactory(s.informers)
	if err := life.ValidateInitialization(); err != nil {
		return fmt.Errorf("cannot set up admission: %w", err)
	}
	chain := []admission.Interface{life}
	for _, p := range podadmission.Plugins(podadmission.Listers{
		ServiceAccounts: boundObjects{s}.ServiceAccount,
		PriorityClasses: s.informers.Scheduling().V1().PriorityClasses().Lister(),
		RuntimeClasses:  s.informers.Node().V1().RuntimeClasses().Lister(),
	}) {
		chain = append(chain, p)
	}
	c.AdmissionControl = admission.NewChainHandler(chain...)
	return nil
}
