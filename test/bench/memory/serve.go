// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"mime"
	"net/http"
	"net/http/httptest"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/peapod/peapod/api/pod"
)

// api serves a store in the protocol of the Kubernetes API: list, watch, get,
// bindings, patches of a status, deletions, and events, which are taken and
// forgotten.
type api struct{ *Store }

// Serve serves the store over HTTP/2 and TLS on loopback, until the server is
// closed.
func (s *Store) Serve() *httptest.Server {
	server := httptest.NewUnstartedServer(api{s})
	server.EnableHTTP2, server.Config.ErrorLog = true, log.New(io.Discard, "", 0)
	server.StartTLS()
	return server
}

// Kubeconfig is a file's text by which a client finds such a server.
func Kubeconfig(server *httptest.Server) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, server.URL)
}

// call is a request whose path has been read.
type call struct {
	resource schema.GroupVersionResource
	name     types.NamespacedName
	sub      string
	in, out  runtime.SerializerInfo
	w        http.ResponseWriter
	r        *http.Request
}

func (a api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, ok := readCall(w, r)
	if !ok {
		http.NotFound(w, r)
		return
	}
	var err error
	switch {
	case r.Method == http.MethodGet && r.URL.Query().Get("watch") != "":
		err = a.stream(c)
	case r.Method == http.MethodGet && c.name.Name == "":
		err = a.sendList(c)
	case r.Method == http.MethodGet:
		err = c.sendOr404(a.get(c.resource, c.name))
	case r.Method == http.MethodPost && c.sub == "binding":
		err = a.bind(c)
	case r.Method == http.MethodPost:
		err = c.echo()
	case r.Method == http.MethodPatch && c.resource.Resource == "events":
		err = c.echo()
	case r.Method == http.MethodPatch:
		err = a.patch(c)
	case r.Method == http.MethodDelete:
		err = c.sendOr404(a.Remove(c.resource, c.name))
	default:
		http.NotFound(w, r)
	}
	if err != nil && r.Context().Err() == nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// readCall reads /api/v1/... and /apis/GROUP/VERSION/..., with or without a
// namespace.
func readCall(w http.ResponseWriter, r *http.Request) (c *call, ok bool) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	c = &call{w: w, r: r}
	switch {
	case parts[0] == "api" && len(parts) > 2:
		c.resource.Version, parts = parts[1], parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		c.resource.Group, c.resource.Version, parts = parts[1], parts[2], parts[3:]
	default:
		return nil, false
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		c.name.Namespace, parts = parts[1], parts[2:]
	}
	c.resource.Resource = parts[0]
	if len(parts) > 1 {
		c.name.Name = parts[1]
	}
	if len(parts) > 2 {
		c.sub = parts[2]
	}
	c.in, c.out = media(r.Header.Get("Content-Type")), media(r.Header.Get("Accept"))
	return c, true
}

// media is protobuf where it is named, and JSON.
func media(header string) runtime.SerializerInfo {
	kind := runtime.ContentTypeJSON
	for _, x := range strings.Split(header, ",") {
		if t, _, err := mime.ParseMediaType(x); err == nil && t == runtime.ContentTypeProtobuf {
			kind = t
			break
		}
	}
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), kind)
	return info
}

func (c *call) send(code int, o runtime.Object) error {
	gv := c.resource.GroupVersion()
	if _, ok := o.(*metav1.Status); ok {
		gv = metav1.Unversioned
	}
	b, err := runtime.Encode(scheme.Codecs.EncoderForVersion(c.out.Serializer, gv), o)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", c.out.MediaType)
	c.w.WriteHeader(code)
	_, err = c.w.Write(b)
	return err
}

func (c *call) sendOr404(o runtime.Object) error {
	if o == nil {
		s := apierrors.NewNotFound(c.resource.GroupResource(), c.name.Name).Status()
		return c.send(http.StatusNotFound, &s)
	}
	return c.send(http.StatusOK, o)
}

// echo answers with what was sent.
func (c *call) echo() error {
	b, err := io.ReadAll(c.r.Body)
	if err != nil {
		return err
	}
	kind := c.in.MediaType
	c.w.Header().Set("Content-Type", kind)
	c.w.WriteHeader(http.StatusCreated)
	_, err = c.w.Write(b)
	return err
}

func (a api) sendList(c *call) error {
	kind, ok := a.kinds[c.resource]
	if !ok {
		return c.sendOr404(nil)
	}
	list, err := scheme.Scheme.New(kind.GroupVersion().WithKind(kind.Kind + "List"))
	if err != nil {
		return err
	}
	all, version := a.list(c.resource)
	if err := meta.SetList(list, all); err != nil {
		return err
	}
	m, err := meta.ListAccessor(list)
	if err != nil {
		return err
	}
	m.SetResourceVersion(version)
	return c.send(http.StatusOK, list)
}

func (a api) stream(c *call) error {
	if _, ok := a.kinds[c.resource]; !ok {
		return c.sendOr404(nil)
	}
	w, err := a.watch(c.resource, c.r.URL.Query().Get("sendInitialEvents") == "true")
	if err != nil {
		return err
	}
	defer a.leave(c.resource, w)
	c.w.Header().Set("Content-Type", c.out.MediaType+";stream=watch")
	c.w.WriteHeader(http.StatusOK)
	for {
		for _, e := range w.take() {
			b, err := e.frame(c.out, c.resource.GroupVersion())
			if err != nil {
				return fmt.Errorf("cannot send a change: %w", err)
			}
			if _, err := c.w.Write(b); err != nil {
				return err
			}
		}
		c.w.(http.Flusher).Flush()
		select {
		case <-w.bell:
		case <-c.r.Context().Done():
			return nil
		}
	}
}

// bind does what the API server makes of a binding.
func (a api) bind(c *call) error {
	b, err := io.ReadAll(c.r.Body)
	if err != nil {
		return err
	}
	var asked corev1.Binding
	if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(b, nil, &asked); err != nil {
		return err
	}
	o, _, err := a.edit(c.resource, c.name, func(o runtime.Object) (runtime.Object, error) {
		p := o.(*corev1.Pod)
		p.Spec.NodeName, p.Status.NominatedNodeName = asked.Target.Name, ""
		pod.SetCondition(&p.Status, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
		return p, nil
	})
	if err != nil || o == nil {
		return c.sendOr404(nil)
	}
	return c.send(http.StatusCreated, &metav1.Status{Status: metav1.StatusSuccess})
}

func (a api) patch(c *call) error {
	change, err := io.ReadAll(c.r.Body)
	if err != nil {
		return err
	}
	o, _, err := a.edit(c.resource, c.name, func(o runtime.Object) (runtime.Object, error) {
		was, err := json.Marshal(o)
		if err != nil {
			return nil, err
		}
		fresh, err := scheme.Scheme.New(a.kinds[c.resource])
		if err != nil {
			return nil, err
		}
		now, err := strategicpatch.StrategicMergePatch(was, change, fresh)
		if err != nil {
			return nil, err
		}
		return fresh, json.Unmarshal(now, fresh)
	})
	if err != nil {
		return err
	}
	return c.sendOr404(o)
}
