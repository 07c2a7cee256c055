// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
)

// askedPod has a container that names its port.
func askedPod(port int) (*corev1.Pod, *corev1.Container) {
	p := plainPod()
	p.Status.PodIP = "127.0.0.1"
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}
	return p, &p.Spec.Containers[0]
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// hall is a server with a door for each thing that a probe may meet.
func hall(t *testing.T, start func(*httptest.Server)) (s *httptest.Server, port int) {
	t.Helper()
	m := http.NewServeMux()
	m.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "fine") })
	m.HandleFunc("/500", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "secret", http.StatusInternalServerError) })
	m.HandleFunc("/399", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(399) })
	m.HandleFunc("/400", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(400) })
	m.HandleFunc("/here", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	m.HandleFunc("/bad", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/500", http.StatusFound) })
	m.HandleFunc("/away", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://other.example/ok")
		w.WriteHeader(http.StatusFound)
		fmt.Fprint(w, "moved")
	})
	m.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/round", http.StatusFound) })
	m.HandleFunc("/never", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	m.HandleFunc("/half", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "half")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	m.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 1<<20)) })
	m.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(map[bool]int{true: 200, false: 418}[r.Method == "GET" && r.URL.RawQuery == "a=b" && r.Host == "name.example" &&
			r.Header.Get("User-Agent") == "kube-probe/1.37" && r.Header.Get("Accept") == "*/*" && strings.Join(r.Header["X-Own"], ",") == "1,2" && r.Header.Get("Accept-Encoding") == ""])
	})
	m.HandleFunc("/own", func(w http.ResponseWriter, r *http.Request) {
		_, accepts := r.Header["Accept"]
		w.WriteHeader(map[bool]int{true: 200, false: 418}[r.Header.Get("User-Agent") == "mine" && !accepts])
	})
	s = httptest.NewUnstartedServer(m)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	start(s)
	t.Cleanup(s.Close)
	return s, portOf(t, s.Listener.Addr().String())
}

