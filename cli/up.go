// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/daemon"
)

func newUp(t terminal) *cobra.Command {
	o := daemon.Options{API: apiserver.NewOptions()}
	var verbosity int
	c := &cobra.Command{
		Use:   "up",
		Short: "Start the cluster on this machine, in the foreground",
		Long: `Starts etcd, the API server, the scheduler, the controllers, the node agent and
the container runtime in one process, and prints one line when the node is Ready.
SIGTERM or Ctrl-C stops it and leaves the Pods running; the next "peapod up"
finds them untouched. "peapod down" ends them. A second Ctrl-C stops it at once.

With --join the machine becomes a node of a cluster elsewhere and runs the node part
alone; "peapod token create" there prints the line.`,
		Example: `  sudo peapod up
  sudo peapod up --data-dir /srv/pods --listen 0.0.0.0:6443
  sudo peapod up --join https://192.168.1.10:6443 --token ID.SECRET --ca-cert-hash sha256:HASH
  sudo peapod up --runtime-endpoint unix:///run/containerd/containerd.sock
  sudo peapod up --etcd-endpoints https://10.0.0.5:2379 --etcd-cafile ca.crt --etcd-certfile c.crt --etcd-keyfile c.key`,
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			begin := time.Now()
			line := newProgress(t.err)
			o.Log = newLogger(t, verbosity)
			o.Progress = func(step string) { line.say("peapod: %s", step) }
			o.Ready = func(i daemon.Info) {
				line.done()
				where := "kubeconfig: " + i.Kubeconfig
				if i.Kubeconfig == "" {
					where = "cluster: " + i.Server
				}
				fmt.Fprintf(t.out, "%s node %s is Ready after %.1fs; %s\n", paint(t.out, green, "peapod:"), i.NodeName, time.Since(begin).Seconds(), where)
			}
			defer line.done()
			return daemon.Up(c.Context(), o)
		},
	}
	dataDirFlag(c, &o.DataDir)
	upFlags(c, &o)
	c.Flags().IntVarP(&verbosity, "v", "v", 0, "how much to log: 0 warnings, 1 what happens to Pods, 4 everything")
	groupFlags(c, o.API.Flags())
	joinFlags(c, &o)
	return c
}

// joinFlags are in the place of all that is a cluster's own.
func joinFlags(c *cobra.Command, o *daemon.Options) {
	own := []string{"listen", "pod-cidr", "cluster-cidr", "service-cidr", "etcd-endpoints", "etcd-cafile", "etcd-certfile", "etcd-keyfile"}
	for _, set := range o.API.Flags().FlagSets {
		set.VisitAll(func(f *pflag.Flag) { own = append(own, f.Name) })
	}
	c.Flags().StringVar(&o.Join, "join", "", "URL of the API server of a cluster, of which this machine becomes a node")
	c.Flags().StringVar(&o.Token, "token", "", "token of that cluster, ID.SECRET; needed until this machine has its certificates")
	c.Flags().StringSliceVar(&o.CACertHashes, "ca-cert-hash", nil, "the CA that the cluster must have, as sha256:HASH (without: whoever knows the token is believed)")
	for _, f := range own {
		c.MarkFlagsMutuallyExclusive("join", f)
	}
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		if err := c.ValidateFlagGroups(); err != nil {
			return usageError{err} // as cobra would not say
		}
		return nil
	}
}

func upFlags(c *cobra.Command, o *daemon.Options) {
	f := c.Flags()
	f.StringVar(&o.Listen, "listen", "127.0.0.1:6443", "address and port of the API server")
	f.StringVar(&o.NodeName, "node-name", "", "name of this machine's Node (default: its host name)")
	f.StringVar(&o.PodCIDR, "pod-cidr", "10.244.0.0/20", "IPv4 range of this node's Pod addresses")
	f.StringVar(&o.ClusterCIDR, "cluster-cidr", "", "IPv4 range of all machines' Pod addresses; each that joins gets one as large as --pod-cidr (default: up to a /16 around --pod-cidr)")
	f.StringVar(&o.ServiceCIDR, "service-cidr", "10.96.0.0/16", "IPv4 range of Service addresses; the first is the API server's, the tenth the name server's")
	f.StringVar(&o.NodeListen, "node-listen", "", "address and port of the node agent's HTTPS endpoint (default: port 10250 of the node's address)")
	f.StringSliceVar(&o.Etcd.Endpoints, "etcd-endpoints", nil, "an existing etcd cluster, instead of the one in this process")
	f.StringVar(&o.Etcd.CAFile, "etcd-cafile", "", "CA that signed the etcd servers' certificates")
	f.StringVar(&o.Etcd.CertFile, "etcd-certfile", "", "client certificate for etcd")
	f.StringVar(&o.Etcd.KeyFile, "etcd-keyfile", "", "key of the client certificate for etcd")
	f.StringVar(&o.RuntimeEndpoint, "runtime-endpoint", "", "socket of an external CRI runtime, instead of the built-in one")
	f.StringVar(&o.Launcher, "launcher", daemon.LauncherAuto, "who starts containers: auto (native, and oci for what it cannot do), native (peapod-launcher), or oci (runc or crun)")
}

