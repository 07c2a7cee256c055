// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/network"
)

// The tests run in a network namespace of their own, which is the node: links,
// rules and sysctls of the machine are never touched and vanish with it.
func TestMain(m *testing.M) {
	if os.Getenv("PEAPOD_TEST_NETNS") == "1" {
		if err := up("lo"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "PEAPOD_TEST_NETNS=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "cannot start the tests in a network namespace (root is needed):", err)
		os.Exit(1)
	}
}

func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

const (
	nodeOutside = "192.0.2.1" // the node's address towards the outside
	outsider    = "192.0.2.9" // a machine that is no node
)

// lab is a node with real Pods' namespaces, its network, and the proxy.
type lab struct {
	t       *testing.T
	cfg     Config
	net     *network.Network
	proxy   *Proxy
	outside string // namespace of a machine beside the node
}

func newLab(t *testing.T) *lab {
	t.Helper()
	c := network.Config{Dir: t.TempDir(), Instance: "peapod-test", PodCIDR: netip.MustParsePrefix("10.244.0.0/24"), Log: slog.New(slog.DiscardHandler)}
	n, err := network.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Remove(context.Background(), c); err != nil {
			t.Error(err)
		}
	})
	l := &lab{t: t, net: n, cfg: Config{
		Instance: c.Instance, NodeName: "here", NodeIP: netip.MustParseAddr(nodeOutside),
		Services: netip.MustParsePrefix("10.96.0.0/16"), Pods: c.PodCIDR, Gateway: n.Gateway(), Log: c.Log,
	}}
	l.outside = newNamespace(t)
	l.connectOutside()
	l.start()
	return l
}

// connectOutside links the node to the outside machine, and makes that its way
// to everywhere.
func (l *lab) connectOutside() {
	l.t.Helper()
	ns, err := netns.GetFromPath(l.outside)
	if err != nil {
		l.t.Fatal(err)
	}
	defer ns.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}
	if err := netlink.LinkAdd(veth); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { netlink.LinkDel(veth) })
	join := func(name, addr string) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(addr + "/24")
		if err == nil {
			err = netlink.AddrAdd(link, a)
		}
		return errors.Join(err, netlink.LinkSetUp(link))
	}
	if err := join("uplink", nodeOutside); err != nil {
		l.t.Fatal(err)
	}
	route := func(gw string) error { return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw)}) }
	if err := route(outsider); err != nil {
		l.t.Fatal(err)
	}
	inNamespace(l.t, l.outside, func() error {
		return errors.Join(up("lo"), join("eth0", outsider), route(nodeOutside))
	})
}

