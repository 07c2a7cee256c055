// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/peapod/peapod/daemon"
)

func newToken(t terminal) *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Tokens with which other machines join the cluster",
		Long: `A machine joins the cluster with a token: it shows the token once, and has a
certificate of its own from then on.`,
		Args: noArgs,
		RunE: showHelp,
	}
	c.AddCommand(newTokenCreate(t), newTokenList(t), newTokenDelete(t))
	return c
}

func newTokenCreate(t terminal) *cobra.Command {
	var dir, description string
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "create [TOKEN]",
		Short: "Make a token, and print what another machine has to run",
		Example: `  sudo peapod token create
  sudo peapod token create --ttl 1h --description "the machines of rack 4"`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return misuse("%q takes one token at most, but got %d arguments", c.CommandPath(), len(args))
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			if ttl < 0 {
				return misuse("--ttl %s: want 0 or more", ttl)
			}
			tokens, err := daemon.OpenTokens(dir)
			if err != nil {
				return err
			}
			j, err := tokens.Create(c.Context(), strings.Join(args, ""), description, ttl)
			if err != nil {
				return err
			}
			fmt.Fprintf(t.out, "peapod up --join %s --token %s --ca-cert-hash %s\n", j.Server, j.Token, j.CAHash)
			return nil
		},
	}
	dataDirFlag(c, &dir)
	c.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long machines can join with it; 0 is for ever")
	c.Flags().StringVar(&description, "description", "", "what it is for, for those who list tokens")
	return c
}

func newTokenList(t terminal) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:               "list",
		Short:             "List the tokens",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			tokens, err := daemon.OpenTokens(dir)
			if err != nil {
				return err
			}
			list, err := tokens.List(c.Context())
			if err != nil {
				return err
			}
			return printTokens(t.out, list, time.Now())
		},
	}
	dataDirFlag(c, &dir)
	return c
}

// printTokens has the columns of `kubeadm token list`.
func printTokens(w io.Writer, list []daemon.Token, now time.Time) error {
	or := func(s, none string) string {
		if s == "" {
			return none
		}
		return s
	}
	table := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(table, "TOKEN\tTTL\tEXPIRES\tUSAGES\tDESCRIPTION\tEXTRA GROUPS")
	for _, x := range list {
		ttl, expires := "<forever>", "<never>"
		if !x.Expires.IsZero() {
			ttl, expires = duration.ShortHumanDuration(x.Expires.Sub(now)), x.Expires.Format(time.RFC3339)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", x.Token, ttl, expires, or(strings.Join(x.Usages, ","), "<none>"), or(x.Description, "<none>"), or(strings.Join(x.Groups, ","), "<none>"))
	}
	return table.Flush()
}

func newTokenDelete(t terminal) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:               "delete TOKEN|ID...",
		Short:             "Delete tokens; machines that have joined stay",
		Args:              someArgs("token or ID of one"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			tokens, err := daemon.OpenTokens(dir)
			if err != nil {
				return err
			}
			for _, x := range args {
				if err := tokens.Delete(c.Context(), x); err != nil {
					return err
				}
				id, _, _ := strings.Cut(x, ".")
				fmt.Fprintf(t.out, "bootstrap token %q deleted\n", id)
			}
			return nil
		},
	}
	dataDirFlag(c, &dir)
	return c
}
