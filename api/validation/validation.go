// SPDX-License-Identifier: Apache-2.0

// Package validation owns what Kubernetes 1.37 refuses: for each kind, the
// rules for new objects and for changes, with upstream's field paths and
// texts, and the warnings for what is accepted but unwise. Functions are pure
// and return every error they find.
package validation

import (
	"crypto/tls"
	"encoding/json"
	"reflect"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Namespace checks a new namespace.
func Namespace(n *corev1.Namespace) field.ErrorList {
	errs := meta(&n.ObjectMeta, false, apivalidation.ValidateNamespaceName)
	for _, f := range n.Spec.Finalizers {
		errs = append(errs, finalizer(string(f), field.NewPath("spec", "finalizers"))...)
	}
	return errs
}

func finalizer(name string, at *field.Path) field.ErrorList {
	return append(apivalidation.ValidateFinalizerName(name, at), ownedFinalizer(name, at)...)
}

// NamespaceUpdate checks a change of a namespace.
func NamespaceUpdate(n, old *corev1.Namespace) field.ErrorList {
	return metaUpdate(&n.ObjectMeta, &old.ObjectMeta)
}

// NamespaceStatusUpdate checks the phase against the deletion.
func NamespaceStatusUpdate(n, old *corev1.Namespace) field.ErrorList {
	errs := metaUpdate(&n.ObjectMeta, &old.ObjectMeta)
	at := field.NewPath("status", "Phase")
	if n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceActive {
		errs = append(errs, field.Invalid(at, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty"))
	} else if !n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceTerminating {
		errs = append(errs, field.Invalid(at, n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"))
	}
	return errs
}

// NamespaceFinalizeUpdate checks the finalizers that are left.
func NamespaceFinalizeUpdate(n, old *corev1.Namespace) field.ErrorList {
	errs := metaUpdate(&n.ObjectMeta, &old.ObjectMeta)
	for i, f := range n.Spec.Finalizers {
		errs = append(errs, finalizer(string(f), field.NewPath("spec", "finalizers").Index(i))...)
	}
	return errs
}

// totalLimit is how large the data of a ConfigMap or Secret may be.
const totalLimit = corev1.MaxSecretSize

const frozen = "field is immutable when `immutable` is set"

// ConfigMap checks a new ConfigMap.
func ConfigMap(c *corev1.ConfigMap) field.ErrorList {
	errs := meta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	total := 0
	for _, key := range sorted(c.Data) {
		at := field.NewPath("data").Key(key)
		errs = append(errs, invalidAll(at, key, validation.IsConfigMapKey(key))...)
		if _, both := c.BinaryData[key]; both {
			errs = append(errs, field.Invalid(at, key, "duplicate of key present in binaryData"))
		}
		total += len(c.Data[key])
	}
	for _, key := range sorted(c.BinaryData) {
		errs = append(errs, invalidAll(field.NewPath("binaryData").Key(key), key, validation.IsConfigMapKey(key))...)
		total += len(c.BinaryData[key])
	}
	if total > totalLimit {
		errs = append(errs, field.TooLong(field.NewPath(""), "" /* unused */, totalLimit))
	}
	return errs
}

// ConfigMapUpdate checks a change; an immutable one keeps its data.
func ConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	errs := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	if yes(old.Immutable) {
		if !yes(c.Immutable) {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), frozen))
		}
		if !reflect.DeepEqual(c.Data, old.Data) {
			errs = append(errs, field.Forbidden(field.NewPath("data"), frozen))
		}
		if !reflect.DeepEqual(c.BinaryData, old.BinaryData) {
			errs = append(errs, field.Forbidden(field.NewPath("binaryData"), frozen))
		}
	}
	return append(errs, ConfigMap(c)...)
}

// Secret checks a new Secret.
func Secret(s *corev1.Secret) field.ErrorList {
	errs := meta(&s.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	data, total := field.NewPath("data"), 0
	for _, key := range sorted(s.Data) {
		errs = append(errs, invalidAll(data.Key(key), key, validation.IsConfigMapKey(key))...)
		total += len(s.Data[key])
	}
	if total > totalLimit {
		errs = append(errs, field.TooLong(data, "" /* unused */, totalLimit))
	}
	missing := func(key string) bool { _, ok := s.Data[key]; return !ok }
	need := func(key string) { errs = append(errs, field.Required(data.Key(key), "")) }
	registry := func(key string) {
		if missing(key) {
			need(key)
		} else if err := json.Unmarshal(s.Data[key], &map[string]any{}); err != nil {
			errs = append(errs, field.Invalid(data.Key(key), "<secret contents redacted>", err.Error()))
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		errs = append(errs, required(s.Annotations[corev1.ServiceAccountNameKey], field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey))...)
	case corev1.SecretTypeDockercfg:
		registry(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		registry(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		if missing(corev1.BasicAuthUsernameKey) && missing(corev1.BasicAuthPasswordKey) {
			need(corev1.BasicAuthUsernameKey)
			need(corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			need(corev1.SSHAuthPrivateKey)
		}
	case corev1.SecretTypeTLS:
		for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
			if missing(key) {
				need(key)
			}
		}
	}
	return errs
}

// SecretUpdate checks a change; type stays, an immutable one keeps its data.
func SecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := metaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	if yes(old.Immutable) {
		if !yes(s.Immutable) {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), frozen))
		}
		if !reflect.DeepEqual(s.Data, old.Data) {
			errs = append(errs, field.Forbidden(field.NewPath("data"), frozen))
		}
	}
	return reported(append(errs, Secret(s)...), apivalidation.ValidateImmutableField(s.Type, old.Type, field.NewPath("type")))
}

