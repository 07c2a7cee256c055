// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// DefaultDataDir holds all state of a node when nothing else is said.
	DefaultDataDir = "/var/lib/peapod"
	// KubeconfigName is the administrator's kubeconfig inside the data folder.
	KubeconfigName = "admin.kubeconfig"
	// KubernetesVersion is the API that is served.
	KubernetesVersion = "v1.37.2"
)

// Version is Peapod's own version. A release build sets it with -ldflags -X.
var Version = "v0.1.0-dev"

// ErrUnfit says that this machine cannot run Pods.
var ErrUnfit = errors.New("this machine cannot run Pods")

// Options is what `peapod up` was asked for.
type Options struct {
	DataDir  string
	Listen   string // host:port of the API server
	NodeName string // empty: the host name
	PodCIDR  string // this node's IPv4 range of Pod addresses
	// ServiceCIDR is the IPv4 range of Services.
	ServiceCIDR string
	// NodeListen is host:port of the node agent's HTTPS endpoint. Without a
	// host it is the node's own address; empty is port 10250.
	NodeListen string
	// RuntimeEndpoint is an external CRI socket; empty means our own runtime.
	RuntimeEndpoint string
	Etcd            EtcdOptions

	Log *slog.Logger
	// Progress is told each step of a start; it may be nil.
	Progress func(step string)
	// Ready is called once, when the Node is Ready; it may be nil.
	Ready func(Info)
}

// EtcdOptions name an etcd cluster of the user's; without Endpoints etcd runs
// in this process.
type EtcdOptions struct {
	Endpoints                 []string
	CAFile, CertFile, KeyFile string
}

// Info is what a user needs to know of a node that is up.
type Info struct {
	NodeName   string
	Kubeconfig string
	Server     string
}

// DownOptions is what `peapod down` was asked for.
type DownOptions struct {
	DataDir string
	Purge   bool
	// Grace caps every Pod's grace period; 0 leaves each its own.
	Grace    time.Duration
	Log      *slog.Logger
	Progress func(step string)
}

// layout names the places of one node. Everything but the Pod logs of the
// default data folder lies inside it.
type layout struct {
	root string
	// instance is the short name that keeps several Peapods on one machine
	// apart: cgroup root, nftables table, links.
	instance string
}

func newLayout(dataDir string) (layout, error) {
	root, err := filepath.Abs(dataDir)
	if err != nil {
		return layout{}, fmt.Errorf("cannot use data folder %q: %w", dataDir, err)
	}
	l := layout{root: root, instance: "peapod"}
	if root != DefaultDataDir {
		h := fnv.New32a()
		h.Write([]byte(root))
		l.instance = fmt.Sprintf("peapod-%08x", h.Sum32())
	}
	return l, nil
}

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{l.root}, elem...)...)
}

func (l layout) kubeconfig() string { return l.path(KubeconfigName) }
func (l layout) criSocket() string  { return l.path("run", "cri.sock") }
func (l layout) lockFile() string   { return l.path("run", "up.lock") }

// podLogs is where log collectors look on every Kubernetes node; another data
// folder keeps its logs to itself.
func (l layout) podLogs() string {
	if l.root == DefaultDataDir {
		return "/var/log/pods"
	}
	return l.path("log", "pods")
}

// settings are Options checked and parsed.
type settings struct {
	Options
	layout
	listen     netip.AddrPort
	nodeListen netip.AddrPort // without a valid address: the node's own
	pods       netip.Prefix
	services   netip.Prefix
}

// check parses the options and names the flag of what does not parse.
func (o Options) check() (settings, error) {
	s := settings{Options: o}
	var err error
	if s.layout, err = newLayout(o.DataDir); err != nil {
		return s, err
	}
	if s.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return s, fmt.Errorf("cannot find the host name: %w", err)
		}
		s.NodeName = strings.ToLower(name)
	}
	if problems := validation.IsDNS1123Subdomain(s.NodeName); len(problems) > 0 {
		return s, fmt.Errorf("--node-name %q: %s", s.NodeName, problems[0])
	}
	if s.listen, err = parseListen("--listen", o.Listen); err != nil {
		return s, err
	}
	if o.NodeListen == "" {
		o.NodeListen = ":10250"
	}
	if s.nodeListen, err = parseListen("--node-listen", o.NodeListen); err != nil {
		return s, err
	}
	if strings.HasPrefix(o.NodeListen, ":") {
		s.nodeListen = netip.AddrPortFrom(netip.Addr{}, s.nodeListen.Port())
	}
	if s.pods, err = parseRange("--pod-cidr", o.PodCIDR, 29); err != nil {
		return s, err
	}
	if s.services, err = parseRange("--service-cidr", o.ServiceCIDR, 28); err != nil {
		return s, err
	}
	if s.pods.Overlaps(s.services) {
		return s, fmt.Errorf("--pod-cidr %s and --service-cidr %s overlap", s.pods, s.services)
	}
	if s.Log == nil {
		s.Log = slog.Default()
	}
	if s.Progress == nil {
		s.Progress = func(string) {}
	}
	return s, nil
}

func parseListen(flag, value string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s %q: want address:port: %w", flag, value, err)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s %q: want an IP address: %w", flag, value, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s %q: want a port from 0 to 65535", flag, value)
	}
	return netip.AddrPortFrom(ip, uint16(n)), nil
}

func parseRange(flag, value string, most int) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(value)
	if err != nil {
		return p, fmt.Errorf("%s %q: %w", flag, value, err)
	}
	if !p.Addr().Is4() || p.Bits() > most {
		return p, fmt.Errorf("%s %q: want an IPv4 range of /%d or larger", flag, value, most)
	}
	return p.Masked(), nil
}
