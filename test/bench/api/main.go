// SPDX-License-Identifier: Apache-2.0

// Command api compares durable creates of Pods over TLS (P6) with kube-apiserver
// and etcd on this machine: by one client and by 32, with all admission and
// validation of both. The Pods ask for a scheduler that there is none of, so that
// nothing happens to them. CPU is that of all processes of the control plane: the
// API server, etcd, the scheduler and the controllers, which with Peapod are one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/peapod/peapod/test/bench/cluster"
	"github.com/peapod/peapod/test/bench/result"
)

type options struct {
	bin, stock        string
	creates, rounds   int
	subjects          string
	results, document string
}

// many is how many clients create at once in the larger measurement.
const many = 32

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder with peapod, peapod-keeper and peapod-launcher")
	flag.StringVar(&o.stock, "stock", "bin/stock-cluster", "folder that scripts/stock-cluster fills")
	flag.IntVar(&o.creates, "creates", 3200, "Pods that 32 clients create; one creates a tenth")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds")
	flag.StringVar(&o.subjects, "subjects", result.Peapod+","+result.Stock, "who is measured")
	flag.StringVar(&o.results, "results", "bin/bench", "folder for results; empty: they are only printed")
	flag.StringVar(&o.document, "document", "docs/benchmarks.md", "document to write of all results")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-api:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, o options) error {
	for _, f := range []*string{&o.bin, &o.stock} {
		var err error
		if *f, err = filepath.Abs(*f); err != nil {
			return err
		}
	}
	subjects := strings.Split(o.subjects, ",")
	versions, err := cluster.Versions(o.bin, o.stock, slices.Contains(subjects, result.Stock))
	if err != nil {
		return err
	}
	part := result.Begin("api", versions)
	for round := 1; round <= o.rounds; round++ {
		for _, who := range subjects {
			up := func() (*cluster.Cluster, error) { return cluster.Peapod(ctx, cluster.PeapodOptions{Bin: o.bin}) }
			if who == result.Stock {
				up = func() (*cluster.Cluster, error) {
					return cluster.Stock(ctx, cluster.StockOptions{Bin: o.stock, Without: []string{cluster.Containerd, cluster.Kubelet, cluster.Proxy}})
				}
			}
			if err := cluster.With(up, func(c *cluster.Cluster) error { return measureOne(ctx, o, c, part, round) }); err != nil {
				return fmt.Errorf("%s: %w", who, err)
			}
		}
		slices.Reverse(subjects)
	}
	return part.Finish(o.results, o.document)
}

func measureOne(ctx context.Context, o options, c *cluster.Cluster, part *result.Part, round int) error {
	if err := c.UntilAccount(ctx); err != nil {
		return err
	}
	for _, x := range []struct {
		clients, creates int
		rate, cpu        string
	}{
		{1, o.creates / 10, "durable creates of Pods by one client", "CPU per create by one client"},
		{many, o.creates, result.DurableCreates, result.DurableCreateCPU},
	} {
		// What was not there yet, such as connections, is made before the clock starts.
		if _, err := create(ctx, c, fmt.Sprint("warm-", x.clients), x.clients, 4*x.clients); err != nil {
			return err
		}
		before, err := cpu(c)
		if err != nil {
			return err
		}
		took, err := create(ctx, c, fmt.Sprint("pod-", x.clients), x.clients, x.creates)
		if err != nil {
			return err
		}
		after, err := cpu(c)
		if err != nil {
			return err
		}
		m := result.Measurement{Goal: "P6", Name: x.rate, Subject: c.Subject, Unit: "Pods/s", Round: round}
		part.Add(m, float64(x.creates)/took.Seconds())
		m.Name = x.cpu
		part.AddTime(m, (after-before)/time.Duration(x.creates))
		fmt.Fprintf(os.Stderr, "bench-api: %s, %d clients: %.0f Pods/s, %.2f ms of CPU each\n", c.Subject, x.clients,
			float64(x.creates)/took.Seconds(), 1000*(after-before).Seconds()/float64(x.creates))
	}
	return nil
}

func cpu(c *cluster.Cluster) (time.Duration, error) {
	list, err := c.Processes()
	if err != nil {
		return 0, err
	}
	used, err := list.Usage()
	if err != nil {
		return 0, err
	}
	var sum cluster.Usage
	for _, u := range used {
		sum.Add(u)
	}
	return sum.CPU, nil
}

// create lets clients, each with a connection of its own, create Pods one after
// another, and says how long all took.
func create(ctx context.Context, c *cluster.Cluster, name string, clients, count int) (time.Duration, error) {
	all := make([]kubernetes.Interface, clients)
	for k := range all {
		config := rest.CopyConfig(c.Config)
		config.Dial = (&net.Dialer{}).DialContext // clients with one configuration share a connection
		var err error
		if all[k], err = kubernetes.NewForConfig(config); err != nil {
			return 0, err
		}
		// The connection is there before the clock starts.
		if _, err := all[k].Discovery().ServerVersion(); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var busy sync.WaitGroup
	failed := make([]error, clients)
	begun := time.Now()
	for k, client := range all {
		busy.Go(func() {
			for n := k; n < count && failed[k] == nil; n += clients {
				if _, failed[k] = client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, newPod(fmt.Sprint(name, "-", n)), metav1.CreateOptions{}); failed[k] != nil {
					cancel()
				}
			}
		})
	}
	busy.Wait()
	return time.Since(begun), errors.Join(failed...)
}

// newPod is of the size that Pods have: labels, an environment, resources, a
// probe, a volume.
func newPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web", "tier": "front", "version": "1"}, Annotations: map[string]string{"example.com/note": "made by a benchmark"}},
		Spec: corev1.PodSpec{
			SchedulerName: "nobody",
			Containers: []corev1.Container{{
				Name: "web", Image: "registry.example.com/web:1", Command: []string{"/web", "--port=8080"},
				Env:       []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}, {Name: "NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}},
				Ports:     []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}},
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
					Path: "/ready", Port: intstr.FromString("http"),
				}}},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
			}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		},
	}
}
