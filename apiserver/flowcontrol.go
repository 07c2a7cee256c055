// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"strconv"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	flowbootstrap "k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/flowcontrol"
	fq "k8s.io/apiserver/pkg/util/flowcontrol/fairqueuing"
	fcrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// flowRows say which requests wait for which others when there are many.
func flowRows() []*row {
	gv := flowcontrolv1.SchemeGroupVersion
	return []*row{
		resource[flowcontrolv1.FlowSchema, flowcontrolv1.FlowSchemaList](gv, "FlowSchema", "flowschemas", "flowschema", hooks[flowcontrolv1.FlowSchema]{
			Defaults: defaults.FlowSchema, Validate: validation.FlowSchema, ValidateUpdate: validation.FlowSchemaUpdate,
			ValidateStatus: validation.FlowSchemaStatusUpdate, Columns: table.FlowSchema(),
		}, clusterScoped, metadataKept),
		resource[flowcontrolv1.PriorityLevelConfiguration, flowcontrolv1.PriorityLevelConfigurationList](gv, "PriorityLevelConfiguration", "prioritylevelconfigurations", "prioritylevelconfiguration", hooks[flowcontrolv1.PriorityLevelConfiguration]{
			Defaults: defaults.PriorityLevelConfiguration, Validate: validation.PriorityLevelConfiguration, ValidateUpdate: validation.PriorityLevelConfigurationUpdate,
			ValidateStatus: validation.PriorityLevelConfigurationStatusUpdate, Columns: table.PriorityLevelConfiguration(),
		}, clusterScoped, metadataKept),
	}
}

// flowControl has as many requests under way as kube-apiserver, shared by what
// the objects say.
func (s *Server) flowControl(c *genericapiserver.Config, client kubernetes.Interface) {
	c.FlowControl = ownPass{flowcontrol.New(s.informers, client.FlowcontrolV1(), c.MaxRequestsInFlight+c.MaxMutatingRequestsInFlight)}
}

// ownPass lets the components of this process by: there is one of each, none of
// which asks for more than is good for it, and what they do is what others wait
// for.
type ownPass struct{ flowcontrol.Interface }

// Handle runs a request of this process, and has others take their turn.
func (o ownPass) Handle(ctx context.Context, digest flowcontrol.RequestDigest,
	note func(*flowcontrolv1.FlowSchema, *flowcontrolv1.PriorityLevelConfiguration, string),
	estimate func() fcrequest.WorkEstimate, queued fq.QueueNoteFn, run func()) {
	if ctx.Value(inMemory{}) != nil {
		run()
		return
	}
	o.Interface.Handle(ctx, digest, note, estimate, queued, run)
}

// flowKeeper keeps the schemas and levels that every server has: the mandatory
// ones as they must be, the suggested ones as they are here unless somebody
// has changed them, and none that says it is kept and is not of this release.
// What is deleted comes again. It is upstream's, once a minute there.
type flowKeeper struct {
	queue   workqueue.TypedRateLimitingInterface[string]
	schemas keptFlows[*flowcontrolv1.FlowSchema]
	levels  keptFlows[*flowcontrolv1.PriorityLevelConfiguration]
}

// keptFlows are the objects of one of the two kinds.
type keptFlows[T flowObject] struct {
	client   flowClient[T]
	get      func(name string) (T, error)
	wanted   map[string]keptFlow[T]
	same     func(want, have T) bool // as to the spec
	copySpec func(into, from T) T
}

type keptFlow[T any] struct {
	object    T
	mandatory bool
}

type flowObject interface {
	comparable
	object
}

