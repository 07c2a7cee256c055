// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func itoa(n int32) string { return strconv.Itoa(int(n)) }

// resources checks requests and limits: known names, amounts, request <= limit.
func resources(r *corev1.ResourceRequirements, path *field.Path) (errs field.ErrorList) {
	for name, q := range r.Limits {
		errs = append(errs, resourceName(name, path.Child("limits").Key(string(name)))...)
		errs = append(errs, amount(name, q, path.Child("limits").Key(string(name)))...)
	}
	for name, q := range r.Requests {
		at := path.Child("requests").Key(string(name))
		errs = append(errs, resourceName(name, at)...)
		errs = append(errs, amount(name, q, at)...)
		limit, limited := r.Limits[name]
		switch {
		case limited && q.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(path.Child("requests"), q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		case limited && q.Cmp(limit) != 0 && !overcommit(name):
			errs = append(errs, field.Invalid(path.Child("requests"), q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case !limited && !overcommit(name):
			errs = append(errs, field.Required(path.Child("limits"), "Limit must be set for non overcommitable resources"))
		}
	}
	return errs
}

func standardResource(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// overcommit says whether a request may be lower than its limit.
func overcommit(name corev1.ResourceName) bool {
	return standardResource(name) && !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func resourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	errs := invalidAll(path, string(name), validation.IsQualifiedName(string(name)))
	if len(errs) > 0 {
		return errs
	}
	if !strings.Contains(string(name), "/") && !standardResource(name) {
		return field.ErrorList{field.Invalid(path, string(name), "must be a standard resource type or fully qualified"), field.Invalid(path, string(name), "must be a standard resource for containers")}
	}
	return nil
}

func amount(name corev1.ResourceName, q resource.Quantity, path *field.Path) (errs field.ErrorList) {
	if q.Sign() < 0 {
		errs = append(errs, field.Invalid(path, q.String(), notNegative))
	}
	if !standardResource(name) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(path, q.String(), "must be an integer"))
	}
	return errs
}

func probes(c *corev1.Container, path *field.Path) (errs field.ErrorList) {
	errs = append(errs, probe(c.LivenessProbe, path.Child("livenessProbe"))...)
	if p := c.LivenessProbe; p != nil && p.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(path.Child("livenessProbe", "successThreshold"), p.SuccessThreshold, "must be 1"))
	}
	errs = append(errs, probe(c.ReadinessProbe, path.Child("readinessProbe"))...)
	if p := c.ReadinessProbe; p != nil && p.TerminationGracePeriodSeconds != nil {
		errs = append(errs, field.Invalid(path.Child("readinessProbe", "terminationGracePeriodSeconds"), *p.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
	}
	errs = append(errs, probe(c.StartupProbe, path.Child("startupProbe"))...)
	if p := c.StartupProbe; p != nil && p.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(path.Child("startupProbe", "successThreshold"), p.SuccessThreshold, "must be 1"))
	}
	return errs
}

// named is a field of a struct: errors come in the order of fields.
type named[T any] struct {
	name  string
	value T
}

func probe(p *corev1.Probe, path *field.Path) (errs field.ErrorList) {
	if p == nil {
		return nil
	}
	errs = append(errs, handler(p.Exec, p.HTTPGet, p.TCPSocket, p.GRPC, nil, path)...)
	for _, f := range []named[int32]{
		{"initialDelaySeconds", p.InitialDelaySeconds}, {"timeoutSeconds", p.TimeoutSeconds}, {"periodSeconds", p.PeriodSeconds},
		{"successThreshold", p.SuccessThreshold}, {"failureThreshold", p.FailureThreshold},
	} {
		errs = append(errs, nonNegative(int64(f.value), path.Child(f.name))...)
	}
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		errs = append(errs, field.Invalid(path.Child("terminationGracePeriodSeconds"), *g, inRange))
	}
	return errs
}

