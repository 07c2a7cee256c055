// SPDX-License-Identifier: Apache-2.0

// Golden asks Kubernetes itself what it makes of a corpus of objects: the
// defaulted object, the refusals, the warnings and the Table row. The answers
// are what Peapod's own defaults, validation and columns are compared with.
//
//	golden CORPUS-DIR GOLDEN-DIR
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/kubernetes/pkg/capabilities"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: golden CORPUS-DIR GOLDEN-DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "golden:", err)
		os.Exit(1)
	}
}

func run(corpus, golden string) error {
	files, err := filepath.Glob(filepath.Join(corpus, "*.yaml"))
	if err != nil {
		return fmt.Errorf("cannot list %s: %w", corpus, err)
	}
	if len(files) == 0 {
		return fmt.Errorf("cannot find a corpus: no *.yaml in %s", corpus)
	}
	// As every installation does: --allow-privileged.
	capabilities.Setup(true, 0)
	kinds, err := upstream()
	if err != nil {
		return err
	}
	for _, name := range files {
		cases, err := load(name)
		if err != nil {
			return err
		}
		answers := []answer{}
		for _, c := range cases {
			a, err := ask(kinds, c)
			if err != nil {
				return fmt.Errorf("cannot ask about %s, case %q: %w", name, c.Name, err)
			}
			answers = append(answers, a)
		}
		if err := write(filepath.Join(golden, filepath.Base(name)), answers); err != nil {
			return err
		}
	}
	columns, err := columnsOf(kinds)
	if err != nil {
		return err
	}
	if err := write(filepath.Join(golden, "columns.yaml"), columns); err != nil {
		return err
	}
	all := map[string]traits{}
	for name, k := range kinds {
		all[name] = k.traits()
	}
	return write(filepath.Join(golden, "traits.yaml"), all)
}
