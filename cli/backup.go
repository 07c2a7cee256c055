// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/daemon"
)

// oneFile takes the name of a backup.
func oneFile(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return misuse("%q needs the name of one file, but got %d arguments", c.CommandPath(), len(args))
	}
	return nil
}

func newBackup(t terminal) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write the running cluster into a file: all objects, keys and certificates",
		Long: `Asks the running "peapod up" for a snapshot of etcd and writes it, together with the
cluster's keys and certificates, into FILE, readable for root alone: whoever has it has
the cluster. Nothing stops meanwhile. Volumes and images are not in it.`,
		Example: `  sudo peapod backup /backup/cluster.tar.gz
  sudo peapod backup --data-dir /srv/pods "/backup/$(date +%F).tar.gz"`,
		Args: oneFile,
		RunE: func(c *cobra.Command, args []string) error {
			if err := daemon.Backup(c.Context(), dir, args[0]); err != nil {
				return err
			}
			info, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(t.out, "%s %s has the cluster of %s, in %d bytes\n", paint(t.out, green, "peapod:"), args[0], dir, info.Size())
			return nil
		},
	}
	dataDirFlag(c, &dir)
	return c
}

func newRestore(t terminal) *cobra.Command {
	var o daemon.RestoreOptions
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a data folder's cluster the one of a backup",
		Long: `Reads what "peapod backup" has written, and makes it the cluster of the data folder,
which the next "peapod up" starts. Clients and tokens of that cluster are good again;
its Pods that still run on this machine go on, others start. The file is checked before
anything is touched, and a folder that has a cluster is refused without --replace.`,
		Example: `  sudo peapod restore /backup/cluster.tar.gz
  sudo peapod restore --replace --data-dir /srv/pods /backup/cluster.tar.gz`,
		Args: oneFile,
		RunE: func(c *cobra.Command, args []string) error {
			o.File = args[0]
			about, err := daemon.Restore(c.Context(), o)
			if err != nil {
				return err
			}
			fmt.Fprintf(t.out, "%s %s has the cluster as it was at %s; `peapod up` starts it\n", paint(t.out, green, "peapod:"), o.DataDir, about.Made.Format(time.RFC3339))
			return nil
		},
	}
	dataDirFlag(c, &o.DataDir)
	c.Flags().BoolVar(&o.Replace, "replace", false, "give up the cluster that the data folder has")
	return c
}
