// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/volume"
)

// configAgent makes configs alone: it has the given objects, and its folder.
func configAgent(t *testing.T, have ...runtime.Object) *Agent {
	client := fake.NewClientset(have...)
	a := &Agent{
		cfg:     Config{NodeName: "n", Client: client, Dir: t.TempDir(), Seccomp: "/seccomp", LogDir: "/var/log/pods", IP: net.IPv4(192, 0, 2, 1), APIHost: "10.96.0.1", APIPort: "443", ClusterDNS: "10.96.0.10", ClusterDomain: "cluster.local"},
		cgroups: &cgroups{root: "peapod"}, objects: newObjects(client),
	}
	a.node.capacity = amounts("cpu=2", "memory=1Gi")
	a.volumes = &volume.Mounter{Root: a.cfg.Dir, Sources: a.objects, Allocatable: a.node.allocatable}
	return a
}

// plainPod is a Pod as the API defaults it.
func plainPod() *corev1.Pod {
	grace, links, no := int64(30), true, false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "u-1", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"example.com/a": "b"}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace, EnableServiceLinks: &links, RestartPolicy: always, DNSPolicy: corev1.DNSNone, SecurityContext: &corev1.PodSecurityContext{},
			DNSConfig:                    &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.53"}},
			AutomountServiceAccountToken: &no,
			Containers: []corev1.Container{{
				Name: "app", Image: "example.org/app:1", TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
			}},
		},
	}
}

func full() corev1.PodSecurityContext {
	user, group, fs := int64(1000), int64(3000), int64(2000)
	strict, nonRoot, local := corev1.SupplementalGroupsPolicyStrict, true, "profiles/a.json"
	return corev1.PodSecurityContext{
		RunAsUser: &user, RunAsGroup: &group, FSGroup: &fs, SupplementalGroups: []int64{4000, 5000}, SupplementalGroupsPolicy: &strict, RunAsNonRoot: &nonRoot,
		Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "0"}}, SELinuxOptions: &corev1.SELinuxOptions{Level: "s0:c1,c2"},
		SeccompProfile:  &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: &local},
		AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined},
	}
}

func amounts(words ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, w := range words {
		name, n, _ := strings.Cut(w, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(n)
	}
	return out
}

// configCases change a plain Pod; both its configs are golden.
func configCases() map[string]func(p *corev1.Pod) {
	yes, no := true, false
	main := func(p *corev1.Pod) *corev1.Container { return &p.Spec.Containers[0] }
	return map[string]func(p *corev1.Pod){
		"plain": func(*corev1.Pod) {},
		"command": func(p *corev1.Pod) {
			c := main(p)
			c.Command, c.Args, c.WorkingDir = []string{"/bin/$(WHAT)", "$$(WHAT)"}, []string{"$(NONE)", "$(WHAT)-$(KUBERNETES_SERVICE_PORT)"}, "/work"
			c.Env = []corev1.EnvVar{{Name: "WHAT", Value: "run"}}
			c.Stdin, c.StdinOnce, c.TTY = true, true, true
		},
		"pod-security": func(p *corev1.Pod) { *p.Spec.SecurityContext = full() },
		"container-security-wins": func(p *corev1.Pod) {
			*p.Spec.SecurityContext = full()
			user, group, unmasked := int64(7), int64(8), corev1.UnmaskedProcMount
			main(p).SecurityContext = &corev1.SecurityContext{
				RunAsUser: &user, RunAsGroup: &group, ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no, ProcMount: &unmasked,
				Capabilities:    &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}, Drop: []corev1.Capability{"ALL"}},
				SeccompProfile:  &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined},
				SELinuxOptions:  &corev1.SELinuxOptions{Type: "t"},
				AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault},
			}
		},
		"privileged": func(p *corev1.Pod) { main(p).SecurityContext = &corev1.SecurityContext{Privileged: &yes} },
		"host-namespaces": func(p *corev1.Pod) {
			p.Spec.HostNetwork, p.Spec.HostPID, p.Spec.HostIPC = true, true, true
			main(p).Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80, Protocol: corev1.ProtocolTCP}}
		},
		"shared-pids": func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = &yes },
		"ports": func(p *corev1.Pod) {
			main(p).Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 80, Protocol: corev1.ProtocolTCP}, {ContainerPort: 53, HostPort: 5353, HostIP: "127.0.0.1", Protocol: corev1.ProtocolUDP}}
		},
		"burstable": func(p *corev1.Pod) {
			main(p).Resources = corev1.ResourceRequirements{Requests: amounts("cpu=250m", "memory=256Mi"), Limits: amounts("cpu=1500m", "memory=512Mi")}
		},
		"cpu-limit-alone": func(p *corev1.Pod) { main(p).Resources.Limits = amounts("cpu=5m") },
		"guaranteed": func(p *corev1.Pod) {
			main(p).Resources = corev1.ResourceRequirements{Requests: amounts("cpu=1", "memory=1Gi"), Limits: amounts("cpu=1", "memory=1Gi")}
			p.Spec.Overhead = amounts("cpu=100m", "memory=10Mi")
		},
		"pod-level-resources": func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: amounts("cpu=1", "memory=512Mi"), Limits: amounts("cpu=2", "memory=768Mi")}
		},
		"lifecycle": func(p *corev1.Pod) {
			usr1, grace := corev1.SIGUSR1, int64(7)
			p.DeletionGracePeriodSeconds = &grace
			main(p).Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}
			main(p).Lifecycle = &corev1.Lifecycle{StopSignal: &usr1, PreStop: &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/bye", Port: intstr.FromString("web")}}}
		},
		"fqdn": func(p *corev1.Pod) {
			p.Spec.Hostname, p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = "h", "sub", &yes
		},
		"runtime-class-and-dns": func(p *corev1.Pod) {
			five := "5"
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.53", "192.0.2.54", "192.0.2.53"}, Searches: []string{"a.example", "b.example"},
				Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &five}, {Name: "edns0"}}}
		},
		"mounts": func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}, {Name: "h", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp"}}}}
			both, down, rro := corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.RecursiveReadOnlyEnabled
			main(p).Env = []corev1.EnvVar{{Name: "WHERE", Value: "deep"}}
			main(p).VolumeMounts = []corev1.VolumeMount{
				{Name: "v", MountPath: "/v"}, {Name: "v", MountPath: "/sub", SubPath: "a/b"}, {Name: "v", MountPath: "/expr", SubPathExpr: "x/$(WHERE)"},
				{Name: "h", MountPath: "/both", MountPropagation: &both}, {Name: "h", MountPath: "/down", MountPropagation: &down, ReadOnly: true},
				{Name: "h", MountPath: "/rro", ReadOnly: true, RecursiveReadOnly: &rro},
			}
		},
		"image-volume": func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "image", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "example.com/data:1"}}}}
			main(p).VolumeMounts = []corev1.VolumeMount{{Name: "image", MountPath: "/all"}, {Name: "image", MountPath: "/part", SubPath: "a/b"}}
		},
		"own-hosts-file": func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			main(p).VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/etc/hosts"}}
		},
	}
}

