// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// oldNodeLabels are labels of nodes that have a successor.
var oldNodeLabels = map[string]string{
	"beta.kubernetes.io/arch":                       `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":                         `deprecated since v1.14; use "kubernetes.io/os" instead`,
	"failure-domain.beta.kubernetes.io/region":      `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	"failure-domain.beta.kubernetes.io/zone":        `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	"beta.kubernetes.io/instance-type":              `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
	"app.kubernetes.io/created-by":                  `deprecated since v1.9`,
	"scheduler.alpha.kubernetes.io/preferAvoidPods": `deprecated since v1.22; use Taints and Tolerations instead`,
	"node-role.kubernetes.io/master":                `use "node-role.kubernetes.io/control-plane" instead`,
}

// notes collects warnings, each with the field it is about.
type notes []string

func (n *notes) add(at *field.Path, format string, args ...any) {
	*n = append(*n, at.String()+": "+fmt.Sprintf(format, args...))
}

// PodWarnings are the notes for what is accepted but unwise in a new Pod.
// Changes of Pods are not commented.
func PodWarnings(p, old *corev1.Pod) []string {
	if old != nil {
		return nil
	}
	n := notes{}
	if problems := validation.IsDNS1123Label(p.Name); len(problems) > 0 {
		n.add(metadata.Child("name"), "this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", problems)
	}
	n.pod(&p.Spec, &p.ObjectMeta, nil)
	return n
}

func templateWarnings(name string, t *corev1.PodTemplateSpec, at *field.Path) []string {
	n := notes{}
	if problems := validation.IsDNS1123Label(name); len(problems) > 0 && name != "" {
		n.add(metadata.Child("name"), "this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", problems)
	}
	if t != nil {
		n.pod(&t.Spec, &t.ObjectMeta, at)
	}
	return n
}

