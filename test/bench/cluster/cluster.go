// SPDX-License-Identifier: Apache-2.0

// Package cluster brings up what the benchmarks measure, Peapod or a stock
// Kubernetes, each in a temporary folder of its own, and takes it down without
// leftovers. Both give the same handle, so that one client drives both.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	toolswatch "k8s.io/client-go/tools/watch"
)

// patience bounds each wait for a cluster to come up or go down.
const patience = 2 * time.Minute

// Cluster is one that runs.
type Cluster struct {
	Subject string // result.Peapod or result.Stock
	Dir     string // all its files
	// Kubeconfig is the administrator's file; Config and Client use it without
	// limits of their own.
	Kubeconfig string
	Config     *rest.Config
	Client     kubernetes.Interface
	// CRI is the endpoint of the container runtime, "unix://...".
	CRI string
	// CgroupParent is for sandboxes made over CRI, "" for the runtime's own.
	CgroupParent string
	// Begun is when the first process was started in a folder with nothing but
	// the images, Ready when Pods could be created and scheduled.
	Begun, Ready time.Time

	processes func() (Processes, error)
	down      func() error
}

// Processes are pids by the name of their program. Those of containers are not
// among them.
type Processes map[string][]int

// Processes lists what the cluster itself runs now.
func (c *Cluster) Processes() (Processes, error) { return c.processes() }

// Down ends everything and removes what it left.
func (c *Cluster) Down() error {
	if err := c.down(); err != nil {
		return fmt.Errorf("cannot take %s down: %w", c.Subject, err)
	}
	return nil
}

// With runs do on a cluster and takes it down whatever happens.
func With(up func() (*Cluster, error), do func(*Cluster) error) error {
	c, err := up()
	if err != nil {
		return err
	}
	return errors.Join(do(c), c.Down())
}

// connect makes the client of the kubeconfig.
func (c *Cluster) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1
	c.Config = config
	c.Client, err = kubernetes.NewForConfig(config)
	return err
}

// UntilAccount waits for the service account that Pods have.
func (c *Cluster) UntilAccount(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	accounts := cache.NewListWatchFromClient(c.Client.CoreV1().RESTClient(), "serviceaccounts", metav1.NamespaceDefault, fields.OneTermEqualSelector("metadata.name", "default"))
	if _, err := toolswatch.UntilWithSync(ctx, accounts, &corev1.ServiceAccount{}, nil, func(watch.Event) (bool, error) { return true, nil }); err != nil {
		return fmt.Errorf("cannot wait for the default service account: %w", err)
	}
	return nil
}

// untilSchedulable waits until a Pod can be created and finds a node.
func (c *Cluster) untilSchedulable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := c.UntilAccount(ctx); err != nil {
		return err
	}
	nodes := cache.NewListWatchFromClient(c.Client.CoreV1().RESTClient(), "nodes", "", fields.Everything())
	if _, err := toolswatch.UntilWithSync(ctx, nodes, &corev1.Node{}, nil, func(e watch.Event) (bool, error) {
		n, ok := e.Object.(*corev1.Node)
		return ok && len(n.Spec.Taints) == 0 && ready(n), nil
	}); err != nil {
		return fmt.Errorf("cannot wait for the node: %w", err)
	}
	return nil
}

func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}