// SecretWarnings says when a certificate does not go with its key.
func SecretWarnings(s, _ *corev1.Secret) []string {
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// ServiceAccount checks a new account.
func ServiceAccount(a *corev1.ServiceAccount) field.ErrorList {
	return meta(&a.ObjectMeta, true, apivalidation.ValidateServiceAccountName)
}

// ServiceAccountUpdate checks a change.
func ServiceAccountUpdate(a, old *corev1.ServiceAccount) field.ErrorList {
	return append(metaUpdate(&a.ObjectMeta, &old.ObjectMeta), ServiceAccount(a)...)
}

// ServiceAccountWarnings says when a lapsed annotation is set anew.
func ServiceAccountWarnings(a, old *corev1.ServiceAccount) []string {
	const key = "kubernetes.io/enforce-mountable-secrets"
	if _, ok := a.Annotations[key]; !ok {
		return nil
	}
	if old != nil {
		if _, was := old.Annotations[key]; was {
			return nil
		}
	}
	n := notes{}
	n.add(metadata.Child("annotations").Key(key), "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets")
	return n
}

// Binding checks a binding of a Pod to a node.
func Binding(b *corev1.Binding) (errs field.ErrorList) {
	target, node := field.NewPath("target"), b.Target.Kind == "" || b.Target.Kind == "Node"
	if !node {
		errs = append(errs, field.NotSupported(target.Child("kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		return append(errs, field.Required(target.Child("name"), ""))
	}
	if node {
		errs = append(errs, invalidAll(target.Child("name"), b.Target.Name, apivalidation.NameIsDNSSubdomain(b.Target.Name, false))...)
	}
	return errs
}

// TokenRequest checks how long a token may live: 10 minutes to 2^32 seconds.
func TokenRequest(t *authenticationv1.TokenRequest) (errs field.ErrorList) {
	at := field.NewPath("spec", "expirationSeconds")
	if s := *t.Spec.ExpirationSeconds; s < tenMinutes {
		errs = append(errs, field.Invalid(at, s, "may not specify a duration less than 10 minutes"))
	} else if s > 1<<32 {
		errs = append(errs, field.Invalid(at, s, "may not specify a duration larger than 2^32 seconds"))
	}
	return errs
}