// pod comments a spec; at is nil for a Pod and the template's path otherwise.
func (n *notes) pod(s *corev1.PodSpec, m *metav1.ObjectMeta, at *field.Path) {
	spec := at.Child("spec")
	n.nodeChoice(s, spec)
	for _, a := range []struct{ key, text string }{
		{"scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`},
		{"security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
		{"security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
	} {
		if _, ok := m.Annotations[a.key]; ok {
			n.add(at.Child("metadata", "annotations").Key(a.key), "%s", a.text)
		}
	}
	for i := range s.Volumes {
		n.volume(&s.Volumes[i].VolumeSource, spec.Child("volumes").Index(i))
	}
	*n = append(*n, overlaps(s.Volumes)...)
	n.twice(s, spec)
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		n.fraction(s.Overhead, name, spec.Child("overhead"))
	}
	notePaths := at.Child("metadata", "annotations")
	if _, ok := m.Annotations[seccompOfPod]; ok && (s.SecurityContext == nil || s.SecurityContext.SeccompProfile == nil) {
		n.add(notePaths.Key(seccompOfPod), `non-functional in v1.27+; use the "seccompProfile" field instead`)
	}
	eachContainer(s, spec, func(k *corev1.Container, p *field.Path) {
		key := seccompOfContainer + k.Name
		if _, ok := m.Annotations[key]; ok && (k.SecurityContext == nil || k.SecurityContext.SeccompProfile == nil) {
			n.add(notePaths.Key(key), `non-functional in v1.27+; use the "seccompProfile" field instead`)
		}
		key = appArmorOfContainer + k.Name
		if _, ok := m.Annotations[key]; ok && at != nil && (k.SecurityContext == nil || k.SecurityContext.AppArmorProfile == nil) {
			n.add(notePaths.Key(key), `deprecated since v1.30; use the "appArmorProfile" field instead`)
		}
		for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
			n.fraction(k.Resources.Limits, name, p.Child("resources", "limits"))
			n.fraction(k.Resources.Requests, name, p.Child("resources", "requests"))
		}
		n.env(k.Env, p.Child("env"))
	})
	n.ports(s, spec)
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		n.add(spec.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	n.podChoice(s, spec.Child("affinity"))
	if s.DNSConfig != nil {
		for i, a := range s.DNSConfig.Nameservers {
			*n = append(*n, validation.GetWarningsForIP(spec.Child("dnsConfig", "nameservers").Index(i), a)...)
		}
	}
	for i, a := range s.HostAliases {
		*n = append(*n, validation.GetWarningsForIP(spec.Child("hostAliases").Index(i).Child("ip"), a.IP)...)
	}
}

func (n *notes) fraction(list corev1.ResourceList, name corev1.ResourceName, at *field.Path) {
	if q, ok := list[name]; ok && q.MilliValue()%1000 != 0 {
		n.add(at.Key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
	}
}

// nodeChoice comments how nodes are chosen.
func (n *notes) nodeChoice(s *corev1.PodSpec, at *field.Path) {
	for _, k := range sorted(s.NodeSelector) {
		if text, old := oldNodeLabels[k]; old {
			n.add(at.Child("nodeSelector").Key(k), "%s", text)
		}
	}
	if s.Affinity != nil && s.Affinity.NodeAffinity != nil {
		a, p := s.Affinity.NodeAffinity, at.Child("affinity", "nodeAffinity")
		if r := a.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			for i, t := range r.NodeSelectorTerms {
				n.nodeTerm(t, false, p.Child(requiredTerms, "nodeSelectorTerms").Index(i))
			}
		}
		for i, t := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			n.nodeTerm(t.Preference, true, p.Child(preferredTerms).Index(i).Child("preference"))
		}
	}
	for i, t := range s.TopologySpreadConstraints {
		p := at.Child("topologySpreadConstraints").Index(i)
		if text, old := oldNodeLabels[t.TopologyKey]; old {
			n.add(p.Child("topologyKey"), "%s is %s", t.TopologyKey, text)
		}
		if t.LabelSelector == nil {
			n.add(p.Child("labelSelector"), "a null labelSelector results in matching no pod")
		}
	}
}

func (n *notes) nodeTerm(t corev1.NodeSelectorTerm, values bool, at *field.Path) {
	for i, e := range t.MatchExpressions {
		p := at.Child("matchExpressions").Index(i)
		if text, old := oldNodeLabels[e.Key]; old {
			n.add(p.Child("key"), "%s is %s", e.Key, text)
		}
		if !values {
			continue
		}
		for j, v := range e.Values {
			for _, problem := range validation.IsValidLabelValue(v) {
				n.add(p.Child("values").Index(j), "%s is invalid, %s", v, problem)
			}
		}
	}
}

func (n *notes) podChoice(s *corev1.PodSpec, at *field.Path) {
	const text = "a null labelSelector results in matching no pod"
	terms := func(must []corev1.PodAffinityTerm, should []corev1.WeightedPodAffinityTerm, at *field.Path) {
		for i, t := range must {
			if t.LabelSelector == nil {
				n.add(at.Child(requiredTerms).Index(i).Child("labelSelector"), text)
			}
		}
		for i, t := range should {
			if t.PodAffinityTerm.LabelSelector == nil {
				n.add(at.Child(preferredTerms).Index(i).Child("podAffinityTerm", "labelSelector"), text)
			}
		}
	}
	if s.Affinity == nil {
		return
	}
	if a := s.Affinity.PodAffinity; a != nil {
		terms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAffinity"))
	}
	if a := s.Affinity.PodAntiAffinity; a != nil {
		terms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAntiAffinity"))
	}
}

// volume comments volumes that Kubernetes has given up.
func (n *notes) volume(v *corev1.VolumeSource, at *field.Path) {
	for _, k := range []struct {
		name string
		set  bool
		text string
	}{
		{"photonPersistentDisk", v.PhotonPersistentDisk != nil, "deprecated in v1.11, non-functional in v1.16+"},
		{"gitRepo", v.GitRepo != nil, "deprecated in v1.11, and disabled by default in v1.33+"},
		{"scaleIO", v.ScaleIO != nil, "deprecated in v1.16, non-functional in v1.22+"},
		{"flocker", v.Flocker != nil, "deprecated in v1.22, non-functional in v1.25+"},
		{"storageOS", v.StorageOS != nil, "deprecated in v1.22, non-functional in v1.25+"},
		{"quobyte", v.Quobyte != nil, "deprecated in v1.22, non-functional in v1.25+"},
		{"glusterfs", v.Glusterfs != nil, "deprecated in v1.25, non-functional in v1.26+"},
		{"cephfs", v.CephFS != nil, "deprecated in v1.28, non-functional in v1.31+"},
		{"rbd", v.RBD != nil, "deprecated in v1.28, non-functional in v1.31+"},
	} {
		if k.set {
			n.add(at.Child(k.name), "%s", k.text)
		}
	}
	if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
		return
	}
	r := v.Ephemeral.VolumeClaimTemplate.Spec.Resources
	n.fraction(r.Requests, corev1.ResourceStorage, at.Child("ephemeral", "volumeClaimTemplate", "spec", "resources", "requests"))
	n.fraction(r.Limits, corev1.ResourceStorage, at.Child("ephemeral", "volumeClaimTemplate", "spec", "resources", "limits"))
}