func lifecycle(l *corev1.Lifecycle, path *field.Path) (errs field.ErrorList) {
	if l == nil {
		return nil
	}
	for _, f := range []named[*corev1.LifecycleHandler]{{"postStart", l.PostStart}, {"preStop", l.PreStop}} {
		if h := f.value; h != nil {
			errs = append(errs, handler(h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep, path.Child(f.name))...)
		}
	}
	return errs
}

// handler checks that exactly one action is asked for, and that one.
func handler(exec *corev1.ExecAction, get *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction, grpc *corev1.GRPCAction, sleep *corev1.SleepAction, path *field.Path) (errs field.ErrorList) {
	n := 0
	one := func(name string) bool {
		if n++; n > 1 {
			errs = append(errs, field.Forbidden(path.Child(name), "may not specify more than 1 handler type"))
			return false
		}
		return true
	}
	if exec != nil && one("exec") && len(exec.Command) == 0 {
		errs = append(errs, field.Required(path.Child("exec", "command"), ""))
	}
	if get != nil && one("httpGet") {
		if get.Path == "" {
			errs = append(errs, field.Required(path.Child("httpGet", "path"), ""))
		}
		errs = append(errs, portOrName(get.Port, path.Child("httpGet", "port"))...)
		errs = append(errs, oneOf(get.Scheme, path.Child("httpGet", "scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
		for _, h := range get.HTTPHeaders {
			errs = append(errs, invalidAll(path.Child("httpGet", "httpHeaders"), h.Name, validation.IsHTTPHeaderName(h.Name))...)
		}
	}
	if tcp != nil && one("tcpSocket") {
		errs = append(errs, portOrName(tcp.Port, path.Child("tcpSocket", "port"))...)
	}
	if grpc != nil && one("grpc") {
		errs = append(errs, port(int(grpc.Port), path.Child("grpc", "port"))...)
	}
	if sleep != nil && one("sleep") && sleep.Seconds < 0 {
		errs = append(errs, field.Invalid(path.Child("sleep"), sleep.Seconds, "must be non-negative"))
	}
	if n == 0 {
		errs = append(errs, field.Required(path, "must specify a handler type"))
	}
	return errs
}

func portOrName(p intstr.IntOrString, path *field.Path) field.ErrorList {
	if p.Type == intstr.Int {
		return port(int(p.IntVal), path)
	}
	return invalidAll(path, p.StrVal, validation.IsValidPortName(p.StrVal))
}

func podSecurityIDs(sc *corev1.PodSecurityContext, path *field.Path) (errs field.ErrorList) {
	for _, f := range []named[*int64]{{"runAsUser", sc.RunAsUser}, {"runAsGroup", sc.RunAsGroup}, {"fsGroup", sc.FSGroup}} {
		if f.value != nil {
			errs = append(errs, userID(*f.value, path.Child(f.name))...)
		}
	}
	for i, g := range sc.SupplementalGroups {
		errs = append(errs, userID(g, path.Child("supplementalGroups").Index(i))...)
	}
	names := &unique{}
	for i, s := range sc.Sysctls {
		at := path.Child("sysctls").Index(i).Child("name")
		if s.Name == "" {
			errs = append(errs, field.Required(at, ""))
		} else {
			errs = append(errs, names.add(s.Name, at)...)
		}
	}
	return append(errs, seccomp(sc.SeccompProfile, path.Child("seccompProfile"))...)
}

func userID(id int64, path *field.Path) field.ErrorList {
	if id < 0 || id > 1<<31-1 {
		return field.ErrorList{field.Invalid(path, id, validation.InclusiveRangeError(0, 1<<31-1))}
	}
	return nil
}

func seccomp(p *corev1.SeccompProfile, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	switch {
	case p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile == nil:
		return field.ErrorList{field.Required(path.Child("localhostProfile"), "must be set when seccomp type is Localhost ")}
	case p.Type != corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		return field.ErrorList{field.Invalid(path.Child("localhostProfile"), p, "can only be set when seccomp type is Localhost")}
	}
	return oneOf(p.Type, path.Child("type"), corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
}

func security(sc *corev1.SecurityContext, path *field.Path) (errs field.ErrorList) {
	if sc == nil {
		return nil
	}
	for _, f := range []named[*int64]{{"runAsUser", sc.RunAsUser}, {"runAsGroup", sc.RunAsGroup}} {
		if f.value != nil {
			errs = append(errs, userID(*f.value, path.Child(f.name))...)
		}
	}
	if sc.ProcMount != nil {
		errs = append(errs, oneOf(*sc.ProcMount, path.Child("procMount"), corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
	}
	if e := sc.AllowPrivilegeEscalation; e != nil && !*e {
		if sc.Privileged != nil && *sc.Privileged {
			errs = append(errs, field.Invalid(path, sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if sc.Capabilities != nil {
			for _, c := range sc.Capabilities.Add {
				if c == "CAP_SYS_ADMIN" {
					errs = append(errs, field.Invalid(path, sc, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
				}
			}
		}
	}
	return append(errs, seccomp(sc.SeccompProfile, path.Child("seccompProfile"))...)
}

func tolerations(list []corev1.Toleration, path *field.Path) (errs field.ErrorList) {
	for i, t := range list {
		at := path.Index(i)
		if t.Key != "" {
			errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		} else if t.Operator != corev1.TolerationOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			errs = append(errs, invalidAll(at.Child("operator"), t.Value, validation.IsValidLabelValue(t.Value))...)
		case corev1.TolerationOpExists:
			if t.Value != "" {
				errs = append(errs, field.Invalid(at.Child("operator"), t, "value must be empty when `operator` is 'Exists'"))
			}
		default:
			errs = append(errs, field.NotSupported(at.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		if t.Effect != "" {
			errs = append(errs, oneOf(t.Effect, at.Child("effect"), corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)...)
		}
	}
	return errs
}

func nodeAffinity(a *corev1.Affinity, path *field.Path) (errs field.ErrorList) {
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	at := path.Child("nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	terms := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) == 0 {
		return field.ErrorList{field.Required(at, "must have at least one node selector term")}
	}
	for i, t := range terms {
		for j, e := range t.MatchExpressions {
			errs = append(errs, expression(e, at.Index(i).Child("matchExpressions").Index(j))...)
		}
	}
	return errs
}

func expression(e corev1.NodeSelectorRequirement, path *field.Path) (errs field.ErrorList) {
	switch e.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(e.Values) == 0 {
			errs = append(errs, field.Required(path.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(e.Values) > 0 {
			errs = append(errs, field.Forbidden(path.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(e.Values) != 1 {
			errs = append(errs, field.Required(path.Child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'"))
		}
	default:
		errs = append(errs, field.Invalid(path.Child("operator"), e.Operator, "not a valid selector operator"))
	}
	return append(errs, metavalidation.ValidateLabelName(e.Key, path.Child("key"))...)
}

func hostAliases(list []corev1.HostAlias, path *field.Path) (errs field.ErrorList) {
	for i, a := range list {
		errs = append(errs, ip(a.IP, path.Index(i).Child("ip"))...)
		for j, h := range a.Hostnames {
			errs = append(errs, invalidAll(path.Index(i).Child("hostnames").Index(j), h, validation.IsDNS1123Subdomain(h))...)
		}
	}
	return errs
}

func dnsConfig(s *corev1.PodSpec, path *field.Path) (errs field.ErrorList) {
	c := s.DNSConfig
	if s.DNSPolicy == corev1.DNSNone && (c == nil || len(c.Nameservers) == 0) {
		at := path
		if c != nil {
			at = path.Child("nameservers")
		}
		return field.ErrorList{field.Required(at, fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone))}
	}
	if c == nil {
		return nil
	}
	if len(c.Nameservers) > 3 {
		errs = append(errs, field.Invalid(path.Child("nameservers"), c.Nameservers, "must not have more than 3 nameservers"))
	}
	for i, n := range c.Nameservers {
		if net.ParseIP(n) == nil {
			errs = append(errs, ip(n, path.Child("nameservers").Index(i))...)
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			errs = append(errs, field.Required(path.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}
