// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"strings"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
)

// objects are the ConfigMaps, Secrets and ClusterTrustBundles that Pods of this
// node refer to. Each is watched by itself, for as long as a Pod needs it: a
// node may see no more.
type objects struct {
	client kubernetes.Interface

	mu    sync.Mutex // guards watch and its watchers
	watch map[objectKey]*watched
}

// objectKey is one object, or all ClusterTrustBundles of a signer.
type objectKey struct{ resource, namespace, name string }

// selector finds what is meant. A signer's name has a slash, an object's never.
func (k objectKey) selector() fields.Selector {
	if strings.Contains(k.name, "/") {
		return fields.OneTermEqualSelector("spec.signerName", k.name)
	}
	return fields.OneTermEqualSelector("metadata.name", k.name)
}

// watched is one object and the actors that need it.
type watched struct {
	store  cache.Store
	synced func() bool
	stop   context.CancelFunc
	done   chan struct{}
	users  map[*actor]bool
}

func newObjects(client kubernetes.Interface) *objects {
	return &objects{client: client, watch: map[objectKey]*watched{}}
}

// follow watches what the Pod refers to and rings its actor at each change.
func (o *objects) follow(x *actor, p *corev1.Pod) {
	for k := range references(p) {
		o.mu.Lock()
		w := o.watch[k]
		if w == nil {
			w = o.begin(k)
			o.watch[k] = w
		}
		w.users[x] = true
		o.mu.Unlock()
	}
}

// unfollow lets go of everything an actor needed, and returns when the watches
// that nobody needs any more have ended.
func (o *objects) unfollow(x *actor) {
	var idle []*watched
	o.mu.Lock()
	for k, w := range o.watch {
		delete(w.users, x)
		if len(w.users) == 0 {
			idle = append(idle, w)
			delete(o.watch, k)
		}
	}
	o.mu.Unlock()
	for _, w := range idle {
		w.stop()
		<-w.done
	}
}

// begin starts the watch of one object.
func (o *objects) begin(k objectKey) *watched {
	var example runtime.Object
	rest := o.client.CoreV1().RESTClient()
	switch k.resource {
	case "configmaps":
		example = &corev1.ConfigMap{}
	case "secrets":
		example = &corev1.Secret{}
	case "clustertrustbundles":
		example, rest = &certificatesv1.ClusterTrustBundle{}, o.client.CertificatesV1().RESTClient()
	}
	w := &watched{users: map[*actor]bool{}, done: make(chan struct{})}
	ring := func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		for x := range w.users {
			x.refresh()
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: func(any) { ring() }, UpdateFunc: func(_, _ any) { ring() }}
	if k.resource == "clustertrustbundles" { // of several, what is left counts
		handler.DeleteFunc = func(any) { ring() }
	}
	lw := cache.NewListWatchFromClient(rest, k.resource, k.namespace, k.selector())
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(lw, o.client), ObjectType: example,
		Handler: handler,
	})
	ctx, cancel := context.WithCancel(context.Background())
	w.store, w.synced, w.stop = store, controller.HasSynced, cancel
	go func() {
		defer close(w.done)
		controller.RunWithContext(ctx)
	}()
	return w
}

// references are what a Pod names.
func references(p *corev1.Pod) map[objectKey]bool {
	out := map[objectKey]bool{}
	configMap := func(name string) { out[objectKey{"configmaps", p.Namespace, name}] = true }
	secret := func(name string) { out[objectKey{"secrets", p.Namespace, name}] = true }
	for _, v := range p.Spec.Volumes {
		if v.ConfigMap != nil {
			configMap(v.ConfigMap.Name)
		}
		if v.Secret != nil {
			secret(v.Secret.SecretName)
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				configMap(s.ConfigMap.Name)
			}
			if s.Secret != nil {
				secret(s.Secret.Name)
			}
			if b := s.ClusterTrustBundle; b != nil {
				out[bundles(ptr.Deref(b.Name, ptr.Deref(b.SignerName, "")))] = true
			}
		}
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers, ephemeralContainers(p)} {
		for _, c := range list {
			for _, e := range c.EnvFrom {
				if e.ConfigMapRef != nil {
					configMap(e.ConfigMapRef.Name)
				}
				if e.SecretRef != nil {
					secret(e.SecretRef.Name)
				}
			}
			for _, e := range c.Env {
				if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
					configMap(e.ValueFrom.ConfigMapKeyRef.Name)
				}
				if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
					secret(e.ValueFrom.SecretKeyRef.Name)
				}
			}
		}
	}
	return out
}

