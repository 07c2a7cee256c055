// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

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

// wish is an image that a container needs: its own, or one that it mounts.
type wish struct {
	container *corev1.Container
	image     string
	policy    corev1.PullPolicy
	about     runtime.Object // what events are about
}

func (x *actor) ownImage(p *corev1.Pod, c *corev1.Container) wish {
	return wish{c, c.Image, c.ImagePullPolicy, containerReference(p, c.Name)}
}

// ensureVolumes finds or pulls the images that a container mounts (KEP-4639),
// by volume. It returns false when one is not to be had.
func (x *actor) ensureVolumes(ctx context.Context, p *corev1.Pod, c *corev1.Container) (map[string]*runtimeapi.Image, bool) {
	var out map[string]*runtimeapi.Image
	for _, v := range p.Spec.Volumes {
		if v.Image == nil || !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name }) {
			continue
		}
		image := x.ensureImage(ctx, p, wish{c, v.Image.Reference, v.Image.PullPolicy, p})
		if image == nil {
			return nil, false
		}
		if out == nil {
			out = map[string]*runtimeapi.Image{}
		}
		out[v.Name] = image
	}
	return out, true
}

// ensureImage finds an image on the node, or pulls it as its policy says. It
// returns nil when there is none; why was said and remembered.
func (x *actor) ensureImage(ctx context.Context, p *corev1.Pod, w wish) *runtimeapi.Image {
	named, err := reference.ParseNormalizedNamed(w.image)
	if err != nil {
		text := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", w.image, w.image, err)
		x.noImage(ctx, w, "InspectFailed", "InvalidImageName", text)
		return nil
	}
	spec := &runtimeapi.ImageSpec{Image: w.image, UserSpecifiedImage: w.image}
	if reference.IsNameOnly(named) {
		spec.Image += ":latest"
	}
	r, err := x.agent.cfg.CRI.Image.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil {
		x.noImage(ctx, w, "InspectFailed", "ImageInspectError", fmt.Sprintf("Failed to inspect image %q: %v", w.image, err))
		return nil
	}
	have := r.Image
	switch {
	case have != nil && w.policy != corev1.PullAlways:
		x.imageEvent(w, corev1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", w.image)
		return have
	case have == nil && w.policy == corev1.PullNever:
		x.noImage(ctx, w, "ErrImageNeverPull", "ErrImageNeverPull", fmt.Sprintf("Container image %q is not present with pull policy of Never", w.image))
		return nil
	}
	return x.pull(ctx, p, w, spec, named.Name())
}

func (x *actor) imageEvent(w wish, kind, reason, format string, args ...any) {
	x.agent.events.Eventf(w.about, kind, reason, format, args...)
}

// noImage says why there is no image to be had without a pull.
func (x *actor) noImage(ctx context.Context, w wish, event, reason, message string) {
	if ctx.Err() != nil {
		return
	}
	x.imageEvent(w, corev1.EventTypeWarning, event, "%s", message)
	x.imageEvent(w, corev1.EventTypeWarning, "Failed", "Error: %s", reason)
	x.startFailed(w.container, holdImage, waiting{reason: reason, message: message})
}

func (x *actor) pull(ctx context.Context, p *corev1.Pod, w wish, spec *runtimeapi.ImageSpec, repository string) *runtimeapi.Image {
	x.tell(func() { delete(x.mem.swapping, w.container.Name) }) // it takes a while, which is told
	begin := x.agent.cfg.Now()
	x.imageEvent(w, corev1.EventTypeNormal, "Pulling", "Pulling image %q", w.image)
	leave, err := x.agent.pulls.enter(ctx)
	if err != nil {
		return nil
	}
	defer leave()
	started := x.agent.cfg.Now()
	auths, missing := x.agent.pullSecrets(ctx, p, repository)
	for _, auth := range auths {
		if _, err = x.agent.cfg.CRI.Image.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec, Auth: auth}); err == nil {
			break
		}
	}
	var r *runtimeapi.ImageStatusResponse
	if err == nil {
		if r, err = x.agent.cfg.CRI.Image.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec}); err == nil && r.Image == nil {
			err = fmt.Errorf("image %q is not there after its pull", w.image)
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			x.pullFailed(p, w, rpcText(err), missing)
		}
		return nil
	}
	now := x.agent.cfg.Now()
	x.imageEvent(w, corev1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		w.image, now.Sub(started).Truncate(time.Millisecond), now.Sub(begin).Truncate(time.Millisecond), r.Image.Size)
	x.agent.node.retell()
	return r.Image
}

// pullFailed says why a pull failed. The back-off is said at the next look, as
// a kubelet does: both states are seen.
func (x *actor) pullFailed(p *corev1.Pod, w wish, why string, missing []string) {
	x.imageEvent(w, corev1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", w.image, why)
	x.imageEvent(w, corev1.EventTypeWarning, "Failed", "Error: ErrImagePull")
	if len(missing) > 0 {
		x.event(p, corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", "Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", "))
	}
	x.startFailed(w.container, holdPull, waiting{"ErrImagePull", why, &w})
}

// pullHeldBack turns ErrImagePull into ImagePullBackOff, after the former was
// reported.
func (x *actor) pullHeldBack(c *corev1.Container) {
	x.tell(func() {
		was := x.mem.waiting[c.Name]
		if was.image == nil || was.reason != "ErrImagePull" {
			return
		}
		text := fmt.Sprintf("Back-off pulling image %q", was.image.image)
		x.imageEvent(*was.image, corev1.EventTypeNormal, "BackOff", "%s", text)
		x.imageEvent(*was.image, corev1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
		x.mem.waiting[c.Name] = waiting{"ImagePullBackOff", text + ": ErrImagePull: " + was.message, was.image}
	})
}

// pullSecrets are the credentials to try for an image, in order, and the names
// of secrets that are not there. Without credentials it is none at all.
func (a *Agent) pullSecrets(ctx context.Context, p *corev1.Pod, repository string) (out []*runtimeapi.AuthConfig, missing []string) {
	for _, ref := range p.Spec.ImagePullSecrets {
		s, err := a.objects.Secret(ctx, p.Namespace, ref.Name)
		if err != nil {
			a.cfg.Log.Info("pull secret is missing", "pod", key(p), "secret", ref.Name, "err", err)
			missing = append(missing, ref.Name)
			continue
		}
		out = append(out, registryAuth(s, repository)...)
	}
	if len(out) == 0 {
		out = append(out, nil)
	}
	return out, missing
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
	for _, registry := range slices.Sorted(maps.Keys(entries)) {
		e := entries[registry]
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
