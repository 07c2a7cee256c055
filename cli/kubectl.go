// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubeconfigs may name these providers
	componentcli "k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	"k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"github.com/peapod/peapod/daemon"
)

// newKubectl is the entry in the help; Main hands the words after it to
// kubectl before cobra sees them.
func newKubectl() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [command]",
		Short: "kubectl itself, pointed at this cluster",
		Long: `The kubectl of Kubernetes, built in. Without --kubeconfig and KUBECONFIG it uses
the kubeconfig in the data folder (PEAPOD_DATA_DIR, or ` + daemon.DefaultDataDir + `).`,
		Example:            "  sudo peapod kubectl get pods -A\n  sudo peapod kubectl logs -f web",
		DisableFlagParsing: true,
		RunE:               showHelp, // never: see Main
	}
}

// kubectl runs kubectl with args in this process and returns its exit code.
func kubectl(args []string) int {
	if path := clusterKubeconfig(args, os.Getenv); path != "" {
		os.Setenv("KUBECONFIG", path)
	}
	// kubectl reads os.Args for its plugins and its name in help texts.
	os.Args = append([]string{"kubectl"}, args...)
	if _, err := logs.GlogSetter(cmd.GetLogVerbosity(os.Args)); err != nil {
		cmdutil.CheckErr(err)
	}
	if err := componentcli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		cmdutil.CheckErr(err) // prints as kubectl does, and exits with its code
	}
	return exitOK
}

// clusterKubeconfig is the kubeconfig to use when the user named no cluster:
// the admin's of this machine's. It is named also when it is missing: another
// cluster, which ~/.kube/config may know, is never meant by `peapod kubectl`.
func clusterKubeconfig(args []string, getenv func(string) string) string {
	if getenv("KUBECONFIG") != "" {
		return ""
	}
	for _, a := range args {
		if a == "--" {
			break
		}
		flag, _, _ := strings.Cut(a, "=")
		if flag == "--kubeconfig" || flag == "--server" || flag == "-s" {
			return ""
		}
	}
	dir := getenv("PEAPOD_DATA_DIR")
	if dir == "" {
		dir = daemon.DefaultDataDir
	}
	return filepath.Join(dir, daemon.KubeconfigName)
}
