// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/knftables"
)

// hostState is what the network changed of the machine itself, kept so that
// Remove can put it back: <dir>/host.json.
type hostState struct {
	Version int `json:"version"`
	// PodCIDR is the range the network was opened with.
	PodCIDR netip.Prefix `json:"podCIDR,omitzero"`
	// Sysctls holds the value each had before, by its path under /proc/sys.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// Addresses were put on the loopback link.
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// forwarding names the sysctls that make a node a router for its Pods.
// route_localnet lets a host port answer on 127.0.0.1.
var forwarding = []struct{ path, value string }{
	{"net/ipv4/ip_forward", "1"},
	{"net/ipv4/conf/all/route_localnet", "1"},
}

func (n *Network) forward() error {
	st, err := n.readHost()
	if err != nil {
		return err
	}
	if was := st.PodCIDR; was != n.cfg.PodCIDR {
		if was.IsValid() {
			if err := disclaim(gatewayOf(was)); err != nil {
				return err
			}
			st.Addresses = slices.DeleteFunc(st.Addresses, func(a netip.Addr) bool { return a == gatewayOf(was) })
		}
		st.PodCIDR = n.cfg.PodCIDR
		if err := n.writeHost(st); err != nil {
			return err
		}
	}
	for _, s := range forwarding {
		file := filepath.Join(n.cfg.Root, "proc/sys", s.path)
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("cannot read sysctl %s: %w", s.path, err)
		}
		was := strings.TrimSpace(string(b))
		if was == s.value {
			continue
		}
		if _, known := st.Sysctls[s.path]; !known {
			if st.Sysctls == nil {
				st.Sysctls = map[string]string{}
			}
			st.Sysctls[s.path] = was
			if err := n.writeHost(st); err != nil {
				return err
			}
		}
		if err := os.WriteFile(file, []byte(s.value), 0); err != nil {
			return fmt.Errorf("cannot set sysctl %s=%s: %w", s.path, s.value, err)
		}
	}
	return nil
}

// remember notes an address put on lo.
func (n *Network) remember(addr netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	st, err := n.readHost()
	if err != nil || slices.Contains(st.Addresses, addr) {
		return err
	}
	st.Addresses = append(st.Addresses, addr)
	return n.writeHost(st)
}

// Remove takes back everything the network made on the machine: links,
// addresses, rules and sysctls, then its folder. It needs no Open before it
// and may be repeated. Other users of forwarding on the machine keep it when
// they had it before Peapod came.
func Remove(ctx context.Context, cfg Config) error {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	n := &Network{cfg: cfg}
	st, err := n.readHost()
	if err != nil {
		return err
	}
	problems := []error{deleteLinks(n.linkPrefix())}
	for _, a := range st.Addresses {
		problems = append(problems, disclaim(a))
	}
	for path, was := range st.Sysctls {
		if err := os.WriteFile(filepath.Join(cfg.Root, "proc/sys", path), []byte(was), 0); err != nil {
			problems = append(problems, fmt.Errorf("cannot put back sysctl %s=%s: %w", path, was, err))
		}
	}
	problems = append(problems, removeTable(ctx, cfg.Instance))
	if err := errors.Join(problems...); err != nil {
		return err
	}
	if err := os.RemoveAll(cfg.Dir); err != nil {
		return fmt.Errorf("cannot remove network folder: %w", err)
	}
	return nil
}

func removeTable(ctx context.Context, table string) error {
	nft, err := knftables.New(knftables.IPv4Family, table)
	if err != nil {
		return fmt.Errorf("cannot remove nftables table %s: %w", table, err)
	}
	tx := nft.NewTransaction()
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	if err := nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("cannot remove nftables table %s: %w", table, err)
	}
	return nil
}

func (n *Network) hostFile() string { return filepath.Join(n.cfg.Dir, "host.json") }

func (n *Network) readHost() (hostState, error) {
	st := hostState{Version: 1}
	b, err := os.ReadFile(n.hostFile())
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	if err != nil {
		return st, fmt.Errorf("cannot read %s: %w", n.hostFile(), err)
	}
	return st, nil
}

func (n *Network) writeHost(st hostState) error {
	b, err := json.MarshalIndent(st, "", "  ")
	if err == nil {
		err = replaceFile(n.hostFile(), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", n.hostFile(), err)
	}
	return nil
}

// RangeOf is the Pod range the network in dir was last opened with; the zero
// prefix when there was none.
func RangeOf(dir string) (netip.Prefix, error) {
	n := &Network{cfg: Config{Dir: dir}}
	st, err := n.readHost()
	return st.PodCIDR, err
}