// TestProbeHTTP: what a probe makes of each answer, in the words of events.
func TestProbeHTTP(t *testing.T) {
	_, port := hall(t, (*httptest.Server).Start)
	_, secure := hall(t, (*httptest.Server).StartTLS)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := portOf(t, closed.Addr().String())
	closed.Close()
	at := func(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
	for name, tt := range map[string]struct {
		get  corev1.HTTPGetAction
		want string
	}{
		"ok":               {corev1.HTTPGetAction{Path: "/ok"}, "success: "},
		"named port":       {corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("web")}, "success: "},
		"500":              {corev1.HTTPGetAction{Path: "/500"}, "failure: HTTP probe failed with statuscode: 500"},
		"399":              {corev1.HTTPGetAction{Path: "/399"}, "warning: Probe terminated redirects, Response body: "},
		"400":              {corev1.HTTPGetAction{Path: "/400"}, "failure: HTTP probe failed with statuscode: 400"},
		"redirect within":  {corev1.HTTPGetAction{Path: "/here"}, "success: "},
		"redirect to 500":  {corev1.HTTPGetAction{Path: "/bad"}, "failure: HTTP probe failed with statuscode: 500"},
		"redirect away":    {corev1.HTTPGetAction{Path: "/away"}, "warning: Probe terminated redirects, Response body: moved"},
		"redirects again":  {corev1.HTTPGetAction{Path: "/round"}, `failure: Get "/round": stopped after 10 redirects`},
		"no answer":        {corev1.HTTPGetAction{Path: "/never"}, `failure: Get "http://` + at(port) + `/never": context deadline exceeded (Client.Timeout exceeded while awaiting headers)`},
		"half an answer":   {corev1.HTTPGetAction{Path: "/half"}, "failure! context deadline exceeded (Client.Timeout or context cancellation while reading body)"},
		"a long answer":    {corev1.HTTPGetAction{Path: "/long"}, "success: "},
		"nobody listens":   {corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromInt(nobody)}, `failure: Get "http://` + at(nobody) + `/ok": dial tcp ` + at(nobody) + `: connect: connection refused`},
		"headers":          {corev1.HTTPGetAction{Path: "/headers?a=b", HTTPHeaders: []corev1.HTTPHeader{{Name: "Host", Value: "name.example"}, {Name: "X-Own", Value: "1"}, {Name: "X-Own", Value: "2"}}}, "success: "},
		"own headers":      {corev1.HTTPGetAction{Path: "/own", HTTPHeaders: []corev1.HTTPHeader{{Name: "User-Agent", Value: "mine"}, {Name: "Accept", Value: ""}}}, "success: "},
		"another host":     {corev1.HTTPGetAction{Path: "/ok", Host: "localhost"}, "success: "},
		"https":            {corev1.HTTPGetAction{Path: "/ok", Scheme: corev1.URISchemeHTTPS, Port: intstr.FromInt(secure)}, "success: "},
		"https to plain":   {corev1.HTTPGetAction{Path: "/ok", Scheme: corev1.URISchemeHTTPS}, `failure: Get "https://` + at(port) + `/ok": http: server gave HTTP response to HTTPS client`},
		"plain to https":   {corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromInt(secure)}, "failure: HTTP probe failed with statuscode: 400"},
		"no such port":     {corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("none")}, `unknown! port "none" not found`},
		"impossible port":  {corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromInt(65536)}, "unknown! invalid port number: 65536"},
		"not to be parsed": {corev1.HTTPGetAction{Path: "/%zz"}, "failure: HTTP probe failed with statuscode: 404"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, c := askedPod(port)
			if tt.get.Port == (intstr.IntOrString{}) {
				tt.get.Port = intstr.FromInt(port)
			}
			pr := &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &tt.get}}
			v, text, err := (&Agent{}).ask(t.Context(), p, c, &instance{}, pr)
			got := v.String() + ": " + text
			if err != nil {
				got = v.String() + "! " + err.Error()
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestAnswerLimit: of an answer 10 KiB are kept.
func TestAnswerLimit(t *testing.T) {
	s, _ := hall(t, (*httptest.Server).Start)
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/long", nil)
	if err != nil {
		t.Fatal(err)
	}
	if code, body, err := (&Agent{}).httpDo(q, 0); code != 200 || len(body) != 10<<10 || err != nil {
		t.Errorf("%d, %d bytes, %v", code, len(body), err)
	}
}

func TestProbeTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := portOf(t, l.Addr().String())
	p, c := askedPod(port)
	ask := func(a corev1.TCPSocketAction) string {
		v, text, err := (&Agent{}).ask(t.Context(), p, c, &instance{}, &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &a}})
		return fmt.Sprint(v, " ", text, " ", err)
	}
	for want, a := range map[string]corev1.TCPSocketAction{
		"success  <nil>":                     {Port: intstr.FromInt(port)},
		"success  <nil> ":                    {Port: intstr.FromString("web"), Host: "localhost"},
		`unknown  port "none" not found`:     {Port: intstr.FromString("none")},
		"unknown  invalid port number: 0":    {Port: intstr.FromInt(0)},
		"unknown  invalid port number: 0   ": {},
	} {
		if got := ask(a); got != strings.TrimRight(want, " ") {
			t.Errorf("%+v: %s, want %s", a, got, want)
		}
	}
	l.Close()
	if got, want := ask(corev1.TCPSocketAction{Port: intstr.FromInt(port)}), fmt.Sprintf("failure dial tcp 127.0.0.1:%d: connect: connection refused <nil>", port); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// slowHealth answers when its asker has gone.
