// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/peapod/peapod/apiserver"
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

// ErrOptions says that Options or DownOptions make no sense. Errors of this
// class name the flag.
var ErrOptions = errors.New("bad options")

// optionError is of the class ErrOptions, without saying so.
type optionError struct{ error }

func (e optionError) Unwrap() []error { return []error{e.error, ErrOptions} }

func misuse(format string, args ...any) error { return optionError{fmt.Errorf(format, args...)} }

// Options is what `peapod up` was asked for.
type Options struct {
	DataDir  string
	Listen   string // host:port of the API server
	NodeName string // empty: the host name
	PodCIDR  string // this node's IPv4 range of Pod addresses
	// ClusterCIDR is the IPv4 range of all machines' Pod addresses. Empty is the
	// largest one around PodCIDR, up to a /16, that leaves the Services alone.
	ClusterCIDR string
	// ServiceCIDR is the IPv4 range of Services.
	ServiceCIDR string
	// NodeListen is host:port of the node agent's HTTPS endpoint. Its host is
	// the address of the Node; without one it is that of the default route.
	// Empty is port 10250.
	NodeListen string
	// RuntimeEndpoint is an external CRI socket; empty means our own runtime.
	RuntimeEndpoint string
	// Launcher is who starts containers: LauncherOCI, LauncherNative or
	// LauncherAuto. Empty is LauncherAuto.
	Launcher string
	Etcd     EtcdOptions
	// API is what kube-apiserver's flags choose; nil chooses nothing.
	API *apiserver.Options
	// Join is the URL of the API server of a cluster that this machine is to be a
	// node of; empty starts one here. The ranges and the etcd are the cluster's
	// then, and nothing listens on Listen.
	Join string
	// Token, ID.SECRET, gets this machine its certificates when it joins, and
	// CACertHashes are the CAs that the cluster may have.
	Token        string
	CACertHashes []string

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

// settings are Options checked and parsed.
type settings struct {
	Options
	layout
	listen     netip.AddrPort
	nodeListen netip.AddrPort // without a valid address: the node's own
	pods       netip.Prefix
	cluster    netip.Prefix // all machines' Pods
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
		return s, misuse("--node-name %q: %s", s.NodeName, problems[0])
	}
	if o.NodeListen == "" {
		o.NodeListen = ":10250"
	}
	if s.nodeListen, err = parseListen("--node-listen", o.NodeListen); err != nil {
		return s, err
	}
	if s.nodeListen.Addr().IsLoopback() {
		return s, misuse("--node-listen %q: that is where the API server, and Pods, reach the node; they cannot on a loopback address", o.NodeListen)
	}
	if strings.HasPrefix(o.NodeListen, ":") {
		s.nodeListen = netip.AddrPortFrom(netip.Addr{}, s.nodeListen.Port())
	}
	switch {
	case o.Join != "":
		err = checkJoin(o.Join)
	case o.Token != "" || len(o.CACertHashes) > 0:
		err = misuse("--token and --ca-cert-hash need --join")
	default:
		err = s.checkCluster()
	}
	if err != nil {
		return s, err
	}
	if s.RuntimeEndpoint, err = parseEndpoint(o.RuntimeEndpoint); err != nil {
		return s, err
	}
	if s.Launcher == "" {
		s.Launcher = LauncherAuto
	}
	if !slices.Contains([]string{LauncherAuto, LauncherNative, LauncherOCI}, s.Launcher) {
		return s, misuse("--launcher %q: want %s, %s or %s", o.Launcher, LauncherOCI, LauncherNative, LauncherAuto)
	}
	if s.Log == nil {
		s.Log = slog.Default()
	}
	if s.Progress == nil {
		s.Progress = func(string) {}
	}
	return s, nil
}

// checkCluster parses what a cluster is made with.
func (s *settings) checkCluster() (err error) {
	if s.listen, err = parseListen("--listen", s.Listen); err != nil {
		return err
	}
	if s.listen.Port() == 0 {
		return misuse("--listen %q: want a port from 1 to 65535", s.Listen)
	}
	if err := s.checkRanges(); err != nil {
		return err
	}
	if s.API != nil {
		if err := s.API.Validate(); err != nil {
			return optionError{err}
		}
	}
	return s.Etcd.check()
}

