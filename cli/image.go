// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/daemon"
	"github.com/peapod/peapod/image"
)

func newImage(t terminal) *cobra.Command {
	c := &cobra.Command{
		Use:   "image",
		Short: "Import, pull, list and remove images of this node",
		Long: `Works on the images in the data folder, with or without a running node. What is
imported is there for the next Pod at once.`,
		Example: `  sudo peapod image import web.tar
  sudo peapod image list
  sudo peapod image remove web:1`,
		Args: noArgs,
		RunE: showHelp,
	}
	c.AddCommand(newImageImport(t), newImagePull(t), newImageList(t), newImageRemove(t))
	return c
}

func newImageImport(t terminal) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "import FILE...",
		Short: "Import OCI layouts, OCI archives and docker archives",
		Long: `Imports the images in files (what "docker save" writes, OCI archives; plain or
compressed with gzip or zstd) and in folders (OCI layouts). - is standard input.
An OCI layout that names an image by a tag alone gives it the name of the file or
folder, up to its first dot.`,
		Example: `  docker save web:1 -o web.tar && sudo peapod image import web.tar
  docker save web:1 | sudo peapod image import -
  sudo peapod image import ./oci-layout-folder`,
		Args: someArgs("file"),
		RunE: func(c *cobra.Command, files []string) error {
			store, err := daemon.OpenImages(dir, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer store.Close()
			line := newProgress(t.err)
			defer line.done()
			for _, f := range files {
				line.say("importing %s", f)
				images, err := importOne(c.Context(), store, f, t.in)
				line.done()
				if err != nil {
					return err
				}
				for _, i := range images {
					fmt.Fprintf(t.out, "imported %s (%s)\n", nameOf(i.RepoTags, i.ID), size(i.Size))
				}
			}
			return nil
		},
	}
	dataDirFlag(c, &dir)
	return c
}

func importOne(ctx context.Context, store *image.Store, file string, in io.Reader) ([]image.Image, error) {
	if file != "-" {
		return store.Import(ctx, file)
	}
	images, err := store.ImportStream(ctx, "stdin", in)
	if err != nil {
		return nil, fmt.Errorf("cannot import standard input: %w", err)
	}
	return images, nil
}

func newImagePull(t terminal) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:     "pull REFERENCE...",
		Short:   "Pull images from their registries",
		Example: "  sudo peapod image pull nginx:1.29",
		Args:    someArgs("reference"),
		RunE: func(c *cobra.Command, refs []string) error {
			store, err := daemon.OpenImages(dir, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer store.Close()
			line := newProgress(t.err)
			defer line.done()
			for _, ref := range refs {
				line.say("pulling %s", ref)
				i, err := store.Pull(c.Context(), ref, nil, func(done, total int64) {
					line.say("pulling %s  %s of %s", ref, size(done), size(total))
				})
				line.done()
				if err != nil {
					return err
				}
				fmt.Fprintf(t.out, "pulled %s (%s)\n", nameOf(i.RepoTags, i.ID), size(i.Size))
			}
			return nil
		},
	}
	dataDirFlag(c, &dir)
	return c
}

func newImageList(t terminal) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:               "list",
		Short:             "List the images of this node",
		Example:           "  sudo peapod image list",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			images, err := listImages(c.Context(), dir)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(t.out, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "IMAGE\tID\tSIZE")
			for _, i := range images {
				for _, n := range namesOf(i) {
					fmt.Fprintf(w, "%s\t%s\t%s\n", n, shortID(i.ID), size(i.Size))
				}
			}
			return w.Flush()
		},
	}
	dataDirFlag(c, &dir)
	return c
}

// listImages are the images in a data folder; where there is no folder yet,
// there are none.
func listImages(ctx context.Context, dir string) ([]image.Image, error) {
	store, err := daemon.FindImages(dir, slog.New(slog.DiscardHandler))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return store.List(ctx)
}

func newImageRemove(t terminal) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "remove IMAGE...",
		Short: "Remove images by name or ID",
		Long: `Removes names of images, or by ID an image with all its names. Containers that
run from one keep its files until they end.`,
		Example: "  sudo peapod image remove web:1\n  sudo peapod image remove 0f2a9c1be3d4",
		Args:    someArgs("image"),
		RunE: func(c *cobra.Command, refs []string) error {
			store, err := daemon.FindImages(dir, slog.New(slog.DiscardHandler))
			if err != nil {
				return fmt.Errorf("cannot remove image %s: %w", refs[0], err)
			}
			defer store.Close()
			for _, ref := range refs {
				if err := store.Remove(c.Context(), ref); err != nil {
					return err
				}
				fmt.Fprintf(t.out, "removed %s\n", ref)
			}
			return nil
		},
	}
	dataDirFlag(c, &dir)
	c.ValidArgsFunction = func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		images, err := listImages(c.Context(), dir)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, i := range images {
			names = append(names, i.RepoTags...)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	return c
}

// namesOf are the tags of an image, else its first digest reference.
func namesOf(i image.Image) []string {
	if len(i.RepoTags) > 0 {
		return i.RepoTags
	}
	return append(slices.Clone(i.RepoDigests), "<none>")[:1]
}

func nameOf(tags []string, id string) string {
	if len(tags) > 0 {
		return tags[0]
	}
	return shortID(id)
}

// shortID is enough of a sha256 digest to tell images apart.
func shortID(id string) string {
	const prefix = "sha256:"
	if len(id) > len(prefix)+12 {
		return id[len(prefix) : len(prefix)+12]
	}
	return id
}
