// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"errors"

	"k8s.io/apiserver/pkg/server/options"
	cliflag "k8s.io/component-base/cli/flag"
)

// Options are what kube-apiserver's flags of the same names choose: nothing of
// it starts unless it is asked for.
type Options struct {
	// Audit writes who did what, as its policy says.
	Audit          *options.AuditOptions
	Store          StoreOptions
	Encryption     EncryptionOptions
	Authentication AuthenticationOptions
	Authorization  AuthorizationOptions
}

// NewOptions are those of a server that nobody asked for anything.
func NewOptions() *Options {
	return &Options{Audit: options.NewAuditOptions(), Store: StoreOptions{Quota: defaultQuota}}
}

// Flags are the flags of all options, by concern.
func (o *Options) Flags() (named cliflag.NamedFlagSets) {
	o.Authentication.AddFlags(named.FlagSet("authentication"))
	o.Authorization.AddFlags(named.FlagSet("authorization"))
	o.Audit.AddFlags(named.FlagSet("audit"))
	o.Store.AddFlags(named.FlagSet("store"))
	o.Encryption.AddFlags(named.FlagSet("encryption at rest"))
	return named
}

// Validate finds what cannot work without looking into files.
func (o *Options) Validate() error {
	return errors.Join(append(o.Audit.Validate(), o.Encryption.Validate(), o.Authentication.Validate(), o.Store.Validate())...)
}
