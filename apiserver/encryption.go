// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/wait"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
)

// EncryptionOptions name the EncryptionConfiguration by which objects are
// encrypted before they are stored.
type EncryptionOptions struct {
	File string
	// Reload takes a changed file without a restart.
	Reload bool
}

// AddFlags adds the flags by their names in kube-apiserver.
func (o *EncryptionOptions) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.File, "encryption-provider-config", "", "file with the EncryptionConfiguration by which objects are encrypted in etcd")
	fs.BoolVar(&o.Reload, "encryption-provider-config-automatic-reload", false, "take changes of that file without a restart; its KMS plugins then share one health check")
}

// Validate says what does not go together.
func (o *EncryptionOptions) Validate() error {
	if o.File == "" && o.Reload {
		return errors.New("--encryption-provider-config-automatic-reload must be set with --encryption-provider-config")
	}
	return nil
}

// encryption has every store encrypt by the file. The library's own options do
// this too, but only together with a health check of an etcd that is dialled.
func (s *Server) encryption(c *genericapiserver.Config) (err error) {
	o := s.config.Options.Encryption
	if o.File == "" {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot encrypt by %s: %w", o.File, err)
		}
	}()
	served := wait.ContextForChannel(c.DrainedNotify())
	ctx, cancel := context.WithCancel(served) // a reloaded file ends what the one before it has started
	loaded, err := encryptionconfig.LoadEncryptionConfig(ctx, o.File, o.Reload, c.APIServerID)
	if err != nil {
		cancel()
		return err
	}
	checks := loaded.HealthChecks
	if !o.Reload {
		context.AfterFunc(served, cancel)
		c.ResourceTransformers = encryptionconfig.StaticTransformers(loaded.Transformers)
	} else {
		// With Reload there is one check for all plugins.
		dynamic := encryptionconfig.NewDynamicTransformers(loaded.Transformers, loaded.HealthChecks[0], cancel, loaded.KMSCloseGracePeriod)
		checks, c.ResourceTransformers = []healthz.HealthChecker{dynamic}, dynamic
		const name = "encryption-provider-config-automatic-reload"
		err = c.AddPostStartHook("start-"+name, func(h genericapiserver.PostStartHookContext) error {
			follow := controller.NewDynamicEncryptionConfiguration(name+"-controller", o.File, dynamic, loaded.EncryptionFileContentHash, c.APIServerID)
			s.background.Go(func() { follow.Run(h) })
			return nil
		})
	}
	c.HealthzChecks = append(c.HealthzChecks, checks...)
	c.ReadyzChecks = append(c.ReadyzChecks, checks...)
	return err
}
