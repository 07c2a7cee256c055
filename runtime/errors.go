// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/sandbox"
)

func notFound(format string, args ...any) error {
	return status.Error(codes.NotFound, fmt.Sprintf(format, args...)+": not found")
}

func alreadyExists(format string, args ...any) error {
	return status.Errorf(codes.AlreadyExists, format, args...)
}

func invalidArgument(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

func failed(format string, args ...any) error {
	return status.Errorf(codes.FailedPrecondition, format, args...)
}

// coded gives an error of the rooms below the gRPC code that clients look at.
func coded(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.Unknown
	switch {
	case errdefs.IsNotFound(err):
		code = codes.NotFound
	case errdefs.IsUnauthorized(err):
		code = codes.Unauthenticated
	case errdefs.IsPermissionDenied(err):
		code = codes.PermissionDenied
	case errors.Is(err, keeper.ErrGone):
		code = codes.Unavailable
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, errors.ErrUnsupported):
		code = codes.Unimplemented
	case errors.Is(err, sandbox.ErrInvalid):
		code = codes.InvalidArgument
	}
	return status.Error(code, err.Error())
}
