// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// await reads a watch until something is as it has to be; nil is its absence.
func await[T any](t *testing.T, w watch.Interface, err error, as func(*T) bool) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		o, _ := any(e.Object).(*T)
		if e.Type == watch.Deleted {
			o = nil
		}
		if as(o) {
			return
		}
	}
	t.Fatal("the watch ended")
}

func named(name string) metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()}
}

func awaitSchema(t *testing.T, name string, as func(*flowcontrolv1.FlowSchema) bool) {
	t.Helper()
	w, err := admin.FlowcontrolV1().FlowSchemas().Watch(t.Context(), named(name))
	await(t, w, err, as)
}

func inForce(f *flowcontrolv1.FlowSchema) bool {
	return f != nil && len(f.Status.Conditions) == 1 && f.Status.Conditions[0].Status == flowcontrolv1.ConditionFalse
}

// flow makes a level and a schema that leads a user there, and waits until they
// are in force.
func flow(t *testing.T, user string, level flowcontrolv1.LimitedPriorityLevelConfiguration) (*flowcontrolv1.FlowSchema, *flowcontrolv1.PriorityLevelConfiguration) {
	t.Helper()
	api := admin.FlowcontrolV1()
	meta := metav1.ObjectMeta{Name: "flow-" + user}
	p, err := api.PriorityLevelConfigurations().Create(t.Context(), &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: meta, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &level,
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := api.FlowSchemas().Create(t.Context(), &flowcontrolv1.FlowSchema{ObjectMeta: meta, Spec: flowcontrolv1.FlowSchemaSpec{
		MatchingPrecedence: 900, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: meta.Name},
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects:      []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: user}}},
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, ClusterScope: true}},
		}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.FlowSchemas().Delete(context.Background(), meta.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		if err := api.PriorityLevelConfigurations().Delete(context.Background(), meta.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	awaitSchema(t, meta.Name, inForce)
	return f, p
}

// reviewAs asks over TLS, as somebody else, what that one may do.
func reviewAs(t *testing.T, user string, body io.Reader) *http.Response {
	t.Helper()
	cert, key := server.config.PKI.Pair("admin")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+server.config.Listen[0].String()+"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
	if err != nil {
		t.Fatal(err)
	}
	q.Header = http.Header{"Impersonate-User": {user}, "Content-Type": {"application/json"}, "Expect": {"100-continue"}}
	transport := &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: time.Minute, TLSClientConfig: &tls.Config{
		RootCAs: server.config.PKI.Pool(), MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair},
	}}
	r, err := (&http.Client{Transport: transport}).Do(q)
	if err != nil {
		t.Error(err)
		return &http.Response{}
	}
	r.Body.Close()
	return r
}

const question = `{"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"nonResourceAttributes": {"verb": "get", "path": "/"}}}`

// heldBody is a body that does not come until it is let go. Its first byte is
// asked for when the server has begun with the request.
type heldBody struct {
	begun, letGo chan struct{}
	io.Reader
}

func (h *heldBody) Read(b []byte) (int, error) {
	select {
	case <-h.begun:
	default:
		close(h.begun)
	}
	<-h.letGo
	return h.Reader.Read(b)
}

func TestRequestsTakeTheirTurn(t *testing.T) {
	shares := func(n int32) flowcontrolv1.LimitedPriorityLevelConfiguration {
		return flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: &n, BorrowingLimitPercent: ptr.To[int32](0), LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
		}
	}
	awaitSchema(t, "global-default", inForce)
	f, p := flow(t, "patient", shares(10))
	headers := func(r *http.Response) [2]string {
		return [2]string{r.Header.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID), r.Header.Get(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID)}
	}
	r := reviewAs(t, "patient", strings.NewReader(question))
	if got, want := headers(r), [2]string{string(f.UID), string(p.UID)}; r.StatusCode != http.StatusCreated || got != want {
		t.Errorf("%s, headers %q, want %q", r.Status, got, want)
	}
	if other := headers(reviewAs(t, "other", strings.NewReader(question))); other[0] == "" || other[0] == string(f.UID) {
		t.Errorf("headers of another: %q", other)
	}

	f, p = flow(t, "unwanted", shares(0)) // one at a time
	held := &heldBody{make(chan struct{}), make(chan struct{}), strings.NewReader(question)}
	var first sync.WaitGroup
	first.Go(func() {
		if r := reviewAs(t, "unwanted", held); r.StatusCode != http.StatusCreated {
			t.Errorf("the first: %s", r.Status)
		}
	})
	defer first.Wait()
	defer close(held.letGo)
	select {
	case <-held.begun:
	case <-t.Context().Done():
		t.Fatal("the first does not begin")
	}
	r = reviewAs(t, "unwanted", strings.NewReader(question))
	if got, want := headers(r), [2]string{string(f.UID), string(p.UID)}; r.StatusCode != http.StatusTooManyRequests || got != want || r.Header.Get("Retry-After") == "" {
		t.Errorf("%s, headers %q, want %q", r.Status, got, want)
	}
	own, err := kubernetes.NewForConfig(server.ClientConfig("unwanted"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := own.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/"},
	}}, metav1.CreateOptions{}); err != nil {
		t.Errorf("a component of this process: %v", err)
	}
}

// What every server has comes again and is put right, unless the user says that
// it is his.
func TestFlowSchemasAreKept(t *testing.T) {
	schemas := admin.FlowcontrolV1().FlowSchemas()
	const name, note = "global-default", flowcontrolv1.AutoUpdateAnnotationKey
	there := func(f *flowcontrolv1.FlowSchema) bool { return f != nil }
	awaitSchema(t, name, there)
	if err := schemas.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitSchema(t, name, there)

	change := func(kept string, precedence int32) {
		t.Helper()
		f, err := schemas.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		f.ResourceVersion = "" // others write its status
		f.Annotations[note], f.Spec.MatchingPrecedence = kept, precedence
		if _, err := schemas.Update(t.Context(), f, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	precedence := func(n int32) func(*flowcontrolv1.FlowSchema) bool {
		return func(f *flowcontrolv1.FlowSchema) bool { return f != nil && f.Spec.MatchingPrecedence == n }
	}
	change("true", 9000)
	awaitSchema(t, name, precedence(9900))
	change("false", 9000)
	// The next is put right after the last was seen, and so left as it was.
	unwanted := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "of-another-release", Annotations: map[string]string{note: "true"}}, Spec: flowcontrolv1.FlowSchemaSpec{
		MatchingPrecedence: 9100, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "exempt"},
	}}
	if _, err := schemas.Create(t.Context(), unwanted, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w, err := schemas.Watch(t.Context(), named(unwanted.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for {
		if _, err := schemas.Get(t.Context(), unwanted.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			break
		}
		<-w.ResultChan()
	}
	if f, err := schemas.Get(t.Context(), name, metav1.GetOptions{}); err != nil || f.Spec.MatchingPrecedence != 9000 {
		t.Errorf("what is the user's: %+v, %v", f.Spec, err)
	}
	change("true", 9000)
	awaitSchema(t, name, precedence(9900))
}
