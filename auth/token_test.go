// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// known are the objects that there are, by kind and name.
type known map[string]metav1.ObjectMeta

func find[T any](k known, kind, name string, made func(metav1.ObjectMeta) *T) (*T, error) {
	m, ok := k[kind+"/"+name]
	if !ok {
		return nil, apierrors.NewNotFound(corev1.Resource(kind), name)
	}
	return made(m), nil
}

func (k known) ServiceAccount(_ context.Context, _, name string) (*corev1.ServiceAccount, error) {
	return find(k, "serviceaccounts", name, func(m metav1.ObjectMeta) *corev1.ServiceAccount { return &corev1.ServiceAccount{ObjectMeta: m} })
}

func (k known) Pod(_ context.Context, _, name string) (*corev1.Pod, error) {
	return find(k, "pods", name, func(m metav1.ObjectMeta) *corev1.Pod { return &corev1.Pod{ObjectMeta: m} })
}

func (k known) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	return find(k, "secrets", name, func(m metav1.ObjectMeta) *corev1.Secret { return &corev1.Secret{ObjectMeta: m} })
}

func (k known) Node(_ context.Context, name string) (*corev1.Node, error) {
	return find(k, "nodes", name, func(m metav1.ObjectMeta) *corev1.Node { return &corev1.Node{ObjectMeta: m} })
}

func TestTokens(t *testing.T) {
	begin := time.Unix(1_800_000_000, 0)
	meta := func(name, uid string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID("uid-" + uid)}
	}
	account := &corev1.ServiceAccount{ObjectMeta: meta("sa", "1")}
	pod := &corev1.Pod{ObjectMeta: meta("p", "2")}
	node := &corev1.Node{ObjectMeta: meta("n", "3")}
	gone := func(m metav1.ObjectMeta, at time.Duration) metav1.ObjectMeta {
		when := metav1.NewTime(begin.Add(at))
		m.DeletionTimestamp = &when
		return m
	}
	for _, c := range []struct {
		name    string
		request Request
		change  func(known)
		after   time.Duration
		asked   []string
		problem string // "" when it is accepted
	}{
		{name: "fresh", request: Request{Seconds: 600}},
		{name: "old", request: Request{Seconds: 600}, after: 601 * time.Second, problem: "service account token has expired"},
		{name: "from the future", request: Request{Seconds: 600}, after: -time.Minute, problem: "not valid"},
		{name: "for somebody else", request: Request{Seconds: 600, Audiences: []string{"vault"}}, problem: `token audiences ["vault"] is invalid for the target audiences`},
		{name: "for the one who asks", request: Request{Seconds: 600, Audiences: []string{"vault"}}, asked: []string{"vault", "x"}},
		{name: "account gone", request: Request{Seconds: 600}, change: func(k known) { delete(k, "serviceaccounts/sa") }, problem: `serviceaccounts "sa" not found`},
		{name: "account made again", request: Request{Seconds: 600}, change: func(k known) { k["serviceaccounts/sa"] = meta("sa", "9") }, problem: "service account UID (uid-9) does not match claim (uid-1)"},
		{name: "bound", request: Request{Seconds: 600, Pod: pod, Node: node}},
		{name: "Pod gone", request: Request{Seconds: 600, Pod: pod}, change: func(k known) { delete(k, "pods/p") }, problem: `pods "p" not found`},
		{name: "Pod made again", request: Request{Seconds: 600, Pod: pod}, change: func(k known) { k["pods/p"] = meta("p", "9") }, problem: "pod UID (uid-9) does not match"},
		{name: "Pod ending", request: Request{Seconds: 600, Pod: pod}, change: func(k known) { k["pods/p"] = gone(pod.ObjectMeta, 30*time.Second) }, after: 60 * time.Second},
		{name: "Pod long ended", request: Request{Seconds: 600, Pod: pod}, change: func(k known) { k["pods/p"] = gone(pod.ObjectMeta, 0) }, after: 61 * time.Second, problem: "has been deleted"},
		{name: "node gone from a Pod's token", request: Request{Seconds: 600, Pod: pod, Node: node}, change: func(k known) { delete(k, "nodes/n") }},
		{name: "node gone from a node's token", request: Request{Seconds: 600, Node: node}, change: func(k known) { delete(k, "nodes/n") }, problem: `nodes "n" not found`},
		{name: "a Pod's hour is a year", request: Request{Seconds: 3607, Pod: pod}, after: 24 * time.Hour},
		{name: "an hour without a Pod is one", request: Request{Seconds: 3607}, after: 2 * time.Hour, problem: "expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			objects := known{"serviceaccounts/sa": account.ObjectMeta, "pods/p": pod.ObjectMeta, "nodes/n": node.ObjectMeta}
			now := begin
			tokens, err := NewTokens(key, objects, func() time.Time { return now })
			if err != nil {
				t.Fatal(err)
			}
			c.request.Account = account
			raw, expires, err := tokens.Sign(c.request)
			if err != nil || !expires.Equal(begin.Add(time.Duration(c.request.Seconds)*time.Second)) {
				t.Fatalf("expires %v, %v", expires, err)
			}
			if c.change != nil {
				c.change(objects)
			}
			now = begin.Add(c.after)
			ctx := t.Context()
			if c.asked != nil {
				ctx = authenticator.WithAudiences(ctx, c.asked)
			}
			r, ok, err := tokens.AuthenticateToken(ctx, raw)
			if c.problem != "" {
				if ok || err == nil || !strings.Contains(err.Error(), c.problem) {
					t.Fatalf("%v, %v", ok, err)
				}
				return
			}
			if err != nil || !ok || r.User.GetName() != "system:serviceaccount:ns:sa" || r.User.GetUID() != "uid-1" ||
				!slices.Equal(r.User.GetGroups(), []string{"system:serviceaccounts", "system:serviceaccounts:ns"}) {
				t.Fatalf("%+v, %v", r, err)
			}
		})
	}
}

func TestForeignTokens(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "sa", Namespace: "ns"}}
	ours, err := NewTokens(key, known{"serviceaccounts/sa": account.ObjectMeta}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := NewTokens(other, known{}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	stolen, _, err := theirs.Sign(Request{Account: account, Seconds: 600})
	if err != nil {
		t.Fatal(err)
	}
	good, _, err := ours.Sign(Request{Account: account, Seconds: 600})
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	plain := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	for name, raw := range map[string]string{"another key": stolen, "no signature": plain, "a cut one": good[:len(good)-10]} {
		if _, ok, err := ours.AuthenticateToken(t.Context(), raw); ok {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	// What is no token of this issuer is left to others.
	for _, raw := range []string{"", "abc", "a.b.c", "peapod-x"} {
		if _, ok, err := ours.AuthenticateToken(t.Context(), raw); ok || err != nil {
			t.Errorf("%q: %v, %v", raw, ok, err)
		}
	}
	w := httptest.NewRecorder()
	ours.ServeHTTP(w, httptest.NewRequest("GET", "/openid/v1/jwks", nil))
	if body := w.Body.String(); !strings.Contains(body, `"alg":"ES256"`) || strings.Contains(body, `"d":`) {
		t.Errorf("keys %s", body)
	}
}

// FuzzTokens: no bytes a client sends open the door or break it.
func FuzzTokens(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	tokens, err := NewTokens(key, known{}, time.Now)
	if err != nil {
		f.Fatal(err)
	}
	raw, _, err := tokens.Sign(Request{Account: &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, Seconds: 600})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, raw string) {
		if _, ok, _ := tokens.AuthenticateToken(t.Context(), raw); ok {
			t.Errorf("%q is accepted", raw)
		}
	})
}
