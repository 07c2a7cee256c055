// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"testing"
	"time"

	"github.com/peapod/peapod/daemon"
)

func TestPrintTokens(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	err := printTokens(&out, []daemon.Token{
		{Token: "abcdef.0123456789abcdef", Expires: now.Add(23 * time.Hour), Usages: []string{"authentication", "signing"}, Groups: []string{"system:bootstrappers:a", "system:bootstrappers:b"}, Description: "rack 4"},
		{Token: "fedcba.0123456789abcdef"},
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	const want = `TOKEN                     TTL         EXPIRES                USAGES                   DESCRIPTION   EXTRA GROUPS
abcdef.0123456789abcdef   23h         2026-01-02T11:00:00Z   authentication,signing   rack 4        system:bootstrappers:a,system:bootstrappers:b
fedcba.0123456789abcdef   <forever>   <never>                <none>                   <none>        <none>
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}
