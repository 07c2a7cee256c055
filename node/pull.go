// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// errImage is an image that is not to be had now; what there is to say was
// said.
var errImage = errors.New("image is not available")

// pullQueue bounds pulls: each takes a download's worth of network and disk.
type pullQueue struct {
	once  sync.Once
	slots chan struct{}
}

const pullsAtOnce = 4

func (q *pullQueue) enter(ctx context.Context) (leave func(), err error) {
	q.once.Do(func() { q.slots = make(chan struct{}, pullsAtOnce) })
	select {
	case q.slots <- struct{}{}:
		return func() { <-q.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ensureImage finds the container's image on the node, or pulls it as its
// policy says.
func (x *actor) ensureImage(ctx context.Context, p *corev1.Pod, c *corev1.Container) (*runtimeapi.Image, error) {
	spec := &runtimeapi.ImageSpec{Image: c.Image, UserSpecifiedImage: c.Image}
	r, err := x.agent.cfg.CRI.Image.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil {
		x.imageProblem(p, c, "ImageInspectError", fmt.Sprintf("Failed to inspect image %q: %v", c.Image, rpcText(err)), "InspectFailed")
		return nil, errImage
	}
	have := r.Image
	switch {
	case have != nil && c.ImagePullPolicy != corev1.PullAlways:
		x.containerEvent(p, c, corev1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", c.Image)
		x.tell(func() { delete(x.mem.pulls, c.Name) })
		return have, nil
	case have == nil && c.ImagePullPolicy == corev1.PullNever:
		x.imageProblem(p, c, "ErrImageNeverPull", fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image), "ErrImageNeverPull")
		return nil, errImage
	}
	return x.pull(ctx, p, c, spec)
}

func (x *actor) pull(ctx context.Context, p *corev1.Pod, c *corev1.Container, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	begin := time.Now()
	leave, err := x.agent.pulls.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	x.containerEvent(p, c, corev1.EventTypeNormal, "Pulling", "Pulling image %q", c.Image)
	started := time.Now()
	var last error
	for _, auth := range x.agent.pullSecrets(ctx, p, c.Image) {
		if _, last = x.agent.cfg.CRI.Image.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec, Auth: auth}); last == nil {
			break
		}
	}
	if last != nil {
		if ctx.Err() == nil {
			x.containerEvent(p, c, corev1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", c.Image, rpcText(last))
			x.imageProblem(p, c, "ErrImagePull", rpcText(last), "Failed")
		}
		return nil, errImage
	}
	r, err := x.agent.cfg.CRI.Image.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil || r.Image == nil {
		return nil, errImage
	}
	x.containerEvent(p, c, corev1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		c.Image, time.Since(started).Round(time.Millisecond), time.Since(begin).Round(time.Millisecond), r.Image.Size)
	x.tell(func() { delete(x.mem.pulls, c.Name) })
	x.agent.node.imagesChanged()
	return r.Image, nil
}

// imageProblem says why there is no image, and holds the next try back.
func (x *actor) imageProblem(p *corev1.Pod, c *corev1.Container, reason, message, event string) {
	if reason == "ErrImagePull" {
		x.containerEvent(p, c, corev1.EventTypeWarning, event, "Error: %s", reason)
	} else {
		x.containerEvent(p, c, corev1.EventTypeWarning, event, "%s", message)
		x.containerEvent(p, c, corev1.EventTypeWarning, "Failed", "Error: %s", reason)
	}
	x.wait(c.Name, reason, message)
	x.backOffPull(c.Name, "pull")
	if reason != "ErrImagePull" {
		return
	}
	// The next look shows the back-off, as a kubelet's next sync does.
	x.tell(func() {
		text := fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %s", c.Image, message)
		x.mem.waiting[c.Name] = waiting{"ImagePullBackOff", text}
		x.containerEvent(p, c, corev1.EventTypeNormal, "BackOff", "Back-off pulling image %q", c.Image)
		x.containerEvent(p, c, corev1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
	})
}

// backOffPull delays the next start of a container whose image or
// configuration is missing: 10 s, doubled to 5 minutes.
func (x *actor) backOffPull(container, kind string) {
	x.tell(func() {
		b := x.mem.pulls[container]
		if b == nil {
			b = &backOff{}
			x.mem.pulls[container] = b
		}
		b.delay = min(max(2*b.delay, firstBackOff), mostBackOff)
		b.until, b.instance = x.agent.cfg.Now().Add(b.delay), kind
	})
}

// pullSecrets are the credentials to try for an image, in order; the last is
// none at all when there are no others.
func (a *Agent) pullSecrets(ctx context.Context, p *corev1.Pod, image string) (out []*runtimeapi.AuthConfig) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return []*runtimeapi.AuthConfig{nil}
	}
	for _, ref := range p.Spec.ImagePullSecrets {
		s, err := a.objects.Secret(ctx, p.Namespace, ref.Name)
		if err != nil {
			a.cfg.Log.Info("pull secret is missing", "pod", key(p), "secret", ref.Name, "err", err)
			continue
		}
		out = append(out, registryAuth(s, named.Name())...)
	}
	if len(out) == 0 {
		out = append(out, nil)
	}
	return out
}

// registryAuth reads the two forms of docker's configuration.
func registryAuth(s *corev1.Secret, repository string) (out []*runtimeapi.AuthConfig) {
	type entry struct {
		Username, Password, Auth string
	}
	entries := map[string]entry{}
	switch s.Type {
	case corev1.SecretTypeDockerConfigJson:
		var c struct{ Auths map[string]entry }
		if json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &c) == nil {
			entries = c.Auths
		}
	case corev1.SecretTypeDockercfg:
		if json.Unmarshal(s.Data[corev1.DockerConfigKey], &entries) != nil {
			return nil
		}
	}
	for registry, e := range entries {
		host := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(registry, "https://"), "http://"), "/")
		host = strings.TrimSuffix(strings.TrimSuffix(host, "/v1"), "/v2")
		if host == "index.docker.io" {
			host = "docker.io"
		}
		if repository != host && !strings.HasPrefix(repository, host+"/") {
			continue
		}
		if e.Username == "" {
			b, err := base64.StdEncoding.DecodeString(e.Auth)
			if err != nil {
				continue
			}
			e.Username, e.Password, _ = strings.Cut(string(b), ":")
		}
		out = append(out, &runtimeapi.AuthConfig{Username: e.Username, Password: e.Password, ServerAddress: host})
	}
	return out
}
