// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/knftables"
)

// watched is a table that tells of each transaction, and refuses some.
type watched struct {
	*knftables.Fake
	ran chan string

	mu     sync.Mutex // guards refuse
	refuse int
}

func (w *watched) Run(ctx context.Context, tx *knftables.Transaction) error {
	w.mu.Lock()
	refuse := w.refuse > 0
	if refuse {
		w.refuse--
	}
	w.mu.Unlock()
	err := w.Fake.Run(ctx, tx)
	if refuse {
		err = errors.New("refused")
	}
	w.ran <- tx.String()
	return err
}

// next is what the next transaction did.
func (w *watched) next(t *testing.T) string {
	t.Helper()
	select {
	case s := <-w.ran:
		return s
	case <-time.After(patience):
		t.Fatal("no transaction came")
		return ""
	}
}

// following is a proxy that runs on an API in memory.
func following(t *testing.T) (*fake.Clientset, *watched, *Proxy) {
	t.Helper()
	s, eps := web("web", "10.96.0.10", pod{ip: "10.244.0.7"}, pod{ip: "10.244.0.8"})
	for i := range eps.Endpoints {
		eps.Endpoints[i].TargetRef = &corev1.ObjectReference{Kind: "Pod", UID: types.UID(fmt.Sprint("uid-", i))}
	}
	client := fake.NewClientset(s, eps)
	factory := informers.NewSharedInformerFactory(client, 0)
	c := configOf(false)
	c.ServiceInformer, c.SliceInformer = factory.Core().V1().Services().Informer(), factory.Discovery().V1().EndpointSlices().Informer()
	nft := &watched{Fake: knftables.NewFake(knftables.IPv4Family, c.Instance), ran: make(chan string, 16)}
	p := newProxy(c, nft)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	factory.StartWithContext(ctx)
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	})
	return client, nft, p
}

