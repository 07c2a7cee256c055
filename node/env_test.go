// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestExpand(t *testing.T) {
	env := map[string]string{"A": "1", "B": "$(A)", "EMPTY": "", "A B": "spaced", "$": "dollar"}
	for in, want := range map[string]string{
		"": "", "plain": "plain", "$(A)": "1", "x$(A)y$(A)": "x1y1", "$(B)": "$(A)", "$(EMPTY)": "", "$(NONE)": "$(NONE)", "$()": "$()",
		"$$(A)": "$(A)", "$$$(A)": "$1", "$$$$(A)": "$$(A)", "$$": "$", "$": "$", "a$": "a$", "$A": "$A", "${A}": "${A}", "$(A": "$(A", "$(A$(A)": "$(A$(A)",
		"$(A B)": "spaced", "$($)": "dollar", "$(A))": "1)", "$((A))": "$((A))", "$$$": "$$", "é$(A)é": "é1é",
	} {
		if got := expand(in, env); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

// FuzzExpand: text without a dollar is not touched, text with every dollar
// doubled comes back, and nothing panics.
func FuzzExpand(f *testing.F) {
	for _, s := range []string{"", "$", "$(", "$(A)", "$$(A)", "x$(A)$(B", "$()"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		env := map[string]string{"A": "1"}
		got := expand(s, env)
		if !strings.Contains(s, "$") && got != s {
			t.Errorf("%q becomes %q", s, got)
		}
		if back := expand(strings.ReplaceAll(s, "$", "$$"), env); back != s {
			t.Errorf("%q comes back as %q", s, back)
		}
	})
}

func service(name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
}

// kubernetesEnv is in every container.
func kubernetesEnv() map[string]string {
	return map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443", "KUBERNETES_PORT": "tcp://10.96.0.1:443",
		"KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP_PROTO": "tcp", "KUBERNETES_PORT_443_TCP_PORT": "443", "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
	}
}

func envObjects() []runtime.Object {
	return []runtime.Object{
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns"}, Data: map[string]string{"KEY": "from c", "odd key.1": "odd", "SAME": "c"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "ns"}, Data: map[string][]byte{"PASS": []byte("word"), "SAME": []byte("s")}},
	}
}

func mapKey(name, key string, optional bool) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: &optional}}
}

func secretKey(name, key string, optional bool) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: &optional}}
}

func allOf(configMap, secret, prefix string, optional bool) corev1.EnvFromSource {
	f := corev1.EnvFromSource{Prefix: prefix}
	if configMap != "" {
		f.ConfigMapRef = &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: configMap}, Optional: &optional}
	} else {
		f.SecretRef = &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Optional: &optional}
	}
	return f
}

func field(path string) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}
}

