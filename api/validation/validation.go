// SPDX-License-Identifier: Apache-2.0

// Package validation owns what Kubernetes 1.37 refuses: for each kind, the
// rules for new objects and for changes, with upstream's field paths and
// texts. Functions are pure and return every error they find.
package validation

import (
	"net/netip"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	immutable   = apivalidation.FieldImmutableErrorMsg
	notNegative = apivalidation.IsNegativeErrorMsg
	inRange     = "must be greater than zero"
)

var metadata = field.NewPath("metadata")

func meta(m *metav1.ObjectMeta, namespaced bool, name apivalidation.ValidateNameFunc) field.ErrorList {
	return apivalidation.ValidateObjectMeta(m, namespaced, name, metadata)
}

func metaUpdate(m, old *metav1.ObjectMeta) field.ErrorList {
	return apivalidation.ValidateObjectMetaUpdate(m, old, metadata)
}

// oneOf refuses a value outside a set, naming the values in order.
func oneOf[T ~string](v T, path *field.Path, allowed ...T) field.ErrorList {
	for _, a := range allowed {
		if a == v {
			return nil
		}
	}
	if v == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return field.ErrorList{field.NotSupported(path, v, allowed)}
}

func nonNegative(v int64, path *field.Path) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(v, path)
}

func invalidAll(path *field.Path, value any, problems []string) (errs field.ErrorList) {
	for _, p := range problems {
		errs = append(errs, field.Invalid(path, value, p))
	}
	return errs
}

// Namespace checks a new namespace.
func Namespace(n *corev1.Namespace) field.ErrorList {
	errs := meta(&n.ObjectMeta, false, apivalidation.ValidateNamespaceName)
	for i, f := range n.Spec.Finalizers {
		errs = append(errs, finalizer(string(f), field.NewPath("spec", "finalizers").Index(i))...)
	}
	return errs
}

