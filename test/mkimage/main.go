// SPDX-License-Identifier: Apache-2.0

// Command mkimage packs a static busybox and further programs as an image:
//
//	mkimage NAME:TAG OUT.tar [/path/inside=FILE]... [-- COMMAND...]
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	ispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/peapod/peapod/test/imagefile"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: mkimage NAME:TAG OUT.tar [/path/inside=FILE]... [-- COMMAND...]")
	}
	entries, err := imagefile.Busybox("/bin/busybox")
	if err != nil {
		return err
	}
	image := imagefile.Image{Ref: args[0], Config: ispecs.ImageConfig{Cmd: []string{"sh"}}}
	files := args[2:]
	if i := slices.Index(files, "--"); i >= 0 {
		image.Config.Cmd, files = files[i+1:], files[:i]
	}
	for _, f := range files {
		inside, outside, ok := strings.Cut(f, "=")
		if !ok {
			return fmt.Errorf("%q is not /path/inside=FILE", f)
		}
		e, err := imagefile.File(inside, outside)
		if err != nil {
			return err
		}
		entries = append(entries, e)
	}
	image.Entries = entries
	out, err := os.Create(args[1])
	if err != nil {
		return err
	}
	if err := imagefile.Write(out, image); err != nil {
		return err
	}
	return out.Close()
}