// TestEnvironment: what a container finds in its variables beside the API's own.
func TestEnvironment(t *testing.T) {
	for name, tt := range map[string]struct {
		services []runtime.Object
		from     []corev1.EnvFromSource
		env      []corev1.EnvVar
		change   func(p *corev1.Pod)
		want     map[string]string
		err      string
	}{
		"nothing": {want: map[string]string{}},
		"a service": {services: []runtime.Object{service("my-db", "10.96.0.9", corev1.ServicePort{Name: "sql-main", Port: 5432, Protocol: "TCP"}, corev1.ServicePort{Name: "stats", Port: 99, Protocol: "UDP"})},
			want: map[string]string{
				"MY_DB_SERVICE_HOST": "10.96.0.9", "MY_DB_SERVICE_PORT": "5432", "MY_DB_SERVICE_PORT_SQL_MAIN": "5432", "MY_DB_SERVICE_PORT_STATS": "99", "MY_DB_PORT": "tcp://10.96.0.9:5432",
				"MY_DB_PORT_5432_TCP": "tcp://10.96.0.9:5432", "MY_DB_PORT_5432_TCP_PROTO": "tcp", "MY_DB_PORT_5432_TCP_PORT": "5432", "MY_DB_PORT_5432_TCP_ADDR": "10.96.0.9",
				"MY_DB_PORT_99_UDP": "udp://10.96.0.9:99", "MY_DB_PORT_99_UDP_PROTO": "udp", "MY_DB_PORT_99_UDP_PORT": "99", "MY_DB_PORT_99_UDP_ADDR": "10.96.0.9",
			}},
		"an address with colons": {services: []runtime.Object{service("six", "fd00::9", corev1.ServicePort{Port: 80})}, want: map[string]string{
			"SIX_SERVICE_HOST": "fd00::9", "SIX_SERVICE_PORT": "80", "SIX_PORT": "tcp://[fd00::9]:80",
			"SIX_PORT_80_TCP": "tcp://[fd00::9]:80", "SIX_PORT_80_TCP_PROTO": "tcp", "SIX_PORT_80_TCP_PORT": "80", "SIX_PORT_80_TCP_ADDR": "fd00::9",
		}},
		"headless and external": {services: []runtime.Object{service("none", "None"), service("out", "")}, want: map[string]string{}},
		"no links":              {services: []runtime.Object{service("db", "10.96.0.9", corev1.ServicePort{Port: 1})}, change: func(p *corev1.Pod) { *p.Spec.EnableServiceLinks = false }, want: map[string]string{}},
		"later sees earlier": {env: []corev1.EnvVar{{Name: "A", Value: "$(B)"}, {Name: "B", Value: "2"}, {Name: "C", Value: "$(B)-$(KUBERNETES_SERVICE_PORT)"}, {Name: "B", Value: "$(B)3"}, {Name: "D", Value: "$$(B)"}},
			want: map[string]string{"A": "$(B)", "B": "23", "C": "2-443", "D": "$(B)"}},
		"env wins over the API's own": {env: []corev1.EnvVar{{Name: "KUBERNETES_PORT", Value: "mine"}}, want: map[string]string{"KUBERNETES_PORT": "mine"}},
		"all of both, the later wins": {from: []corev1.EnvFromSource{allOf("c", "", "", false), allOf("", "s", "", false)},
			want: map[string]string{"KEY": "from c", "odd key.1": "odd", "PASS": "word", "SAME": "s"}},
		"prefixes": {from: []corev1.EnvFromSource{allOf("c", "", "C_", false), allOf("", "s", "S_", false)}, env: []corev1.EnvVar{{Name: "X", Value: "$(C_KEY)"}, {Name: "S_PASS", Value: "other"}},
			want: map[string]string{"C_KEY": "from c", "C_odd key.1": "odd", "C_SAME": "c", "S_PASS": "other", "S_SAME": "s", "X": "from c"}},
		"keys":                  {env: []corev1.EnvVar{{Name: "A", ValueFrom: mapKey("c", "KEY", false)}, {Name: "B", ValueFrom: secretKey("s", "PASS", false)}, {Name: "C", Value: "$(A)/$(B)"}}, want: map[string]string{"A": "from c", "B": "word", "C": "from c/word"}},
		"optional and missing":  {from: []corev1.EnvFromSource{allOf("no", "", "", true), allOf("", "no", "", true)}, env: []corev1.EnvVar{{Name: "A", ValueFrom: mapKey("no", "x", true)}, {Name: "B", ValueFrom: mapKey("c", "x", true)}, {Name: "C", ValueFrom: secretKey("s", "x", true)}}, want: map[string]string{}},
		"no configmap":          {from: []corev1.EnvFromSource{allOf("no", "", "", false)}, err: `configmap "no" not found`},
		"no secret":             {env: []corev1.EnvVar{{Name: "A", ValueFrom: secretKey("no", "x", false)}}, err: `secret "no" not found`},
		"no key in a configmap": {env: []corev1.EnvVar{{Name: "A", ValueFrom: mapKey("c", "x", false)}}, err: "couldn't find key x in ConfigMap ns/c"},
		"no key in a secret":    {env: []corev1.EnvVar{{Name: "A", ValueFrom: secretKey("s", "x", false)}}, err: "couldn't find key x in Secret ns/s"},
		"fields": {change: func(p *corev1.Pod) { p.Spec.NodeName, p.Spec.ServiceAccountName = "n", "robot" }, env: []corev1.EnvVar{
			{Name: "NAME", ValueFrom: field("metadata.name")}, {Name: "NAMESPACE", ValueFrom: field("metadata.namespace")}, {Name: "UID", ValueFrom: field("metadata.uid")},
			{Name: "LABEL", ValueFrom: field("metadata.labels['app']")}, {Name: "NOTE", ValueFrom: field("metadata.annotations['example.com/a']")}, {Name: "NONE", ValueFrom: field("metadata.labels['none']")},
			{Name: "NODE", ValueFrom: field("spec.nodeName")}, {Name: "ACCOUNT", ValueFrom: field("spec.serviceAccountName")},
			{Name: "HOST", ValueFrom: field("status.hostIP")}, {Name: "HOSTS", ValueFrom: field("status.hostIPs")}, {Name: "IP", ValueFrom: field("status.podIP")}, {Name: "IPS", ValueFrom: field("status.podIPs")},
		}, want: map[string]string{"NAME": "web", "NAMESPACE": "ns", "UID": "u-1", "LABEL": "web", "NOTE": "b", "NONE": "", "NODE": "n", "ACCOUNT": "robot",
			"HOST": "192.0.2.1", "HOSTS": "192.0.2.1", "IP": "10.0.0.7", "IPS": "10.0.0.7,fd00::7"}},
		"fields on the host's network": {change: func(p *corev1.Pod) { p.Spec.HostNetwork = true }, env: []corev1.EnvVar{{Name: "IP", ValueFrom: field("status.podIP")}}, want: map[string]string{"IP": "192.0.2.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := configAgent(t, append(envObjects(), tt.services...)...)
			p := plainPod()
			p.Spec.Containers[0].EnvFrom, p.Spec.Containers[0].Env = tt.from, tt.env
			if tt.change != nil {
				tt.change(p)
			}
			got, err := a.environment(context.Background(), p, &podSandbox{ips: []string{"10.0.0.7", "fd00::7"}}, &p.Spec.Containers[0])
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Errorf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := kubernetesEnv()
			maps.Copy(want, tt.want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestEnvFile: the syntax of KEP-3721.
func TestEnvFile(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "K='v'": "v", "  K='v'  # said": "v", "# K='x'\n\n \t\nK='v'\nK='w'": "v", "A='1'\nK='a\n b\nc'": "a\n b\nc", "K=''": "", "K= 'v'\nK='w'": "",
		"K='$(A) \\n \"q\"'": `$(A) \n "q"`, "KK='x'\nK='v'": "v", "K='v' x": "!", "K=v": "!", "K='v": "!", "K = 'v'": "!", "='v'": "!", "no": "!", "A=b\nK='v'": "!", "K='v'\nA=b": "v",
	} {
		got, err := envLine(strings.NewReader(text), "K")
		if (err != nil) != (want == "!") || err == nil && got != want {
			t.Errorf("%q gives %q, %v; want %q", text, got, err, want)
		}
	}
	a, p, no, yes := configAgent(t), plainPod(), false, true
	a.cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	dir, err := a.volumes.Mount(context.Background(), p, p.Spec.Volumes[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("K='v'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		r    corev1.FileKeySelector
		want string
	}{
		{corev1.FileKeySelector{VolumeName: "v", Path: "f", Key: "K", Optional: &no}, "v true <nil>"},
		{corev1.FileKeySelector{VolumeName: "v", Path: "f", Key: "L", Optional: &yes}, " false <nil>"},
		{corev1.FileKeySelector{VolumeName: "v", Path: "f", Key: "L", Optional: &no}, ` false environment variable key "L" not found in file "` + dir + `/f"`},
		{corev1.FileKeySelector{VolumeName: "v", Path: "g", Key: "K", Optional: &yes}, " false couldn't parse env file"},
		{corev1.FileKeySelector{VolumeName: "w", Path: "f", Key: "K", Optional: &yes}, ` false cannot find the volume "w" referenced by FileKeyRef`},
	} {
		v, ok, err := a.envValue(context.Background(), p, &podSandbox{}, &p.Spec.Containers[0], &corev1.EnvVarSource{FileKeyRef: &tt.r})
		if got := strings.Join([]string{v, map[bool]string{true: "true", false: "false"}[ok], errText(err)}, " "); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.r, got, tt.want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return "<nil>"
	}
	return err.Error()
}