type flowClient[T any] interface {
	Create(context.Context, T, metav1.CreateOptions) (T, error)
	Update(context.Context, T, metav1.UpdateOptions) (T, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
}

// flowManager owns the fields of what is kept; the name is upstream's.
const flowManager = "api-priority-and-fairness-config-producer-v1"

func wantedFlows[T flowObject](mandatory, suggested []T) map[string]keptFlow[T] {
	out := map[string]keptFlow[T]{}
	for _, o := range suggested {
		out[o.GetName()] = keptFlow[T]{o, false}
	}
	for _, o := range mandatory {
		out[o.GetName()] = keptFlow[T]{o, true}
	}
	return out
}

func (s *Server) newFlowKeeper(client kubernetes.Interface) *flowKeeper {
	objects, write := s.informers.Flowcontrol().V1(), client.FlowcontrolV1()
	return &flowKeeper{
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
		schemas: keptFlows[*flowcontrolv1.FlowSchema]{
			client: write.FlowSchemas(), get: objects.FlowSchemas().Lister().Get,
			wanted: wantedFlows(flowbootstrap.MandatoryFlowSchemas, flowbootstrap.SuggestedFlowSchemas),
			same: func(want, have *flowcontrolv1.FlowSchema) bool {
				return equality.Semantic.DeepEqual(want.Spec, have.Spec)
			},
			copySpec: func(into, from *flowcontrolv1.FlowSchema) *flowcontrolv1.FlowSchema {
				into = into.DeepCopy()
				into.Spec = *from.Spec.DeepCopy()
				return into
			},
		},
		levels: keptFlows[*flowcontrolv1.PriorityLevelConfiguration]{
			client: write.PriorityLevelConfigurations(), get: objects.PriorityLevelConfigurations().Lister().Get,
			wanted: wantedFlows(flowbootstrap.MandatoryPriorityLevelConfigurations, flowbootstrap.SuggestedPriorityLevelConfigurations),
			same:   sameLevel,
			copySpec: func(into, from *flowcontrolv1.PriorityLevelConfiguration) *flowcontrolv1.PriorityLevelConfiguration {
				into = into.DeepCopy()
				into.Spec = *from.Spec.DeepCopy()
				return into
			},
		},
	}
}

// sameLevel: how much the exempt level lends is the user's.
func sameLevel(want, have *flowcontrolv1.PriorityLevelConfiguration) bool {
	spec := want.Spec
	if want.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt && have.Spec.Exempt != nil {
		spec.Exempt = have.Spec.Exempt
	}
	return equality.Semantic.DeepEqual(spec, have.Spec)
}

// keepFlows begins when the server is ready: nobody's first Pod waits for these
// objects, without which the library has the mandatory ones.
func (s *Server) keepFlows(h genericapiserver.PostStartHookContext, k *flowKeeper) error {
	select {
	case <-s.ready:
	case <-h.Done():
		return nil
	}
	s.background.Go(func() { k.run(h) })
	objects := s.informers.Flowcontrol().V1()
	for kind, informer := range map[string]cache.SharedIndexInformer{
		"level": objects.PriorityLevelConfigurations().Informer(), "schema": objects.FlowSchemas().Informer(),
	} {
		heard := func(o any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
				k.queue.Add(kind + "/" + key)
			}
		}
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: heard, UpdateFunc: func(_, o any) { heard(o) }, DeleteFunc: heard,
		}); err != nil {
			return err
		}
	}
	for name := range k.levels.wanted {
		k.queue.Add("level/" + name)
	}
	for name := range k.schemas.wanted {
		k.queue.Add("schema/" + name)
	}
	return nil
}

// run works off the queue until ctx ends.
func (k *flowKeeper) run(ctx context.Context) {
	defer context.AfterFunc(ctx, k.queue.ShutDown)()
	for {
		key, shutdown := k.queue.Get()
		if shutdown {
			return
		}
		if err := k.keep(ctx, key); err != nil {
			k.queue.AddRateLimited(key)
		} else {
			k.queue.Forget(key)
		}
		k.queue.Done(key)
	}
}

func (k *flowKeeper) keep(ctx context.Context, key string) error {
	kind, name, _ := strings.Cut(key, "/")
	if kind == "level" {
		return k.levels.keep(ctx, name)
	}
	return k.schemas.keep(ctx, name)
}

// keep makes an object, or puts it right.
func (f keptFlows[T]) keep(ctx context.Context, name string) error {
	want, wanted := f.wanted[name]
	have, err := f.get(name)
	switch {
	case apierrors.IsNotFound(err) && wanted:
		_, err = f.client.Create(ctx, want.object, metav1.CreateOptions{FieldManager: flowManager})
		return unlessThere(err)
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case !wanted:
		if kept, err := strconv.ParseBool(have.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey]); err != nil || !kept {
			return nil
		}
		err := f.client.Delete(ctx, name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	return f.revise(ctx, want, have)
}

// revise writes the spec of this release unless the object is the user's by
// now, and says which it is.
func (f keptFlows[T]) revise(ctx context.Context, want keptFlow[T], have T) error {
	ours, err := strconv.ParseBool(have.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey])
	said := err == nil
	kept := want.mandatory || said && ours || !said && have.GetGeneration() == 1
	spec := have
	if kept {
		spec = want.object
	}
	if said && ours == kept && f.same(spec, have) {
		return nil
	}
	if f.same(spec, have) {
		spec = have // with what is the user's in it
	}
	revised := f.copySpec(have, spec)
	notes := revised.GetAnnotations()
	if notes == nil {
		notes = map[string]string{}
	}
	notes[flowcontrolv1.AutoUpdateAnnotationKey] = strconv.FormatBool(kept)
	revised.SetAnnotations(notes)
	if _, err := f.client.Update(ctx, revised, metav1.UpdateOptions{FieldManager: flowManager}); err != nil && !apierrors.IsConflict(err) {
		return err // another write that came first is heard of
	}
	return nil
}