// bundles are those of a name, which is at most one, or of a signer.
func bundles(name string) objectKey { return objectKey{"clustertrustbundles", "", name} }

// cached finds an object that is being watched.
func cached[T any](o *objects, k objectKey) (*T, bool) {
	all, ok := cachedAll[T](o, k)
	if !ok || len(all) == 0 {
		return nil, false
	}
	return all[0], true
}

// cachedAll finds all that a watch has seen, if it has.
func cachedAll[T any](o *objects, k objectKey) (out []*T, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.watch[k]
	if w == nil || !w.synced() {
		return nil, false
	}
	for _, x := range w.store.List() {
		if t, ok := x.(*T); ok {
			out = append(out, t)
		}
	}
	return out, true
}

// ConfigMap reads a ConfigMap.
func (o *objects) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	if c, ok := cached[corev1.ConfigMap](o, objectKey{"configmaps", namespace, name}); ok {
		return c, nil
	}
	c, err := o.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	return c, missing(err, corev1.Resource("configmap"), name)
}

// Secret reads a Secret.
func (o *objects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	if s, ok := cached[corev1.Secret](o, objectKey{"secrets", namespace, name}); ok {
		return s, nil
	}
	s, err := o.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	return s, missing(err, corev1.Resource("secret"), name)
}

// ClusterTrustBundle reads a bundle of trust anchors.
func (o *objects) ClusterTrustBundle(ctx context.Context, name string) (*certificatesv1.ClusterTrustBundle, error) {
	if b, ok := cached[certificatesv1.ClusterTrustBundle](o, bundles(name)); ok {
		return b, nil
	}
	b, err := o.client.CertificatesV1().ClusterTrustBundles().Get(ctx, name, metav1.GetOptions{})
	return b, missing(err, certificatesv1.Resource("clustertrustbundle"), name)
}

// ClusterTrustBundles reads those of a signer.
func (o *objects) ClusterTrustBundles(ctx context.Context, signer string) ([]*certificatesv1.ClusterTrustBundle, error) {
	if all, ok := cachedAll[certificatesv1.ClusterTrustBundle](o, bundles(signer)); ok {
		return all, nil
	}
	list, err := o.client.CertificatesV1().ClusterTrustBundles().List(ctx, metav1.ListOptions{FieldSelector: bundles(signer).selector().String()})
	if err != nil {
		return nil, err
	}
	var out []*certificatesv1.ClusterTrustBundle
	for i := range list.Items {
		out = append(out, &list.Items[i])
	}
	return out, nil
}

// Claim reads a claim, and PersistentVolume a volume; both are read when they
// are mounted only.
func (o *objects) Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	c, err := o.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	return c, missing(err, corev1.Resource("persistentvolumeclaim"), name)
}

// PersistentVolume reads a volume.
func (o *objects) PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	v, err := o.client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	return v, missing(err, corev1.Resource("persistentvolume"), name)
}

// missing says what is not there in the node's words, not the API server's:
// events have the kind in the singular.
func missing(err error, kind schema.GroupResource, name string) error {
	if apierrors.IsNotFound(err) {
		return apierrors.NewNotFound(kind, name)
	}
	return err
}

// Token asks for a service account token.
func (o *objects) Token(ctx context.Context, namespace, account string, r *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	return o.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, r, metav1.CreateOptions{})
}

// services are those of a namespace, for service links.
func (a *Agent) services(ctx context.Context, namespace string) ([]corev1.Service, error) {
	if a.cfg.Services != nil {
		return a.cfg.Services(ctx, namespace)
	}
	list, err := a.objects.client.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func (o *objects) runtimeClass(ctx context.Context, name string) (*nodev1.RuntimeClass, error) {
	return o.client.NodeV1().RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
}

func (a *Agent) eventSink() record.EventSink {
	return &typedcore.EventSinkImpl{Interface: a.cfg.Client.CoreV1().Events("")}
}

func eventScheme() *runtime.Scheme { return clientscheme.Scheme }