type slowHealth struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (slowHealth) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestProbeGRPC: each way in which the health service answers, or does not.
func TestProbeGRPC(t *testing.T) {
	serve := func(register func(*grpc.Server)) int {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer()
		register(s)
		done := make(chan error, 1)
		go func() { done <- s.Serve(l) }()
		t.Cleanup(func() {
			s.Stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return portOf(t, l.Addr().String())
	}
	healthy := serve(func(s *grpc.Server) {
		h := health.NewServer()
		h.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
		grpc_health_v1.RegisterHealthServer(s, h)
	})
	slow := serve(func(s *grpc.Server) { grpc_health_v1.RegisterHealthServer(s, slowHealth{}) })
	bare := serve(func(*grpc.Server) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := portOf(t, l.Addr().String())
	l.Close()
	p, c := askedPod(1)
	for _, tt := range []struct {
		port    int
		service string
		want    string
	}{
		{healthy, "", "success "},
		{healthy, "sick", `failure service unhealthy (responded with "NOT_SERVING")`},
		{healthy, "none", "failure error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"},
		{bare, "", "failure error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service grpc.health.v1.Health"},
		{slow, "", "failure timeout: health rpc did not complete within 1s"},
		{nobody, "", fmt.Sprintf(`failure timeout: failed to connect service "127.0.0.1:%d" within 1s: context deadline exceeded`, nobody)},
	} {
		pr := &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(tt.port), Service: &tt.service}}}
		v, text, err := (&Agent{}).ask(t.Context(), p, c, &instance{}, pr)
		if got := v.String() + " " + text; got != tt.want || err != nil {
			t.Errorf("got  %s, %v\nwant %s", got, err, tt.want)
		}
	}
}

// TestHTTPHook: any answer is a success; one that speaks plain HTTP where HTTPS
// was said is asked again, without what was secret.
func TestHTTPHook(t *testing.T) {
	asked := make(chan *http.Request, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		http.Error(w, "no", http.StatusInternalServerError)
	}))
	defer s.Close()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	port := portOf(t, u.Host)
	p, c := askedPod(port)
	said := record.NewFakeRecorder(10)
	a := &Agent{events: said}
	hook := func(g corev1.HTTPGetAction) (string, error) {
		return a.runHook(t.Context(), p, c, "c1", &corev1.LifecycleHandler{HTTPGet: &g})
	}
	if text, err := hook(corev1.HTTPGetAction{Path: "/bye", Port: intstr.FromString("web")}); err != nil || text != "" {
		t.Errorf("%q, %v", text, err)
	}
	if r := <-asked; r.URL.Path != "/bye" || r.Header.Get("User-Agent") != "kube-lifecycle/1.37" {
		t.Errorf("asked %s as %s", r.URL, r.Header.Get("User-Agent"))
	}
	secret := []corev1.HTTPHeader{{Name: "Authorization", Value: "Bearer x"}, {Name: "X-Own", Value: "1"}}
	if text, err := hook(corev1.HTTPGetAction{Path: "/bye", Port: intstr.FromInt(port), Scheme: corev1.URISchemeHTTPS, HTTPHeaders: secret}); err != nil || text != "" {
		t.Errorf("%q, %v", text, err)
	}
	if r := <-asked; r.Header.Get("Authorization") != "" || r.Header.Get("X-Own") != "1" {
		t.Errorf("asked with %v", r.Header)
	}
	if got, want := <-said.Events, "Warning LifecycleHTTPFallback request to HTTPS lifecycle hook "+u.Host+" got HTTP response, retry with HTTP succeeded"; got != want {
		t.Errorf("said %s, want %s", got, want)
	}
	text, err := hook(corev1.HTTPGetAction{Path: "/bye", Port: intstr.FromString("none")})
	if want := `HTTP lifecycle hook (/bye) for Container "app" in Pod "web_ns(u-1)" failed - error: port "none" not found`; text != want || err == nil {
		t.Errorf("%s, %v; want %s", text, err, want)
	}
}

// TestHooksFail: what is said of the other hooks.
func TestHooksFail(t *testing.T) {
	p, c := askedPod(1)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("it ended"))
	text, err := (&Agent{}).runHook(ctx, p, c, "c1", &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 9}})
	if want := `Sleep lifecycle hook (9) for Container "app" in Pod "web_ns(u-1)" failed - error: container terminated before sleep hook finished`; text != want || err == nil {
		t.Errorf("%s, %v; want %s", text, err, want)
	}
	begun := time.Now()
	if text, err := (&Agent{}).runHook(t.Context(), p, c, "c1", &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{}}); text != "" || err != nil || time.Since(begun) > 10*time.Second {
		t.Errorf("no sleep: %s, %v", text, err)
	}
	if text, err := (&Agent{}).runHook(t.Context(), p, c, "c1", &corev1.LifecycleHandler{}); !strings.HasPrefix(text, "Cannot run handler: invalid handler: ") || err == nil {
		t.Errorf("%s, %v", text, err)
	}
}
