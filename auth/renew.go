// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"fmt"
	"time"

	"github.com/peapod/peapod/linux"
)

// Renew makes each certificate anew when a third of its life is left, until ctx
// ends, and calls renewed after it: who serves or calls with one reads it from
// its file. What is due is seen by the clock of the wall, so that neither a
// sleep of the machine nor a clock that is set lets one run out.
func (p *PKI) Renew(ctx context.Context, renewed func() error) error {
	for {
		due, err := p.due()
		if err != nil {
			return err
		}
		if err := linux.WaitUntil(ctx, due); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("cannot wait for the end of certificates: %w", err)
		}
		if err := p.ensureAll(); err != nil {
			return err
		}
		if err := renewed(); err != nil {
			return err
		}
	}
}

// due is when the first certificate has to be renewed.
func (p *PKI) due() (first time.Time, err error) {
	for _, r := range p.requests {
		c, _, err := readCertificate(p.path(r.file + ".crt"))
		if err != nil {
			return first, fmt.Errorf("cannot read certificate %s: %w", r.file, err)
		}
		if at := c.NotAfter.Add(-renewBefore); first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first, nil
}