// TestConfig compares both configs of a Pod with golden files, which were read
// beside what kubelets make of the same (generatePodSandboxConfig,
// generateContainerConfig).
func TestConfig(t *testing.T) {
	cases := configCases()
	noStrays(t, "config", cases)
	image := &runtimeapi.Image{Id: "sha256:1"}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			p := plainPod()
			change(p)
			a := configAgent(t)
			sandbox, err := a.sandboxConfig(p, 1)
			if err != nil {
				t.Fatal(err)
			}
			container, err := a.containerConfig(context.Background(), p, &podSandbox{ips: []string{"10.0.0.7"}}, &p.Spec.Containers[0], 2, images{image, map[string]*runtimeapi.Image{"image": {Id: "sha256:data"}}})
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "config/"+name+".yaml", map[string]any{"sandbox": plainProto(t, a, sandbox), "container": plainProto(t, a, container)})
		})
	}
}

// plainProto is a message as YAML can show it, without the test's folder.
func plainProto(t *testing.T, a *Agent, m proto.Message) (out any) {
	b, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(b), a.cfg.Dir, "/node")), &out); err != nil {
		t.Fatal(err)
	}
	if c, ok := out.(map[string]any); ok {
		delete(c, "envs") // TestEnvironment has them
	}
	return out
}

