// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/peapod/peapod/api/quota"
	"github.com/peapod/peapod/api/validation"
)

// onDemand is a plugin of the library that is made with the first object that
// configures it: until then the plugin would do nothing, but hold the
// environment of CEL and look for changes every second.
type onDemand struct {
	*admission.Handler
	seen   cache.DoneChecker // all stored objects have been seen
	make   func() (admission.Interface, error)
	once   sync.Once
	mu     sync.RWMutex // guards the fields below
	plugin admission.Interface
	failed error
}

var _ admission.MutationInterface = (*onDemand)(nil)
var _ admission.ValidationInterface = (*onDemand)(nil)

// whenThereIs makes a plugin when the first object comes to an informer.
func whenThereIs(configured cache.SharedIndexInformer, mk func() (admission.Interface, error), on ...admission.Operation) (*onDemand, error) {
	o := &onDemand{Handler: admission.NewHandler(on...), make: mk}
	first := func(any) { o.once.Do(o.begin) }
	handler, err := configured.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: first})
	if err != nil {
		return nil, err
	}
	o.seen = handler.HasSyncedChecker()
	return o, nil
}

func (o *onDemand) begin() {
	p, err := o.make()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.plugin, o.failed = p, err
}

// of is the plugin, or nil without anything that configures it. What is stored
// counts from the first request on.
func (o *onDemand) of(ctx context.Context) (admission.Interface, error) {
	select {
	case <-o.seen.Done():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.plugin, o.failed
}

// Admit asks the plugin, if it mutates.
func (o *onDemand) Admit(ctx context.Context, a admission.Attributes, i admission.ObjectInterfaces) error {
	p, err := o.of(ctx)
	if m, ok := p.(admission.MutationInterface); ok && p.Handles(a.GetOperation()) {
		return m.Admit(ctx, a, i)
	}
	return err
}

// Validate asks the plugin, if it validates.
func (o *onDemand) Validate(ctx context.Context, a admission.Attributes, i admission.ObjectInterfaces) error {
	p, err := o.of(ctx)
	if v, ok := p.(admission.ValidationInterface); ok && p.Handles(a.GetOperation()) {
		return v.Validate(ctx, a, i)
	}
	return err
}

// quotaWorkers is how many namespaces are charged at once, as upstream.
const quotaWorkers = 5

// configuredAdmission are the plugins that users configure by objects, in
// upstream's order.
func (s *Server) configuredAdmission(c *genericapiserver.Config, client kubernetes.Interface) ([]admission.Interface, error) {
	config := s.ClientConfig("system:apiserver", "system:masters")
	dynamicClient, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	http, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	// It asks discovery again about what it does not know yet.
	if s.mapper, err = apiutil.NewDynamicRESTMapper(config, http); err != nil {
		return nil, err
	}
	ready := admission.PluginInitializers{
		webhookinit.NewPluginInitializer(s.webhookAccess(), webhookServices{s}),
		initializer.New(client, dynamicClient, s.informers, c.Authorization.Authorizer, c.FeatureGate, c.EffectiveVersion, c.DrainedNotify(), s.mapper),
	}
	complete := func(p admission.Interface, err error) (admission.Interface, error) {
		if err != nil {
			return nil, err
		}
		if w, ok := p.(initializer.WantsExcludedAdmissionResources); ok {
			w.SetExcludedAdmissionResources(validation.NotIntercepted())
		}
		ready.Initialize(p)
		if err := admission.ValidateInitialization(p); err != nil {
			return nil, fmt.Errorf("cannot set up admission: %w", err)
		}
		return p, nil
	}
	mutate := func() (admission.Interface, error) {
		// The plugin asks for the schemas when it is made, and refuses what
		// comes before it has them: they are described first.
		if _, err := client.Discovery().OpenAPIV3().Paths(); err != nil {
			return nil, fmt.Errorf("cannot set up mutating policies: %w", err)
		}
		return complete(mutatingpolicy.NewPlugin(nil))
	}
	charge := func() (admission.Interface, error) {
		p, err := resourcequota.NewResourceQuota(nil, quotaWorkers)
		if err != nil {
			return nil, err
		}
		p.SetDrainedNotification(c.DrainedNotify()) // before the next
		p.SetQuotaConfiguration(quota.Admission())
		return complete(p, nil)
	}
	objects := s.informers.Admissionregistration().V1()
	writes := []admission.Operation{admission.Create, admission.Update, admission.Connect}
	all := append(writes, admission.Delete)
	var plugins []admission.Interface
	for _, p := range []struct {
		configured cache.SharedIndexInformer
		make       func() (admission.Interface, error)
		on         []admission.Operation
	}{
		{objects.MutatingAdmissionPolicies().Informer(), mutate, writes},
		{objects.MutatingWebhookConfigurations().Informer(), func() (admission.Interface, error) { return complete(mutatingwebhook.NewMutatingWebhook(nil)) }, all},
		{objects.ValidatingAdmissionPolicies().Informer(), func() (admission.Interface, error) { return complete(validatingpolicy.NewPlugin(nil)) }, all},
		{objects.ValidatingWebhookConfigurations().Informer(), func() (admission.Interface, error) {
			return complete(validatingwebhook.NewValidatingAdmissionWebhook(nil))
		}, all},
		// Last: what nobody else refuses is charged.
		{s.informers.Core().V1().ResourceQuotas().Informer(), charge, writes},
	} {
		plugin, err := whenThereIs(p.configured, p.make, p.on...)
		if err != nil {
			return nil, err
		}
		plugins = append(plugins, plugin)
	}
	// The bindings' informers run from the start, as those of the policies.
	objects.MutatingAdmissionPolicyBindings().Informer()
	objects.ValidatingAdmissionPolicyBindings().Informer()
	return plugins, nil
}
