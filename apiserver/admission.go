// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
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
	security, err := podadmission.NewPodSecurity(securityObjects{s}, securityObjects{s})
	if err != nil {
		return err
	}
	plugins := podadmission.Plugins(podadmission.Objects{
		ServiceAccount: s.accountForPod,
		PriorityClass: func(ctx context.Context, name string) (*schedulingv1.PriorityClass, error) {
			return getFresh[schedulingv1.PriorityClass](ctx, s, schedulingv1.Resource("priorityclasses"), "", name)
		},
		RuntimeClass: func(ctx context.Context, name string) (*nodev1.RuntimeClass, error) {
			return getFresh[nodev1.RuntimeClass](ctx, s, nodev1.Resource("runtimeclasses"), "", name)
		},
		LimitRanges: s.limitRanges,
		Node:        boundObjects{s, true}.Node,
		Pod:         boundObjects{s, true}.Pod,
		Allowed: func(ctx context.Context, u user.Info, verb string, gr schema.GroupResource, namespace, name string) bool {
			return s.allowed(ctx, u, verb, gr, namespace, name)
		},
		PriorityClasses: s.informers.Scheduling().V1().PriorityClasses().Lister(),
		IngressClasses:  s.informers.Networking().V1().IngressClasses().Lister(),
		StorageClasses:  s.informers.Storage().V1().StorageClasses().Lister(),
	}, security)
	configured, err := s.configuredAdmission(c, client)
	if err != nil {
		return err
	}
	all := slices.Concat([]admission.Interface{life}, plugins, configured)
	c.AdmissionControl, err = reinvoking(admission.NewChainHandler(all...))
	return err
}

// reinvoking lets plugins that mutate be asked again about what others of the
// chain have changed. The library has that in its loader of plugins only.
func reinvoking(chain admission.Interface) (admission.Interface, error) {
	const name = "all"
	loader := admission.NewPlugins()
	loader.Register(name, func(io.Reader) (admission.Interface, error) { return chain, nil })
	return loader.NewFromPlugins([]string{name}, unconfigured{}, admission.PluginInitializers{}, nil)
}

// unconfigured: plugins have no files.
type unconfigured struct{}

func (unconfigured) ConfigFor(string) (io.Reader, error) { return nil, nil }

// securityObjects shows pod security the namespaces, as they are now, and
// their Pods.
type securityObjects struct{ s *Server }

func (o securityObjects) GetNamespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	return getFresh[corev1.Namespace](ctx, o.s, corev1.Resource("namespaces"), "", name)
}

func (o securityObjects) ListPods(ctx context.Context, namespace string) ([]*corev1.Pod, error) {
	return o.s.pods(genericapirequest.WithNamespace(ctx, namespace), &metainternalversion.ListOptions{})
}

// pods are those of the context's namespace.
func (s *Server) pods(ctx context.Context, opts *metainternalversion.ListOptions) ([]*corev1.Pod, error) {
	found, err := s.stores.main[corev1.Resource("pods")].List(ctx, opts)
	if err != nil {
		return nil, err
	}
	list := found.(*corev1.PodList)
	out := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out, nil
}

// accountPatience is how long a Pod's creation waits for the account "default"
// of a namespace that was made a moment ago.
const accountPatience = time.Second

// accountForPod finds a service account; the default one, which a controller
// makes in every new namespace, is given a moment to appear.
func (s *Server) accountForPod(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	account, err := boundObjects{s, true}.ServiceAccount(ctx, namespace, name)
	if name != "default" || !apierrors.IsNotFound(err) {
		return account, err
	}
	ctx, cancel := context.WithTimeout(ctx, accountPatience)
	defer cancel()
	store := s.stores.main[schema.GroupResource{Resource: "serviceaccounts"}]
	w, watchErr := store.Watch(genericapirequest.WithNamespace(ctx, namespace), &metainternalversion.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name)})
	if watchErr != nil {
		return nil, err
	}
	defer w.Stop()
	for {
		select {
		case _, ok := <-w.ResultChan():
			if !ok {
				return nil, err
			}
			if found, err := (boundObjects{s, false}).ServiceAccount(ctx, namespace, name); err == nil {
				return found, nil
			}
		case <-ctx.Done():
			return nil, err
		}
	}
}
