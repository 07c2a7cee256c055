// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// mirrorPod refuses what a static Pod's image in the API may not refer to: the
// node runs it without asking the API.
func mirrorPod(p *corev1.Pod) error {
	if p.Spec.ServiceAccountName != "" {
		return errors.New("a mirror pod may not reference service accounts")
	}
	secret := len(p.Spec.ImagePullSecrets) > 0
	token := false
	for _, v := range p.Spec.Volumes {
		secret = secret || v.Secret != nil
		if v.Projected != nil {
			for _, s := range v.Projected.Sources {
				secret, token = secret || s.Secret != nil, token || s.ServiceAccountToken != nil
			}
		}
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range list {
			secret = secret || envSecrets(c.Env, c.EnvFrom, func(string, string) bool { return true }) != nil
		}
	}
	switch {
	case secret:
		return errors.New("a mirror pod may not reference secrets")
	case token:
		return errors.New("a mirror pod may not use ServiceAccountToken volume projections")
	}
	return nil
}

// reference is a secret in a container's environment: of the variable, or of
// all variables where that is "".
type reference struct{ variable, secret string }

func (r reference) String() string {
	if r.variable == "" {
		return "envFrom"
	}
	return "envVar " + r.variable
}

// envSecrets is the first secret of an environment that stop says yes to.
func envSecrets(env []corev1.EnvVar, from []corev1.EnvFromSource, stop func(variable, secret string) bool) *reference {
	for _, e := range env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && stop(e.Name, e.ValueFrom.SecretKeyRef.Name) {
			return &reference{e.Name, e.ValueFrom.SecretKeyRef.Name}
		}
	}
	for _, f := range from {
		if f.SecretRef != nil && stop("", f.SecretRef.Name) {
			return &reference{"", f.SecretRef.Name}
		}
	}
	return nil
}

// foreign says which secrets are not the account's.
func foreign(account *corev1.ServiceAccount) func(_, secret string) bool {
	return func(_, secret string) bool {
		return !slices.ContainsFunc(account.Secrets, func(o corev1.ObjectReference) bool { return o.Name == secret })
	}
}

func podSecrets(account *corev1.ServiceAccount, p *corev1.Pod) error {
	other := foreign(account)
	for _, v := range p.Spec.Volumes {
		if v.Secret != nil && other("", v.Secret.SecretName) {
			return fmt.Errorf("volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", v.Secret.SecretName, account.Name)
		}
	}
	for _, set := range []struct {
		kind string
		list []corev1.Container
	}{{"init container", p.Spec.InitContainers}, {"container", p.Spec.Containers}} {
		for _, c := range set.list {
			if r := envSecrets(c.Env, c.EnvFrom, other); r != nil {
				return notReferenced(set.kind, c.Name, r, account)
			}
		}
	}
	for i, s := range p.Spec.ImagePullSecrets {
		if !slices.Contains(account.ImagePullSecrets, s) {
			return fmt.Errorf("imagePullSecrets[%d].name=%q is not allowed because service account %s does not reference that imagePullSecret", i, s.Name, account.Name)
		}
	}
	return nil
}

func ephemeralSecrets(account *corev1.ServiceAccount, p *corev1.Pod) error {
	for _, c := range p.Spec.EphemeralContainers {
		if r := envSecrets(c.Env, c.EnvFrom, foreign(account)); r != nil {
			return notReferenced("ephemeral container", c.Name, r, account)
		}
	}
	return nil
}

func notReferenced(kind, container string, r *reference, account *corev1.ServiceAccount) error {
	return fmt.Errorf("%s %s with %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret", kind, container, r, r.secret, account.Name)
}
