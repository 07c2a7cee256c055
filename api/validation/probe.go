// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (c *context) probes(k *corev1.Container, at *field.Path) (errs field.ErrorList) {
	once := func(p *corev1.Probe, at *field.Path) {
		errs = append(errs, c.probe(p, at)...)
		if p != nil && p.SuccessThreshold != 1 {
			errs = append(errs, field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
		}
	}
	once(k.LivenessProbe, at.Child("livenessProbe"))
	ready := at.Child("readinessProbe")
	errs = append(errs, c.probe(k.ReadinessProbe, ready)...)
	if p := k.ReadinessProbe; p != nil && p.TerminationGracePeriodSeconds != nil {
		errs = append(errs, field.Invalid(ready.Child("terminationGracePeriodSeconds"), p.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
	}
	once(k.StartupProbe, at.Child("startupProbe"))
	return errs
}

func (c *context) probe(p *corev1.Probe, at *field.Path) (errs field.ErrorList) {
	if p == nil {
		return nil
	}
	errs = c.handler(action{exec: p.Exec, http: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC}, at)
	for _, n := range []struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", p.InitialDelaySeconds}, {"timeoutSeconds", p.TimeoutSeconds}, {"periodSeconds", p.PeriodSeconds},
		{"successThreshold", p.SuccessThreshold}, {"failureThreshold", p.FailureThreshold},
	} {
		errs = append(errs, nonNegative(int64(n.value), at.Child(n.name))...)
	}
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0"))
	}
	return errs
}

func (c *context) lifecycle(l *corev1.Lifecycle, at *field.Path) (errs field.ErrorList) {
	if l == nil {
		return nil
	}
	hook := func(h *corev1.LifecycleHandler, at *field.Path) {
		if h != nil {
			errs = append(errs, c.handler(action{exec: h.Exec, http: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}, at)...)
		}
	}
	hook(l.PostStart, at.Child("postStart"))
	hook(l.PreStop, at.Child("preStop"))
	if l.StopSignal != nil {
		errs = append(errs, stopSignal(*l.StopSignal, c.spec.OS, at.Child("stopSignal"))...)
	}
	return errs
}

// action is what a probe or a hook does: one of these.
type action struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func (c *context) handler(a action, at *field.Path) (errs field.ErrorList) {
	n := 0
	for _, h := range []struct {
		name  string
		set   bool
		check func(at *field.Path) field.ErrorList
	}{
		{"exec", a.exec != nil, func(at *field.Path) field.ErrorList {
			if len(a.exec.Command) == 0 {
				return field.ErrorList{field.Required(at.Child("command"), "")}
			}
			return nil
		}},
		{"httpGet", a.http != nil, func(at *field.Path) field.ErrorList { return httpGet(a.http, at) }},
		{"tcpSocket", a.tcp != nil, func(at *field.Path) field.ErrorList { return portOrName(a.tcp.Port, at.Child("port")) }},
		{"grpc", a.grpc != nil, func(at *field.Path) field.ErrorList {
			errs := portOrName(intstr.FromInt32(a.grpc.Port), at.Child("port"))
			return append(errs, supportedIfSet(a.grpc.Mode, at.Child("mode"), corev1.GRPCProbeModePlaintext, corev1.GRPCProbeModeTLS)...)
		}},
		{"sleep", a.sleep != nil, func(at *field.Path) field.ErrorList { return c.sleep(a.sleep.Seconds, at) }},
	} {
		if !h.set {
			continue
		}
		if n++; n > 1 {
			errs = append(errs, field.Forbidden(at.Child(h.name), "may not specify more than 1 handler type"))
			n--
			continue
		}
		errs = append(errs, h.check(at.Child(h.name))...)
	}
	if n == 0 {
		errs = append(errs, field.Required(at, "must specify a handler type"))
	}
	return errs
}

// sleep cannot outlast the Pod's own grace.
func (c *context) sleep(seconds int64, at *field.Path) field.ErrorList {
	grace := c.spec.TerminationGracePeriodSeconds
	if grace != nil && (seconds < 0 || seconds > *grace) {
		return field.ErrorList{field.Invalid(at, seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace))}
	}
	return nil
}

func httpGet(g *corev1.HTTPGetAction, at *field.Path) field.ErrorList {
	errs := required(g.Path, at.Child("path"))
	errs = append(errs, portOrName(g.Port, at.Child("port"))...)
	errs = append(errs, supported(g.Scheme, at.Child("scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, h := range g.HTTPHeaders {
		errs = append(errs, invalidAll(at.Child("httpHeaders"), h.Name, validation.IsHTTPHeaderName(h.Name))...)
	}
	if p := g.Protocol; p != nil {
		protocol := at.Child("protocol")
		bad := supported(*p, protocol, corev1.HTTPProtocolHTTP1, corev1.HTTPProtocolHTTP2)
		switch {
		case len(bad) > 0:
			errs = append(errs, bad...)
		case *p == corev1.HTTPProtocolHTTP2 && g.Scheme != corev1.URISchemeHTTP:
			errs = append(errs, field.Invalid(protocol, *p, "is only supported with HTTP (H2C)"))
		case *p == corev1.HTTPProtocolHTTP2 && g.Host != "":
			errs = append(errs, field.Invalid(at.Child("host"), g.Host, "must be empty when `protocol` is \"HTTP2\""))
		}
	}
	return errs
}

// stopSignal: the signal is one of the Pod's operating system.
func stopSignal(s corev1.Signal, os *corev1.PodOS, at *field.Path) field.ErrorList {
	switch {
	case os == nil:
		return field.ErrorList{field.Forbidden(at, "may not be set for containers with empty `spec.os.name`")}
	case os.Name == corev1.Windows:
		return supported(s, at, corev1.SIGKILL, corev1.SIGTERM)
	case os.Name == corev1.Linux:
		return supported(s, at, linuxSignals()...)
	}
	return nil
}

// linuxSignals are all signals by name, sorted.
func linuxSignals() []corev1.Signal {
	var list []corev1.Signal
	for _, name := range []string{
		"ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL", "PROF", "PWR",
		"QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH",
		"XCPU", "XFSZ", "RTMIN", "RTMAX",
	} {
		list = append(list, corev1.Signal("SIG"+name))
	}
	for i := 1; i <= 15; i++ {
		list = append(list, corev1.Signal(fmt.Sprintf("SIGRTMIN+%d", i)))
		if i < 15 {
			list = append(list, corev1.Signal(fmt.Sprintf("SIGRTMAX-%d", i)))
		}
	}
	slices.Sort(list)
	return list
}
