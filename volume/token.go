// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// When a token is replaced: after a day, or when four fifths of its life are
// over, a little earlier for some than for others (kubelet, token manager).
const (
	mostTokenAge = 24 * time.Hour
	mostJitter   = 10 * time.Second
	// tokenRetry is the pause after a token could not be replaced.
	tokenRetry = 30 * time.Second
)

// heldToken is a token that a Pod's volumes have.
type heldToken struct {
	text    string
	expires time.Time
	due     time.Time
	alarm   *time.Timer
}

// token is a service account token that lives no longer than the Pod. The same
// is used until it is due, so that mounting again changes nothing.
func (m *Mounter) token(ctx context.Context, p *corev1.Pod, t *corev1.ServiceAccountTokenProjection) (files, error) {
	text, err := m.currentToken(ctx, p, t)
	if err != nil {
		return nil, err
	}
	return files{filepath.Clean(t.Path): private(p, []byte(text))}, nil
}

func (m *Mounter) currentToken(ctx context.Context, p *corev1.Pod, t *corev1.ServiceAccountTokenProjection) (string, error) {
	r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: t.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID},
	}}
	if t.Audience != "" {
		r.Spec.Audiences = []string{t.Audience}
	}
	key := fmt.Sprintf("%s/%s", p.Spec.ServiceAccountName, t.Audience)
	if t.ExpirationSeconds != nil {
		key += fmt.Sprintf("/%d", *t.ExpirationSeconds)
	}
	held := m.heldToken(p.UID, key)
	now := time.Now()
	if held != nil && now.Before(held.due) {
		return held.text, nil
	}
	got, err := m.Sources.Token(ctx, p.Namespace, p.Spec.ServiceAccountName, r)
	switch {
	case err == nil:
		m.hold(p.UID, key, fresh(got, now))
		return got.Status.Token, nil
	case held != nil && now.Before(held.expires):
		// Better the old one than none.
		m.hold(p.UID, key, &heldToken{text: held.text, expires: held.expires, due: now.Add(tokenRetry)})
		return held.text, nil
	}
	return "", fmt.Errorf("failed to fetch token: %w", err)
}

func fresh(got *authenticationv1.TokenRequest, now time.Time) *heldToken {
	h := &heldToken{text: got.Status.Token, expires: got.Status.ExpirationTimestamp.Time}
	life := h.expires.Sub(now)
	h.due = now.Add(min(life*4/5, mostTokenAge) - rand.N(min(mostJitter, max(life/10, 1))))
	return h
}

func (m *Mounter) heldToken(uid types.UID, key string) *heldToken {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tokens[uid][key]
}

// hold keeps a token and sets the alarm for its replacement.
func (m *Mounter) hold(uid types.UID, key string, h *heldToken) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tokens == nil {
		m.tokens = map[types.UID]map[string]*heldToken{}
	}
	if m.tokens[uid] == nil {
		m.tokens[uid] = map[string]*heldToken{}
	}
	if old := m.tokens[uid][key]; old != nil && old.alarm != nil {
		old.alarm.Stop()
	}
	if m.Due != nil {
		h.alarm = time.AfterFunc(time.Until(h.due), func() { m.Due(uid) })
	}
	m.tokens[uid][key] = h
}

func (m *Mounter) dropTokens(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.tokens[uid] {
		if h.alarm != nil {
			h.alarm.Stop()
		}
	}
	delete(m.tokens, uid)
}