// TestConfigRefuses: what cannot be, in upstream's words.
func TestConfigRefuses(t *testing.T) {
	yes, zero, local := true, int64(0), ""
	main := func(p *corev1.Pod) *corev1.Container { return &p.Spec.Containers[0] }
	mount := func(p *corev1.Pod, m corev1.VolumeMount) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		main(p).VolumeMounts = []corev1.VolumeMount{m}
	}
	for want, tt := range map[string]struct {
		change func(p *corev1.Pod)
		image  *runtimeapi.Image
	}{
		`container's runAsUser breaks non-root policy (pod: "web_ns(u-1)", container: app)`: {
			change: func(p *corev1.Pod) {
				main(p).SecurityContext = &corev1.SecurityContext{RunAsNonRoot: &yes, RunAsUser: &zero}
			}},
		`container has runAsNonRoot and image will run as root (pod: "web_ns(u-1)", container: app)`: {
			change: func(p *corev1.Pod) { p.Spec.SecurityContext.RunAsNonRoot = &yes }},
		`container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root (pod: "web_ns(u-1)", container: app)`: {
			change: func(p *corev1.Pod) { p.Spec.SecurityContext.RunAsNonRoot = &yes }, image: &runtimeapi.Image{Username: "www"}},
		"localhostProfile must be set if seccompProfile type is Localhost.": {
			change: func(p *corev1.Pod) {
				p.Spec.SecurityContext.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: &local}
			}},
		"failed to construct FQDN from pod hostname and cluster domain, FQDN " + strings.Repeat("h", 50) + ".sub.ns.svc.cluster.local is too long (64 characters is the max, 75 characters requested)": {
			change: func(p *corev1.Pod) {
				p.Spec.Hostname, p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = strings.Repeat("h", 50), "sub", &yes
			}},
		`cannot find volume "none" to mount into container "app"`: {
			change: func(p *corev1.Pod) { main(p).VolumeMounts = []corev1.VolumeMount{{Name: "none", MountPath: "/x"}} }},
		"missing value for A, B": {
			change: func(p *corev1.Pod) {
				mount(p, corev1.VolumeMount{Name: "v", MountPath: "/x", SubPathExpr: "$(B)/$(A)/$(B)"})
			}},
		"error SubPath `/etc` must not be an absolute path": {
			change: func(p *corev1.Pod) {
				main(p).Env = []corev1.EnvVar{{Name: "A", Value: "/etc"}}
				mount(p, corev1.VolumeMount{Name: "v", MountPath: "/x", SubPathExpr: "$(A)"})
			}},
		"unable to provision SubPath `../up`: must not contain '..'": {
			change: func(p *corev1.Pod) { mount(p, corev1.VolumeMount{Name: "v", MountPath: "/x", SubPath: "../up"}) }},
	} {
		p := plainPod()
		tt.change(p)
		a := configAgent(t)
		_, err := a.sandboxConfig(p, 0)
		if err == nil {
			image := tt.image
			if image == nil {
				image = &runtimeapi.Image{}
			}
			_, err = a.containerConfig(context.Background(), p, &podSandbox{}, &p.Spec.Containers[0], 0, images{own: image})
		}
		if err == nil || err.Error() != want {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
}

// TestSubPath: what is made has the volume's mode, and links lead nowhere else.
func TestSubPath(t *testing.T) {
	root := filepath.Join(t.TempDir(), "volume")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o777|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(root, "out")); err != nil {
		t.Fatal(err)
	}
	part := func(sub string, data bool) (string, error) {
		sub, err := subPath(corev1.VolumeMount{Name: "v", SubPath: sub}, nil)
		if err != nil {
			return "", err
		}
		return inVolume(root, sub, "v", "app", data)
	}
	for sub, want := range map[string]string{"": "", "a/b/c": "a/b/c", "out/made": "etc/made", "out/../d": "!"} {
		got, err := part(sub, false)
		if want == "!" {
			if err == nil {
				t.Errorf("%s leads to %s", sub, got)
			}
			continue
		}
		if err != nil || got != filepath.Join(root, want) {
			t.Errorf("%q leads to %s (%v)", sub, got, err)
			continue
		}
		for dir := got; dir != root; dir = filepath.Dir(dir) {
			if st, err := os.Stat(dir); err != nil || st.Mode() != os.ModeDir|os.ModeSetgid|0o777 {
				t.Errorf("%s is %v (%v)", dir, st.Mode(), err)
			}
		}
	}
	// Of what the API writes nothing is made.
	if _, err := part("none", true); err == nil || err.Error() != `failed to prepare subPath for volumeMount "v" of container "app"` {
		t.Errorf("got %v", err)
	}
}

// TestOOMScore has a gibibyte of memory.
func TestOOMScore(t *testing.T) {
	critical := int32(criticalPriority)
	side := sidecar("side")
	for name, tt := range map[string]struct {
		change func(p *corev1.Pod)
		side   bool
		want   int64
	}{
		"best effort": {func(*corev1.Pod) {}, false, 1000},
		"guaranteed": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = amounts("cpu=1", "memory=1Gi")
			p.Spec.Containers[0].Resources.Requests = amounts("cpu=1", "memory=1Gi")
		}, false, -997},
		"node critical": {func(p *corev1.Pod) { p.Spec.Priority = &critical }, false, -997},
		"a quarter":     {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = amounts("memory=256Mi") }, false, 750},
		"nothing":       {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = amounts("cpu=1") }, false, 999},
		"everything":    {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = amounts("memory=2Gi") }, false, 3},
		"sidecar of a quarter": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = amounts("memory=256Mi")
			p.Spec.InitContainers = []corev1.Container{side}
		}, true, 750},
		"half of the pod's is nobody's": {func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: amounts("memory=512Mi")}
			p.Spec.Containers[0].Resources.Requests = amounts("memory=256Mi")
		}, false, 500},
	} {
		p := plainPod()
		tt.change(p)
		c := &p.Spec.Containers[0]
		if tt.side {
			c = &p.Spec.InitContainers[0]
		}
		if got := oomScore(p, c, 1<<30); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}
