// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// handler is the endpoint that kubelets have: logs, streams, Pods. Whoever
// serves it (Config.Serve) puts Guard before it.
func (a *Agent) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	m.HandleFunc("GET /pods", a.servePods)
	m.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.serveLogs)
	for _, verb := range []string{"GET", "POST"} {
		m.HandleFunc(verb+" /exec/{namespace}/{pod}/{container}", a.serveExec)
		m.HandleFunc(verb+" /attach/{namespace}/{pod}/{container}", a.serveAttach)
		m.HandleFunc(verb+" /portForward/{namespace}/{pod}", a.servePortForward)
	}
	return m
}

// Guard lets through whom allowed knows by the certificate that TLS has
// verified, and answers 401 to those without one and 403 to the others.
func Guard(h http.Handler, allowed func(pkix.Name) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.TLS == nil || len(r.TLS.VerifiedChains) == 0:
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
		case !allowed(r.TLS.VerifiedChains[0][0].Subject):
			http.Error(w, "Forbidden", http.StatusForbidden)
		default:
			h.ServeHTTP(w, r)
		}
	})
}

func (a *Agent) servePods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{}
	list.APIVersion, list.Kind = "v1", "PodList"
	a.mu.Lock()
	for _, x := range a.actors {
		list.Items = append(list.Items, *x.pod())
	}
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list) // the caller may have left
}

// locate finds the container a request is about.
func (a *Agent) locate(w http.ResponseWriter, r *http.Request) (*actor, *observed, bool) {
	namespace, name := r.PathValue("namespace"), r.PathValue("pod")
	x := a.find(namespace, name)
	if x == nil {
		http.Error(w, fmt.Sprintf("pod %s/%s not found", namespace, name), http.StatusNotFound)
		return nil, nil, false
	}
	have, err := a.observe(r.Context(), x.pod().UID)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return nil, nil, false
	}
	return x, have, true
}

func (a *Agent) running(w http.ResponseWriter, r *http.Request) (*instance, bool) {
	_, have, ok := a.locate(w, r)
	if !ok {
		return nil, false
	}
	i := have.latest(r.PathValue("container"))
	if i == nil || !i.running() {
		http.Error(w, fmt.Sprintf("container not found (%q)", r.PathValue("container")), http.StatusNotFound)
		return nil, false
	}
	return i, true
}

func flag(r *http.Request, name string) bool {
	v := r.FormValue(name)
	return v == "1" || v == "true"
}

func (a *Agent) serveExec(w http.ResponseWriter, r *http.Request) {
	i, ok := a.running(w, r)
	if !ok {
		return
	}
	tty := flag(r, "tty")
	out, err := a.cfg.CRI.Runtime.Exec(r.Context(), &runtimeapi.ExecRequest{
		ContainerId: i.id, Cmd: r.Form["command"], Tty: tty, Stdin: flag(r, "input"), Stdout: flag(r, "output"), Stderr: flag(r, "error") && !tty,
	})
	a.forward(w, r, out.GetUrl(), err)
}

func (a *Agent) serveAttach(w http.ResponseWriter, r *http.Request) {
	i, ok := a.running(w, r)
	if !ok {
		return
	}
	tty := flag(r, "tty")
	out, err := a.cfg.CRI.Runtime.Attach(r.Context(), &runtimeapi.AttachRequest{
		ContainerId: i.id, Tty: tty, Stdin: flag(r, "input"), Stdout: flag(r, "output"), Stderr: flag(r, "error") && !tty,
	})
	a.forward(w, r, out.GetUrl(), err)
}

func (a *Agent) servePortForward(w http.ResponseWriter, r *http.Request) {
	_, have, ok := a.locate(w, r)
	if !ok {
		return
	}
	sb := have.sandbox()
	if sb == nil {
		http.Error(w, "pod is not running", http.StatusNotFound)
		return
	}
	var ports []int32
	for _, p := range r.URL.Query()["port"] {
		if n, err := strconv.ParseInt(p, 10, 32); err == nil {
			ports = append(ports, int32(n))
		}
	}
	out, err := a.cfg.CRI.Runtime.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: sb.id, Port: ports})
	a.forward(w, r, out.GetUrl(), err)
}

// forward hands the connection to the runtime's streaming server.
func (a *Agent) forward(w http.ResponseWriter, r *http.Request, target string, err error) {
	u, parseErr := url.Parse(target)
	if err != nil || parseErr != nil {
		http.Error(w, fmt.Sprint(firstError(err, parseErr)), http.StatusInternalServerError)
		return
	}
	h := proxy.NewUpgradeAwareHandler(u, nil, false, true, plainResponder{})
	h.UseLocationHost = true
	h.ServeHTTP(w, r)
}