// checkRanges parses the addresses of Pods and Services.
func (s *settings) checkRanges() (err error) {
	if s.pods, err = parseRange("--pod-cidr", s.PodCIDR, 29); err != nil {
		return err
	}
	if s.services, err = parseRange("--service-cidr", s.ServiceCIDR, 28); err != nil {
		return err
	}
	if s.pods.Overlaps(s.services) {
		return misuse("--pod-cidr %s and --service-cidr %s overlap", s.pods, s.services)
	}
	if s.ClusterCIDR == "" {
		s.cluster = around(s.pods, s.services)
		return nil
	}
	if s.cluster, err = parseRange("--cluster-cidr", s.ClusterCIDR, 29); err != nil {
		return err
	}
	switch {
	case !s.cluster.Contains(s.pods.Addr()) || s.cluster.Bits() > s.pods.Bits():
		return misuse("--pod-cidr %s is not in --cluster-cidr %s", s.pods, s.cluster)
	case s.cluster.Overlaps(s.services):
		return misuse("--cluster-cidr %s and --service-cidr %s overlap", s.cluster, s.services)
	}
	return nil
}

// around is the largest range around pods, up to a /16, that leaves services
// alone.
func around(pods, services netip.Prefix) netip.Prefix {
	const largest = 16
	for bits := min(largest, pods.Bits()); bits < pods.Bits(); bits++ {
		if p := netip.PrefixFrom(pods.Addr(), bits).Masked(); !p.Overlaps(services) {
			return p
		}
	}
	return pods
}

// checkJoin finds what cannot be the URL of an API server.
func checkJoin(server string) error {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Path != "" && u.Path != "/" {
		return misuse("--join %q: want the URL of an API server, such as https://192.168.1.10:6443", server)
	}
	return nil
}

func parseListen(flag, value string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		return netip.AddrPort{}, misuse("%s %q: want an IP address and a port, such as 127.0.0.1:6443", flag, value)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() != "" {
		return netip.AddrPort{}, misuse("%s %q: %q is not an IP address", flag, value, host)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, misuse("%s %q: want a port from 1 to 65535", flag, value)
	}
	return netip.AddrPortFrom(ip, uint16(n)), nil
}

// parseRange reads an IPv4 range with room for at least a few addresses.
func parseRange(flag, value string, smallest int) (netip.Prefix, error) {
	const largest = 8
	p, err := netip.ParsePrefix(value)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}, misuse("%s %q: want an IPv4 range, such as 10.244.0.0/20", flag, value)
	}
	if p.Bits() < largest || p.Bits() > smallest {
		return netip.Prefix{}, misuse("%s %q: want a range from /%d to /%d", flag, value, largest, smallest)
	}
	return p.Masked(), nil
}

// check finds what cannot work without asking the network.
func (e EtcdOptions) check() error {
	if len(e.Endpoints) == 0 {
		for flag, value := range map[string]string{"--etcd-cafile": e.CAFile, "--etcd-certfile": e.CertFile, "--etcd-keyfile": e.KeyFile} {
			if value != "" {
				return misuse("%s needs --etcd-endpoints", flag)
			}
		}
		return nil
	}
	for _, endpoint := range e.Endpoints {
		u, err := url.Parse(endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" || u.Hostname() == "" {
			return misuse("--etcd-endpoints %q: want URLs such as https://10.0.0.5:2379", endpoint)
		}
	}
	if (e.CertFile == "") != (e.KeyFile == "") {
		return misuse("--etcd-certfile and --etcd-keyfile go together")
	}
	return nil
}

// parseEndpoint reads the address of a CRI socket.
func parseEndpoint(value string) (socket string, err error) {
	socket = strings.TrimPrefix(value, "unix://")
	if value != "" && !filepath.IsAbs(socket) {
		return "", misuse("--runtime-endpoint %q: want a socket such as unix:///run/containerd/containerd.sock", value)
	}
	return socket, nil
}