func updateSlice(t *testing.T, client *fake.Clientset, change func(*discoveryv1.EndpointSlice)) {
	t.Helper()
	api := client.DiscoveryV1().EndpointSlices("default")
	e, err := api.Get(t.Context(), "web-here", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	change(e)
	if _, err := api.Update(t.Context(), e, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func ends(i int) func(*discoveryv1.EndpointSlice) {
	return func(e *discoveryv1.EndpointSlice) {
		e.Endpoints[i].Conditions = discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(true), Terminating: ptr.To(true)}
	}
}

// TestRun: the first transaction has all that there is; each change after it
// is a transaction of what differs; what makes no difference is none.
func TestRun(t *testing.T) {
	client, nft, _ := following(t)
	first := nft.next(t)
	for _, want := range []string{"add map ip peapod-golden svc-ips", "10.244.0.7 . 8080", "10.244.0.8 . 8080"} {
		if !strings.Contains(first, want) {
			t.Errorf("the first transaction has no %q:\n%s", want, first)
		}
	}
	updateSlice(t, client, func(e *discoveryv1.EndpointSlice) { e.Labels["unrelated"] = "label" })
	updateSlice(t, client, ends(0))
	want := `delete element ip peapod-golden svc-hairpin { 10.244.0.7 . 10.244.0.7 . tcp . 8080 }
delete element ip peapod-golden svc-backends-tcp { 10.96.0.10 . 80 . 0 }
delete element ip peapod-golden svc-backends-tcp { 10.96.0.10 . 80 . 1 }
delete element ip peapod-golden svc-ips { 10.96.0.10 . tcp . 80 }
add chain ip peapod-golden svc-cluster-tcp-1
add rule ip peapod-golden svc-cluster-tcp-1 ip saddr != 10.244.0.0/24 meta mark set meta mark or 0x4000
add rule ip peapod-golden svc-cluster-tcp-1 dnat ip to ip daddr . tcp dport . numgen random mod 1 map @svc-backends-tcp
add element ip peapod-golden svc-backends-tcp { 10.96.0.10 . 80 . 0 : 10.244.0.8 . 8080 }
add element ip peapod-golden svc-ips { 10.96.0.10 . tcp . 80 : goto svc-cluster-tcp-1 }
flush chain ip peapod-golden svc-cluster-tcp-2
delete chain ip peapod-golden svc-cluster-tcp-2
`
	if got := nft.next(t); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if err := client.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := nft.next(t); !strings.Contains(got, "delete element ip peapod-golden svc-cluster-ips { 10.96.0.10 }") {
		t.Errorf("the Service went with\n%s", got)
	}
	if dump := nft.Dump(); strings.Contains(dump, "10.96.0.10") || strings.Contains(dump, "10.244.0.8") {
		t.Errorf("the Service has left\n%s", dump)
	}
}

// TestRefused: a transaction that failed comes again, as all of the table: who
// knows what the kernel has.
func TestRefused(t *testing.T) {
	client, nft, p := following(t)
	nft.next(t)
	nft.mu.Lock()
	nft.refuse = 2
	nft.mu.Unlock()
	updateSlice(t, client, ends(0))
	if got := nft.next(t); strings.Contains(got, "add map") {
		t.Errorf("the change came as\n%s", got)
	}
	for range 2 {
		if got := nft.next(t); !strings.Contains(got, "delete map ip peapod-golden svc-ips\n") || strings.Contains(got, "10.244.0.7") || !strings.Contains(got, "10.244.0.8") {
			t.Errorf("the retry was\n%s", got)
		}
	}
	if err := p.Drained(t.Context(), "uid-0"); err != nil {
		t.Error(err)
	}
}

// TestDrained: it returns when the kernel has the change, not when the API has.
func TestDrained(t *testing.T) {
	client, nft, p := following(t)
	nft.next(t)
	if err := p.Drained(t.Context(), "unknown"); err != nil {
		t.Error(err)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Drained(stopped, "uid-1"); !errors.Is(err, context.Canceled) {
		t.Errorf("a Pod that is offered is drained: %v", err)
	}
	nft.mu.Lock()
	nft.refuse = 1
	nft.mu.Unlock()
	drained := make(chan error, 1)
	go func() { drained <- p.Drained(t.Context(), "uid-0") }()
	updateSlice(t, client, ends(0))
	nft.next(t) // refused
	select {
	case err := <-drained:
		t.Errorf("drained before the kernel has it: %v", err)
	default:
	}
	nft.next(t)
	if err := <-drained; err != nil {
		t.Error(err)
	}
	// The last one to end still serves, as there is no better one; new
	// connections may come, and the wait for that is over.
	updateSlice(t, client, ends(1))
	if err := p.Drained(t.Context(), "uid-1"); errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// BenchmarkTable: 10,000 Services with 10 endpoints each, of which a tenth runs
// on this node, in the kernel.
func BenchmarkTable(b *testing.B) {
	const services, endpoints = 10000, 10
	c := configOf(false)
	c.Services, c.Pods, c.Gateway = netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("10.128.0.0/16"), netip.MustParseAddr("10.128.0.1")
	nft, err := knftables.New(knftables.IPv4Family, c.Instance)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		tx := nft.NewTransaction()
		tx.Add(&knftables.Table{})
		tx.Delete(&knftables.Table{})
		if err := nft.Run(context.Background(), tx); err != nil {
			b.Error(err)
		}
	})
	fill := func() *Proxy {
		p := newProxy(c, nft)
		for i := range services {
			var pods []pod
			for j := range endpoints {
				pods = append(pods, pod{ip: fmt.Sprintf("10.%d.%d.%d", 128+j, i/200, 2+i%200)})
			}
			s, e := web(fmt.Sprintf("s%d", i), fmt.Sprintf("10.96.%d.%d", i/200, 2+i%200), pods...)
			p.takeService(nil, s)
			p.takeSlice(nil, e)
		}
		return p
	}
	var p *Proxy
	b.Run("start", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			p = fill()
			b.StartTimer()
			if err := p.sync(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("endpoint", func(b *testing.B) {
		for n := range b.N {
			b.StopTimer()
			name := fmt.Sprintf("default/s%d", n*7919%services)
			for _, e := range p.slices[name] {
				was := e.DeepCopy()
				e = e.DeepCopy()
				e.Endpoints = append(e.Endpoints[1:], discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.200.%d.%d", n/250%250, n%250)}})
				p.takeSlice(was, e)
			}
			b.StartTimer()
			if err := p.sync(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
