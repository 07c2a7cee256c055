// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"
)

// groupFlags gives a command further flags, which its help shows by concern
// after its own.
func groupFlags(c *cobra.Command, named cliflag.NamedFlagSets) {
	own := pflag.NewFlagSet(c.Name(), pflag.ContinueOnError)
	own.SortFlags = c.Flags().SortFlags
	own.AddFlagSet(c.Flags())
	for _, name := range named.Order {
		c.Flags().AddFlagSet(named.FlagSets[name])
	}
	c.SetUsageFunc(func(c *cobra.Command) error {
		out := c.OutOrStderr()
		if help := c.Flags().Lookup("help"); help != nil && own.Lookup("help") == nil {
			own.AddFlag(help)
		}
		fmt.Fprintf(out, "Usage:\n  %s\n\nExamples:\n%s\n\nFlags:\n%s", c.UseLine(), c.Example, own.FlagUsages())
		cliflag.PrintSections(out, named, 0)
		return nil
	})
}
