// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"strings"
	"testing"
	"time"
)

// Certificates that are nearly due are renewed while the program runs, each
// with its key, and who waits is told.
func TestCertificatesAreRenewed(t *testing.T) {
	dir := t.TempDir()
	// Made so long ago that a third of their life is left in a moment.
	begin := time.Now()
	made := begin.Add(renewBefore - certLifetime + 2*time.Second)
	if _, err := EnsurePKI(dir, Names{Node: "n"}, func() time.Time { return made }); err != nil {
		t.Fatal(err)
	}
	p, err := EnsurePKI(dir, Names{Node: "n"}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	serials := func() (all []string) {
		for _, r := range p.requests {
			c, _, err := readCertificate(p.path(r.file + ".crt"))
			if err != nil {
				t.Fatal(err)
			}
			if key, err := p.ensureKey(r.file); err != nil || !key.PublicKey.Equal(c.PublicKey) {
				t.Errorf("%s is not of its key: %v", r.file, err)
			}
			all = append(all, c.SerialNumber.String())
		}
		return all
	}
	before := serials()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	renewed := false
	err = p.Renew(ctx, func() error {
		renewed = true
		cancel() // the next time is in eight months
		return nil
	})
	if err != nil || !renewed {
		t.Fatalf("renewed %t, %v", renewed, err)
	}
	after := serials()
	for i := range before {
		if before[i] == after[i] {
			t.Errorf("%s is the one from before", p.requests[i].file)
		}
	}
	if due, err := p.due(); err != nil || due.Before(begin.Add(certLifetime-renewBefore-time.Minute)) {
		t.Errorf("the next time is %s, %v", due, err)
	}
}

// Where the clock makes the CA worthless nothing else is made; the message says
// what is wrong. Other certificates follow the clock.
func TestAClockThatJumps(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	at := func(d time.Duration) error {
		_, err := EnsurePKI(dir, Names{Node: "n"}, func() time.Time { return now.Add(d) })
		return err
	}
	for _, d := range []time.Duration{0, 9 * 365 * 24 * time.Hour, time.Hour} {
		if err := at(d); err != nil {
			t.Errorf("after %s: %v", d, err)
		}
		c, _, err := readCertificate(dir + "/apiserver.crt")
		if err != nil || now.Add(d).Before(c.NotBefore) || now.Add(d).After(c.NotAfter) {
			t.Errorf("after %s the certificate is good from %s to %s, %v", d, c.NotBefore, c.NotAfter, err)
		}
	}
	for _, d := range []time.Duration{-24 * time.Hour, 11 * 365 * 24 * time.Hour} {
		if err := at(d); err == nil || !strings.Contains(err.Error(), "and this machine's clock shows "+now.Add(d).UTC().Format(time.RFC3339)+"; set the clock") {
			t.Errorf("after %s: %v", d, err)
		}
	}
}