// start begins with a new proxy, as after a crash.
func (l *lab) start() {
	l.t.Helper()
	p, err := New(l.cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	l.proxy = p
}

// apply gives the proxy a Service and its slices and waits for the kernel.
func (l *lab) apply(s *corev1.Service, slices ...*discoveryv1.EndpointSlice) {
	l.t.Helper()
	if s != nil {
		l.proxy.takeService(l.proxy.services[s.Namespace+"/"+s.Name], s)
	}
	for _, slice := range slices {
		l.proxy.takeSlice(l.proxy.slices[owner(slice)][slice.Name], slice)
	}
	l.sync()
}

func (l *lab) sync() {
	l.t.Helper()
	if err := l.proxy.sync(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
}

// pod is a namespace with an address; it answers on port 8080, TCP and UDP,
// with its name and who asked.
type pod struct {
	name, netns string
	ip          string
}

func (l *lab) pod(name string) pod {
	l.t.Helper()
	p := pod{name: name, netns: newNamespace(l.t)}
	addrs, err := l.net.Setup(l.t.Context(), name, p.netns, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	p.ip = addrs[0].String()
	inNamespace(l.t, p.netns, func() error { return serve(l.t, name, ":8080") })
	return p
}

// serve answers on an address of the current namespace.
func serve(t *testing.T, name, addr string) error {
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	t.Cleanup(func() { tcp.Close() })
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	t.Cleanup(func() { udp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			io.WriteString(c, name+" "+host)
			c.Close()
		}
	}()
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			udp.WriteTo([]byte(name+" "+host), from)
		}
	}()
	return nil
}

// ask connects from a namespace, "node" being the node's own, and gives the
// answer: who answered, and whom it saw.
func (l *lab) ask(netns, network, addr string) (who, saw string, err error) {
	l.t.Helper()
	f := func() error {
		who, saw, err = answer(network, addr)
		return nil
	}
	if netns == "node" {
		f()
	} else {
		inNamespace(l.t, netns, f)
	}
	return who, saw, err
}

// patience is for what must come; what must not come is given less.
const patience = 5 * time.Second

func answer(network, addr string) (who, saw string, err error) {
	c, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	return exchange(c)
}

func exchange(c net.Conn) (who, saw string, err error) {
	c.SetDeadline(time.Now().Add(patience))
	if _, ok := c.(*net.UDPConn); ok {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", "", err
		}
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil {
		return "", "", err
	}
	who, saw, _ = strings.Cut(string(b[:n]), " ")
	return who, saw, nil
}

// wants asks until each of names has answered, and nobody else does.
func (l *lab) wants(netns, network, addr string, names ...string) (saw string) {
	l.t.Helper()
	left := map[string]bool{}
	for _, n := range names {
		left[n] = true
	}
	ok := map[string]bool{}
	for range 200 {
		who, from, err := l.ask(netns, network, addr)
		if err != nil {
			l.t.Fatalf("%s %s: %v", network, addr, err)
		}
		if !left[who] && !ok[who] {
			l.t.Fatalf("%s %s: answered by %q, want one of %q", network, addr, who, names)
		}
		saw = from
		delete(left, who)
		ok[who] = true
		if len(left) == 0 && len(names) > 1 {
			return saw
		}
		if len(names) == 1 && len(ok) == 1 {
			return saw
		}
	}
	l.t.Fatalf("%s %s: never answered by %v", network, addr, left)
	return saw
}

// refused says that a connection is rejected at once.
func (l *lab) refused(netns, network, addr string) {
	l.t.Helper()
	begun := time.Now()
	who, _, err := l.ask(netns, network, addr)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		l.t.Errorf("%s %s: answered by %q, %v; want it refused", network, addr, who, err)
	}
	if d := time.Since(begun); d > patience/2 {
		l.t.Errorf("%s %s: refused after %s", network, addr, d)
	}
}

// silent says that a connection gets no answer of any kind.
func (l *lab) silent(netns, addr string) {
	l.t.Helper()
	inNamespace(l.t, netns, func() error {
		c, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err == nil {
			c.Close()
		}
		if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
			l.t.Errorf("%s: %v, want no answer", addr, err)
		}
		return nil
	})
}

func newNamespace(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	inNamespace(t, "", func() error {
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	})
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

// inNamespace runs f on a thread of the namespace at path, or of a new one for
// "". The thread is thrown away after it.
func inNamespace(t *testing.T, path string, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if path == "" {
			err := unix.Unshare(unix.CLONE_NEWNET)
			if err == nil {
				err = f()
			}
			done <- err
			return
		}
		ns, err := netns.GetFromPath(path)
		if err == nil {
			defer ns.Close()
			if err = netns.Set(ns); err == nil {
				err = f()
			}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// web is a Service with one port, TCP 80, and its slice of endpoints.
func web(name, ip string, pods ...pod) (*corev1.Service, *discoveryv1.EndpointSlice) {
	s := &corev1.Service{}
	s.Namespace, s.Name, s.Spec.ClusterIP = "default", name, ip
	s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}
	return s, sliceOf(s, "here", pods...)
}

func sliceOf(s *corev1.Service, node string, pods ...pod) *discoveryv1.EndpointSlice {
	e := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	e.Namespace, e.Name, e.Labels = s.Namespace, s.Name+"-"+node, map[string]string{discoveryv1.LabelServiceName: s.Name}
	for _, p := range s.Spec.Ports {
		e.Ports = append(e.Ports, discoveryv1.EndpointPort{Name: &p.Name, Port: ptr.To[int32](8080), Protocol: &p.Protocol})
	}
	for _, p := range pods {
		e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{Addresses: []string{p.ip}, NodeName: &node})
	}
	return e
}
