// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"log/slog"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/daemon"
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
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newImageImport(t), newImagePull(t), newImageList(t), newImageRemove(t))
	return c
}

func newImageImport(t terminal) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:     "import FILE...",
		Short:   "Import OCI layouts, OCI archives and docker archives",
		Example: "  docker save web:1 -o web.tar && sudo peapod image import web.tar\n  sudo peapod image import ./oci-layout-folder",
		Args:    someArgs("file"),
		RunE: func(c *cobra.Command, files []string) error {
			store, err := daemon.OpenImages(dir, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			line := newProgress(t.err)
			defer line.done()
			for _, f := range files {
				line.say("importing %s", f)
				images, err := store.Import(c.Context(), f)
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
		Use:   "list",
		Short: "List the images of this node",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			store, err := daemon.OpenImages(dir, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			images, err := store.List(c.Context())
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(t.out, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "IMAGE\tID\tSIZE")
			for _, i := range images {
				names := i.RepoTags
				if len(names) == 0 {
					names = append([]string{"<none>"}, i.RepoDigests...)[:1]
				}
				for _, n := range names {
					fmt.Fprintf(w, "%s\t%s\t%s\n", n, shortID(i.ID), size(i.Size))
				}
			}
			return w.Flush()
		},
	}
	dataDirFlag(c, &dir)
	return c
}

func newImageRemove(t terminal) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "remove IMAGE...",
		Short: "Remove images by name or ID",
		Args:  someArgs("image"),
		RunE: func(c *cobra.Command, refs []string) error {
			store, err := daemon.OpenImages(dir, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
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
	return c
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