// twice comments lists whose items a patch tells apart by name.
func (n *notes) twice(s *corev1.PodSpec, at *field.Path) {
	seen := sets.New[string]()
	for i, a := range s.HostAliases {
		if seen.Has(a.IP) {
			n.add(at.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", a.IP)
		}
		seen.Insert(a.IP)
	}
	seen = sets.New[string]()
	for i, r := range s.ImagePullSecrets {
		if seen.Has(r.Name) {
			n.add(at.Child("imagePullSecrets").Index(i).Child("name"), "duplicate name %q", r.Name)
		}
		seen.Insert(r.Name)
	}
	for i, r := range s.ImagePullSecrets {
		if r.Name == "" {
			n.add(at.Child("imagePullSecrets").Index(i).Child("name"), "invalid empty name %q", r.Name)
		}
	}
}

// env comments a variable that is set twice, unless it builds on itself.
func (n *notes) env(list []corev1.EnvVar, at *field.Path) {
	seen := sets.New[string]()
	for i, e := range list {
		self := "$(" + e.Name + ")"
		if seen.Has(e.Name) && (e.ValueFrom != nil || e.Value == self || !strings.Contains(e.Value, self)) {
			n.add(at.Index(i), "hides previous definition of %q, which may be dropped when using apply", e.Name)
		}
		seen.Insert(e.Name)
	}
}

// placed is a port with its place in the spec.
type placed struct {
	at   *field.Path
	port corev1.ContainerPort
}

func (n *notes) ports(s *corev1.PodSpec, at *field.Path) {
	all := map[string][]placed{}
	eachContainer(s, at, func(k *corev1.Container, at *field.Path) {
		for i, p := range k.Ports {
			here := at.Child("ports").Index(i)
			if p.HostIP != "" && p.HostPort == 0 {
				n.add(here, "hostIP set without hostPort: %+v", p)
			}
			key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
			for _, o := range all[key] {
				switch {
				case p.HostIP == o.port.HostIP && p.HostPort == o.port.HostPort:
					n.add(here, "duplicate port definition with %s", o.at)
				case p.HostPort == 0 || o.port.HostPort == 0:
					n.add(here, "overlapping port definition with %s", o.at)
				case p.HostPort == o.port.HostPort && (p.HostIP == "") != (o.port.HostIP == ""):
					n.add(here, "dangerously ambiguous port definition with %s", o.at)
				}
			}
			all[key] = append(all[key], placed{here, p})
		}
	})
	names := map[string]*field.Path{}
	eachContainer(s, at, func(k *corev1.Container, at *field.Path) {
		for i, p := range k.Ports {
			if other, ok := names[p.Name]; ok && p.Name != "" {
				n.add(at.Child("ports").Index(i), "duplicate port name %q with %s, services and probes that select ports by name will use %s", p.Name, other, other)
			} else {
				names[p.Name] = at.Child("ports").Index(i)
			}
		}
	})
}