// newLogger logs to the terminal's error stream in slog's text form.
func newLogger(t terminal, verbosity int) *slog.Logger {
	level := slog.LevelWarn
	switch {
	case verbosity >= 4:
		level = slog.LevelDebug
	case verbosity >= 1:
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(t.err, &slog.HandlerOptions{Level: level}))
}

func newDown(t terminal) *cobra.Command {
	var o daemon.DownOptions
	var verbosity int
	c := &cobra.Command{
		Use:   "down",
		Short: "End all Pods gracefully and leave nothing on the machine",
		Long: `Stops the running "peapod up", gives every Pod its grace period, and removes all
processes, mounts, links, namespaces, cgroups and rules it made. The state stays:
the next "peapod up" starts the Pods again. --purge removes the state too. The Node
of a machine that has joined a cluster stays until "kubectl delete node".

It may be interrupted and run again; a second Ctrl-C ends it at once.`,
		Example: `  sudo peapod down
  sudo peapod down --grace 1s
  sudo peapod down --data-dir /srv/pods --purge`,
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			line := newProgress(t.err)
			defer line.done()
			o.Log = newLogger(t, verbosity)
			o.Progress = func(step string) { line.say("peapod: %s", step) }
			ended, err := daemon.Down(c.Context(), o)
			line.done()
			if err != nil {
				return err
			}
			fmt.Fprintf(t.out, "%s %s\n", paint(t.out, green, "peapod:"), downLine(ended, o))
			return nil
		},
	}
	dataDirFlag(c, &o.DataDir)
	c.Flags().BoolVar(&o.Purge, "purge", false, "remove the data folder too: API objects, images and logs")
	c.Flags().DurationVar(&o.Grace, "grace", 0, "give every Pod at most this long (default: each Pod's own grace period)")
	c.Flags().IntVarP(&verbosity, "v", "v", 0, "how much to log")
	return c
}

// downLine says what has become of the data folder.
func downLine(e daemon.Ended, o daemon.DownOptions) string {
	switch {
	case !e.Found:
		return "nothing to end: no node has been started in " + o.DataDir
	case !o.Purge:
		return "all Pods have ended; the state is kept in " + o.DataDir
	case len(e.Foreign) > 0:
		return fmt.Sprintf("all Pods have ended; %s is removed but for what is not Peapod's: %s", o.DataDir, strings.Join(e.Foreign, ", "))
	default:
		return fmt.Sprintf("all Pods have ended; %s is removed", o.DataDir)
	}
}

func newDoctor(t terminal) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine has and lacks for Pods, and how to mend it",
		Long: `Looks at everything that Pods need of this machine. A line that begins with ok is
fine; with warn, Pods run but something is worse than it could be; with FAIL, Pods
cannot run, and the exit code is 3.`,
		Example: `  sudo peapod doctor
  sudo peapod doctor --data-dir /srv/pods`,
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			return report(t.out, daemon.Examine(c.Context(), dir))
		},
	}
	dataDirFlag(c, &dir)
	return c
}

// report prints findings; one that is fatal makes it an error.
func report(w io.Writer, findings []daemon.Finding) error {
	unfit := false
	for _, f := range findings {
		mark, colour := "ok", green
		switch f.Level {
		case daemon.Poor:
			mark, colour = "warn", yellow
		case daemon.Fatal:
			mark, colour, unfit = "FAIL", red, true
		}
		fmt.Fprintf(w, "%s  %-12s %s\n", paint(w, colour, fmt.Sprintf("%-4s", mark)), f.Subject, indented(f.Found))
		if f.Mend != "" {
			fmt.Fprintf(w, "      %-12s mend: %s\n", "", f.Mend)
		}
	}
	if unfit {
		return fmt.Errorf("%w: mend what is marked FAIL", daemon.ErrUnfit)
	}
	return nil
}

// indented keeps a text of several lines in its column.
func indented(s string) string {
	return strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", 19))
}
