// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/image"
)

func criImage(i image.Image) *runtimeapi.Image {
	out := &runtimeapi.Image{Id: i.ID, RepoTags: i.RepoTags, RepoDigests: i.RepoDigests, Size: uint64(i.Size), Pinned: i.Pinned}
	name, _, _ := strings.Cut(i.Config.User, ":")
	if uid, err := strconv.ParseInt(name, 10, 64); err == nil {
		out.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		out.Username = name
	}
	return out
}

// ListImages lists images, all or the one named.
func (r *Runtime) ListImages(ctx context.Context, q *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	out := &runtimeapi.ListImagesResponse{}
	if ref := q.GetFilter().GetImage().GetImage(); ref != "" {
		i, err := r.cfg.Images.Get(ctx, ref)
		if errdefs.IsNotFound(err) {
			return out, nil
		}
		if err != nil {
			return nil, coded(err)
		}
		out.Images = append(out.Images, criImage(i))
		return out, nil
	}
	all, err := r.cfg.Images.List(ctx)
	if err != nil {
		return nil, coded(err)
	}
	for _, i := range all {
		out.Images = append(out.Images, criImage(i))
	}
	return out, nil
}

// StreamImages is ListImages in pieces.
func (r *Runtime) StreamImages(q *runtimeapi.StreamImagesRequest, s grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	list, err := r.ListImages(s.Context(), &runtimeapi.ListImagesRequest{Filter: q.GetFilter()})
	if err != nil {
		return err
	}
	return s.Send(&runtimeapi.StreamImagesResponse{Images: list.Images})
}

// ImageStatus tells of one image; a missing one is an empty answer.
func (r *Runtime) ImageStatus(ctx context.Context, q *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	i, err := r.cfg.Images.Get(ctx, q.GetImage().GetImage())
	if errdefs.IsNotFound(err) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, coded(err)
	}
	return &runtimeapi.ImageStatusResponse{Image: criImage(i)}, nil
}

// PullImage brings an image from its registry.
func (r *Runtime) PullImage(ctx context.Context, q *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	auth, err := credentials(q.GetAuth())
	if err != nil {
		return nil, err
	}
	i, err := r.cfg.Images.Pull(ctx, q.GetImage().GetImage(), auth, nil)
	if err != nil {
		return nil, coded(err)
	}
	r.cfg.Log.Info("image pulled", "op", "pull", "image", q.GetImage().GetImage())
	return &runtimeapi.PullImageResponse{ImageRef: i.ID}, nil
}

// credentials reads the forms in which CRI carries them.
func credentials(a *runtimeapi.AuthConfig) (*image.Auth, error) {
	switch {
	case a == nil:
		return nil, nil
	case a.GetUsername() != "":
		return &image.Auth{Username: a.GetUsername(), Password: a.GetPassword()}, nil
	case a.GetIdentityToken() != "":
		return &image.Auth{IdentityToken: a.GetIdentityToken()}, nil
	case a.GetAuth() != "":
		b, err := base64.StdEncoding.DecodeString(a.GetAuth())
		user, password, ok := strings.Cut(string(b), ":")
		if err != nil || !ok {
			return nil, invalidArgument("auth is not base64 of user:password")
		}
		return &image.Auth{Username: user, Password: strings.Trim(password, "\x00")}, nil
	}
	return nil, nil
}

// RemoveImage removes an image; a missing one is fine.
func (r *Runtime) RemoveImage(ctx context.Context, q *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	if err := r.cfg.Images.Remove(ctx, q.GetImage().GetImage()); err != nil && !errdefs.IsNotFound(err) {
		return nil, coded(err)
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo says what images take of the disk.
func (r *Runtime) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	u, err := r.cfg.Images.FSInfo()
	if err != nil {
		return nil, coded(fmt.Errorf("cannot measure images: %w", err))
	}
	usage := &runtimeapi.FilesystemUsage{
		Timestamp: now().UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: u.Path}, UsedBytes: &runtimeapi.UInt64Value{Value: uint64(u.Bytes)},
	}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{usage}, ContainerFilesystems: []*runtimeapi.FilesystemUsage{usage}}, nil
}
