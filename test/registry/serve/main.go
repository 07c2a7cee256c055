// SPDX-License-Identifier: Apache-2.0

// Command serve is a registry of image archives, as `docker save` makes them,
// until it is interrupted, for tests whose images must be pulled:
//
//	serve ADDRESS ARCHIVE...
package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/distribution/reference"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/peapod/peapod/test/registry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errors.New("usage: serve ADDRESS ARCHIVE...")
	}
	r := registry.Start()
	defer r.Server.Close()
	for _, archive := range args[1:] {
		if err := push(r, archive); err != nil {
			return fmt.Errorf("cannot serve %s: %w", archive, err)
		}
	}
	s := &http.Server{Addr: args[0], Handler: r}
	stopped := context.AfterFunc(ctx, func() { s.Close() })
	defer stopped()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve images: %w", err)
	}
	return nil
}

// push stores each image of an archive under each of its tags.
func push(r *registry.Registry, archive string) error {
	files, err := contents(archive)
	if err != nil {
		return err
	}
	var images []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(files["manifest.json"], &images); err != nil {
		return fmt.Errorf("cannot read manifest.json: %w", err)
	}
	for _, i := range images {
		var config ispecs.Image
		if err := json.Unmarshal(files[i.Config], &config); err != nil {
			return fmt.Errorf("cannot read the configuration: %w", err)
		}
		image := registry.Image{Config: config.Config, Platform: config.Platform}
		for _, l := range i.Layers {
			image.Layers = append(image.Layers, files[l])
		}
		for _, t := range i.RepoTags {
			named, err := reference.ParseNormalizedNamed(t)
			if err != nil {
				return err
			}
			tagged, ok := named.(reference.Tagged)
			if !ok {
				return fmt.Errorf("%s has no tag", t)
			}
			r.Push(reference.Path(named), tagged.Tag(), image)
		}
	}
	return nil
}

// contents are the files of an archive.
func contents(archive string) (map[string][]byte, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string][]byte{}
	for t := tar.NewReader(f); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err == nil {
			out[h.Name], err = io.ReadAll(t)
		}
		if err != nil {
			return nil, err
		}
	}
}
