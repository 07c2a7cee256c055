// SPDX-License-Identifier: Apache-2.0

// Command mkimage packs a static busybox and further programs as an image:
//
//	mkimage [FLAGS] NAME:TAG OUT.tar [/path/inside=FILE]... [-- COMMAND...]
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	ispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/peapod/peapod/test/imagefile"
)

const usage = "usage: mkimage [FLAGS] NAME:TAG OUT.tar [/path/inside=FILE]... [-- COMMAND...]"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	entries, err := imagefile.Busybox("/bin/busybox")
	if err != nil {
		return err
	}
	config := ispecs.ImageConfig{Cmd: []string{"sh"}}
	f := flag.NewFlagSet("mkimage", flag.ContinueOnError)
	f.StringVar(&config.User, "user", "", "the user that containers run as")
	f.Func("entrypoint", "the entrypoint, as words", func(s string) error {
		config.Entrypoint, config.Cmd = strings.Fields(s), nil
		return nil
	})
	f.Func("folder", "an empty folder that every user may write to", func(s string) error {
		entries = append(entries, imagefile.Entry{Path: s, Dir: true, Mode: 0o1777})
		return nil
	})
	f.Func("link", "a symbolic link, as PATH=TARGET", func(s string) error {
		path, target, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("%q is not PATH=TARGET", s)
		}
		entries = append(entries, imagefile.Entry{Path: path, Link: target})
		return nil
	})
	root := f.String("root", "", "a folder with unpacked packages, of which programs may have their libraries")
	f.Func("program", "a program that is dynamically linked, as /path/inside=FILE: with its libraries", func(s string) error {
		inside, outside, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("%q is not /path/inside=FILE", s)
		}
		program, err := imagefile.Program(inside, outside, *root)
		entries = append(entries, program...)
		return err
	})
	f.Func("setuid", "a program that runs as its owner, root, as /path/inside=FILE", func(s string) error {
		inside, outside, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("%q is not /path/inside=FILE", s)
		}
		e, err := imagefile.File(inside, outside)
		e.Mode |= 0o4000
		entries = append(entries, e)
		return err
	})
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() < 2 {
		return errors.New(usage)
	}
	files := f.Args()[2:]
	if i := slices.Index(files, "--"); i >= 0 {
		config.Cmd, files = files[i+1:], files[:i]
	}
	for _, s := range files {
		inside, outside, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("%q is not /path/inside=FILE", s)
		}
		e, err := imagefile.File(inside, outside)
		if err != nil {
			return err
		}
		entries = append(entries, e)
	}
	out, err := os.Create(f.Arg(1))
	if err != nil {
		return err
	}
	if err := imagefile.Write(out, imagefile.Image{Ref: f.Arg(0), Entries: entries, Config: config}); err != nil {
		return err
	}
	return out.Close()
}