func firstError(errs ...error) error {
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}

type plainResponder struct{}

func (plainResponder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

// serveLogs sends a container's log as the query asks.
func (a *Agent) serveLogs(w http.ResponseWriter, r *http.Request) {
	x, have, ok := a.locate(w, r)
	if !ok {
		return
	}
	name := r.PathValue("container")
	q, err := logQueryOf(r.URL.Query(), a.cfg.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if containerOf(x.pod(), name).Image == "" {
		http.Error(w, "container not found in pod", http.StatusNotFound)
		return
	}
	i, err := loggedInstance(x.pod(), have, name, q.previous)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Transfer-Encoding", "chunked")
	out := flushWriter{w, http.NewResponseController(w)}
	var watch *fileWatch
	if q.follow {
		if watch, err = watchFolder(filepath.Dir(i.logPath)); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer watch.close()
		defer a.whenEnded(i.id, watch.ring)()
	}
	err = q.copy(r.Context(), out, i.logPath, watch, func() bool { return a.over(r, i.id) })
	if err != nil && r.Context().Err() == nil {
		a.cfg.Log.Info("log could not be sent", "pod", key(x.pod()), "container", name, "err", err)
	}
}

// over says whether a container has ended, so that nothing more will be logged.
func (a *Agent) over(r *http.Request, id string) bool {
	st, err := a.cfg.CRI.Runtime.ContainerStatus(r.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	return err != nil || st.Status.State == runtimeapi.ContainerState_CONTAINER_EXITED
}

// loggedInstance is the instance whose log is meant, by what the API says of
// the container: the one that runs, or the last one that ran.
func loggedInstance(p *corev1.Pod, have *observed, name string, previous bool) (*instance, error) {
	s := statusOf(p, name)
	if s == nil {
		return nil, fmt.Errorf("container %q in pod %q is not available", name, p.Name)
	}
	id, last := "", s.LastTerminationState.Terminated
	switch st := s.State; {
	case previous && (last == nil || last.ContainerID == ""):
		return nil, fmt.Errorf("previous terminated container %q in pod %q not found", name, p.Name)
	case previous:
		id = last.ContainerID
	case st.Running != nil:
		id = s.ContainerID
	case st.Terminated != nil && st.Terminated.ContainerID != "":
		id = st.Terminated.ContainerID
	case last != nil && last.ContainerID != "":
		id = last.ContainerID
	case st.Terminated != nil || last != nil:
		return nil, fmt.Errorf("container %q in pod %q is terminated", name, p.Name)
	case st.Waiting == nil:
		return nil, fmt.Errorf("container %q in pod %q is waiting to start - no logs yet", name, p.Name)
	default:
		why := st.Waiting.Reason
		switch why {
		case "ErrImagePull":
			why = "image can't be pulled"
		case "ImagePullBackOff":
			why = "trying and failing to pull image"
		}
		return nil, fmt.Errorf("container %q in pod %q is waiting to start: %v", name, p.Name, why)
	}
	_, id, _ = strings.Cut(id, "://")
	for _, i := range have.containers[name] {
		if i.id == id {
			return i, nil
		}
	}
	return nil, fmt.Errorf("failed to get container status %q: not found", id)
}

// flushWriter sends each write on its way, for followers.
type flushWriter struct {
	w http.ResponseWriter
	c *http.ResponseController
}

func (f flushWriter) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err == nil {
		err = f.c.Flush()
	}
	return n, err
}

// logQueryOf reads PodLogOptions from a query.
func logQueryOf(v url.Values, now time.Time) (logQuery, error) {
	q := logQuery{follow: v.Get("follow") == "true", previous: v.Get("previous") == "true", timestamps: v.Get("timestamps") == "true", tail: -1, limit: -1, stream: v.Get("stream")}
	number := func(name string, into *int64) error {
		if s := v.Get(name); s != "" {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			*into = n
		}
		return nil
	}
	since := int64(-1)
	for name, into := range map[string]*int64{"tailLines": &q.tail, "limitBytes": &q.limit, "sinceSeconds": &since} {
		if err := number(name, into); err != nil {
			return q, err
		}
	}
	if since >= 0 {
		q.since = now.Add(-time.Duration(since) * time.Second)
	}
	if s := v.Get("sinceTime"); s != "" {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return q, fmt.Errorf("sinceTime: %w", err)
		}
		q.since = t
	}
	return q, nil
}
