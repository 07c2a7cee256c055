// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PauseSeconds is how long PauseImage sleeps: for ever, and told from others.
const PauseSeconds = "2147483647"

var versionRequest = &runtimeapi.VersionRequest{}

// flags of a program: what kubeadm would give it, but for what makes it faster:
// no election of leaders, no limits on how fast it may call the API, and etcd
// without TLS.
func (s *stock) flags(program string) []string {
	pki := func(name string) string { return s.path(filepath.Join("pki", name)) }
	key := pki("service-account.key")
	switch program {
	case Etcd:
		client, peer := "http://127.0.0.1:"+etcdPort, "http://127.0.0.1:"+etcdPeerPort
		return []string{
			"--data-dir", s.path("etcd"), "--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
		}
	case Containerd:
		return []string{"--config", s.path("containerd.toml")}
	case APIServer:
		return []string{
			"--etcd-servers", "http://127.0.0.1:" + etcdPort, "--secure-port", apiPort, "--allow-privileged",
			"--tls-cert-file", pki("apiserver.crt"), "--tls-private-key-file", pki("apiserver.key"), "--client-ca-file", pki("ca.crt"),
			"--kubelet-client-certificate", pki("admin.crt"), "--kubelet-client-key", pki("admin.key"),
			"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
			"--service-account-issuer", "https://kubernetes.default.svc.cluster.local", "--service-account-key-file", key, "--service-account-signing-key-file", key,
			"--service-cluster-ip-range", stockServices,
		}
	case ControllerManager:
		return []string{
			"--kubeconfig", s.path("admin.kubeconfig"), "--use-service-account-credentials", "--service-account-private-key-file", key, "--root-ca-file", pki("ca.crt"),
			"--leader-elect=false", "--bind-address", "127.0.0.1", "--secure-port", managerPort, "--kube-api-qps", "5000", "--kube-api-burst", "10000",
		}
	case Scheduler:
		return []string{"--config", s.write("scheduler.yaml", schedulerConfig), "--bind-address", "127.0.0.1", "--secure-port", schedulerPort}
	case Kubelet:
		return []string{"--config", s.write("kubelet.yaml", kubeletConfig), "--kubeconfig", s.path("kubelet.kubeconfig"), "--hostname-override", stockNode}
	case Proxy:
		return []string{"--config", s.write("proxy.yaml", proxyConfig)}
	}
	return nil
}

// write writes one of the texts below with its variables replaced. A folder
// that cannot be written shows itself when the program starts.
func (s *stock) write(name, text string) string {
	path := s.path(name)
	text = strings.NewReplacer(
		"$dir", s.dir, "$bin", s.Bin, "$cgroup", stockCgroup, "$node", stockNode, "$link", stockLink, "$pods", stockPods, "$pause", PauseImage,
		"$kubeletPort", kubeletPort, "$kubeletHealthPort", kubeletHealthPort, "$proxyHealthPort", proxyHealthPort, "$proxyMetricsPort", proxyMetricsPort,
	).Replace(text)
	_ = os.WriteFile(path, []byte(text), 0o600)
	return path
}

// writeNodeFiles writes what containerd and kubelet read besides.
func (s *stock) writeNodeFiles() error {
	servers, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return fmt.Errorf("cannot read the machine's name servers: %w", err)
	}
	if err := os.WriteFile(s.path("resolv.conf"), servers, 0o644); err != nil {
		return err
	}
	if err := os.Mkdir(s.path("net.d"), 0o755); err != nil {
		return err
	}
	s.write("net.d/10-bridge.conflist", network)
	s.write("containerd.toml", containerdConfig)
	return nil
}

// Processes may not make themselves less likely to be killed where the machine
// does not let them: restrict_oom_score_adj, oomScoreAdj.
const containerdConfig = `version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
[grpc]
  address = '$dir/containerd.sock'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '$pause'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['$bin/cni']
  conf_dir = '$dir/net.d'
`

const network = `{"cniVersion": "1.0.0", "name": "stock", "plugins": [
  {"type": "bridge", "bridge": "$link", "isGateway": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
]}
`

const schedulerConfig = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
clientConnection: {kubeconfig: $dir/admin.kubeconfig, qps: 5000, burst: 10000}
`

// A disk that is rather full is no reason to evict or to collect images.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$dir/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: $cgroup
failCgroupV1: false
failSwapOn: false
port: $kubeletPort
healthzPort: $kubeletHealthPort
resolvConf: $dir/resolv.conf
clusterDNS: ["10.237.0.10"]
clusterDomain: cluster.local
maxPods: 1200
oomScoreAdj: 0
kubeAPIQPS: 5000
kubeAPIBurst: 10000
eventRecordQPS: 0
makeIPTablesUtilChains: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $dir/pki/ca.crt}
authorization: {mode: Webhook}
`

const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $dir/admin.kubeconfig, qps: 5000, burst: 10000}
hostnameOverride: $node
clusterCIDR: $pods
healthzBindAddress: 127.0.0.1:$proxyHealthPort
metricsBindAddress: 127.0.0.1:$proxyMetricsPort
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`