func finalizer(name string, path *field.Path) field.ErrorList {
	errs := invalidAll(path, name, validation.IsQualifiedName(name))
	if len(errs) == 0 && !strings.Contains(name, "/") && name != string(corev1.FinalizerKubernetes) {
		errs = append(errs, field.Invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified"))
	}
	return errs
}

// NamespaceUpdate checks a change of a namespace.
func NamespaceUpdate(n, old *corev1.Namespace) field.ErrorList {
	return metaUpdate(&n.ObjectMeta, &old.ObjectMeta)
}

// NamespaceStatusUpdate checks the phase against the deletion.
func NamespaceStatusUpdate(n, old *corev1.Namespace) field.ErrorList {
	errs := metaUpdate(&n.ObjectMeta, &old.ObjectMeta)
	path := field.NewPath("status", "Phase")
	if n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceActive {
		errs = append(errs, field.Invalid(path, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty"))
	} else if !n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceTerminating {
		errs = append(errs, field.Invalid(path, n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"))
	}
	return errs
}

// totalLimit is how large the data of a ConfigMap or Secret may be.
const totalLimit = corev1.MaxSecretSize

// ConfigMap checks a new ConfigMap.
func ConfigMap(c *corev1.ConfigMap) field.ErrorList {
	errs := meta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	total := 0
	for key, value := range c.Data {
		errs = append(errs, invalidAll(field.NewPath("data").Key(key), key, validation.IsConfigMapKey(key))...)
		if _, both := c.BinaryData[key]; both {
			errs = append(errs, field.Invalid(field.NewPath("data").Key(key), key, "duplicate of key present in binaryData"))
		}
		total += len(value)
	}
	for key, value := range c.BinaryData {
		errs = append(errs, invalidAll(field.NewPath("binaryData").Key(key), key, validation.IsConfigMapKey(key))...)
		total += len(value)
	}
	if total > totalLimit {
		errs = append(errs, field.TooLong(field.NewPath(""), "" /* unused */, totalLimit))
	}
	return errs
}

// ConfigMapUpdate checks a change; an immutable one keeps its data.
func ConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	errs := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	if old.Immutable != nil && *old.Immutable {
		if c.Immutable == nil || !*c.Immutable {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
		}
		if !equality.Semantic.DeepEqual(c.Data, old.Data) {
			errs = append(errs, field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
		}
		if !equality.Semantic.DeepEqual(c.BinaryData, old.BinaryData) {
			errs = append(errs, field.Forbidden(field.NewPath("binaryData"), "field is immutable when `immutable` is set"))
		}
	}
	return append(errs, ConfigMap(c)...)
}

// Secret checks a new Secret.
func Secret(s *corev1.Secret) field.ErrorList {
	errs := meta(&s.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	data, total := field.NewPath("data"), 0
	for key, value := range s.Data {
		errs = append(errs, invalidAll(data.Key(key), key, validation.IsConfigMapKey(key))...)
		total += len(value)
	}
	if total > totalLimit {
		errs = append(errs, field.TooLong(data, "" /* unused */, totalLimit))
	}
	need := map[corev1.SecretType][]string{
		corev1.SecretTypeDockercfg: {corev1.DockerConfigKey}, corev1.SecretTypeDockerConfigJson: {corev1.DockerConfigJsonKey},
		corev1.SecretTypeSSHAuth: {corev1.SSHAuthPrivateKey}, corev1.SecretTypeTLS: {corev1.TLSCertKey, corev1.TLSPrivateKeyKey},
	}
	for _, key := range need[s.Type] {
		if _, ok := s.Data[key]; !ok {
			errs = append(errs, field.Required(data.Key(key), ""))
		}
	}
	if s.Type == corev1.SecretTypeServiceAccountToken && s.Annotations[corev1.ServiceAccountNameKey] == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), ""))
	}
	if s.Type == corev1.SecretTypeBasicAuth && s.Data[corev1.BasicAuthUsernameKey] == nil && s.Data[corev1.BasicAuthPasswordKey] == nil {
		errs = append(errs, field.Required(data.Key(corev1.BasicAuthUsernameKey), ""), field.Required(data.Key(corev1.BasicAuthPasswordKey), ""))
	}
	return errs
}

// SecretUpdate checks a change; type stays, an immutable one keeps its data.
func SecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := metaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, apivalidation.ValidateImmutableField(s.Type, old.Type, field.NewPath("type"))...)
	if old.Immutable != nil && *old.Immutable {
		if s.Immutable == nil || !*s.Immutable {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
		}
		if !equality.Semantic.DeepEqual(s.Data, old.Data) {
			errs = append(errs, field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
		}
	}
	return append(errs, Secret(s)...)
}

// ServiceAccount checks a new account.
func ServiceAccount(a *corev1.ServiceAccount) field.ErrorList {
	return meta(&a.ObjectMeta, true, apivalidation.ValidateServiceAccountName)
}

// Binding checks a binding of a Pod to a node.
func Binding(b *corev1.Binding) (errs field.ErrorList) {
	if k := b.Target.Kind; k != "" && k != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), k, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	return errs
}

// TokenRequest checks how long a token may live: 10 minutes to 2^32 seconds.
func TokenRequest(t *authenticationv1.TokenRequest) (errs field.ErrorList) {
	path := field.NewPath("spec", "expirationSeconds")
	if s := *t.Spec.ExpirationSeconds; s < 10*60 {
		errs = append(errs, field.Invalid(path, s, "may not specify a duration less than 10 minutes"))
	} else if s > 1<<32 {
		errs = append(errs, field.Invalid(path, s, "may not specify a duration larger than 2^32 seconds"))
	}
	return errs
}

// ip checks an address.
func ip(value string, path *field.Path) field.ErrorList {
	if _, err := netip.ParseAddr(value); err != nil {
		return field.ErrorList{field.Invalid(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")}
	}
	return nil
}

func port(n int, path *field.Path) field.ErrorList {
	return invalidAll(path, n, validation.IsValidPortNum(n))
}

// unique collects values and refuses the second of each.
type unique struct{ seen sets.Set[string] }

func (u *unique) add(v string, path *field.Path) field.ErrorList {
	if u.seen == nil {
		u.seen = sets.New[string]()
	}
	if u.seen.Has(v) {
		return field.ErrorList{field.Duplicate(path, v)}
	}
	u.seen.Insert(v)
	return nil
}
