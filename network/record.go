// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// record is what the disk says of one sandbox: <dir>/sandboxes/<id>.json.
// It is renamed into place but not synced: a machine that lost power has no
// namespaces left for it to describe.
type record struct {
	Version int        `json:"version"`
	ID      string     `json:"id"`
	IP      netip.Addr `json:"ip"`
	Link    string     `json:"link"`
	Ports   []HostPort `json:"ports,omitempty"`
}

var errNoAddress = errors.New("no free address in the node's Pod range")

// reserve finds or makes the record of a sandbox; linked says that its link
// stands already.
func (n *Network) reserve(id string, ports []HostPort) (r record, linked bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r, ok := n.records[id]; ok {
		return r, n.linked[id], nil
	}
	ip, err := n.free()
	if err != nil {
		return record{}, false, err
	}
	r = record{Version: 1, ID: id, IP: ip, Link: n.linkName(id), Ports: ports}
	if err := n.write(r); err != nil {
		return record{}, false, err
	}
	n.records[id], n.used[ip] = r, id
	return r, false, nil
}

// free picks the next unused address after the last one given out, so that an
// address rests as long as the range allows before it names another Pod.
func (n *Network) free() (netip.Addr, error) {
	first, last := n.Gateway().Next(), lastHost(n.cfg.PodCIDR)
	ip := n.next
	if ip.Less(first) || last.Less(ip) {
		ip = first
	}
	for start := ip; ; {
		if _, taken := n.used[ip]; !taken {
			n.next = ip.Next()
			return ip, writeCursor(n.cfg.Dir, n.next)
		}
		if ip = ip.Next(); last.Less(ip) {
			ip = first
		}
		if ip == start {
			return netip.Addr{}, fmt.Errorf("%w %s", errNoAddress, n.cfg.PodCIDR)
		}
	}
}

func (n *Network) release(id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := os.Remove(n.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(n.used, n.records[id].IP)
	delete(n.records, id)
	delete(n.linked, id)
	return nil
}

func (n *Network) path(id string) string {
	return filepath.Join(n.cfg.Dir, "sandboxes", id+".json")
}

func (n *Network) write(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return replaceFile(n.path(r.ID), append(b, '\n'))
}

// readRecords loads all records. A file that was cut short by a kill is not
// possible (rename), so one that does not parse is somebody's edit: refuse it
// by name rather than hand out its address twice.
func readRecords(dir string) (map[string]record, error) {
	files, err := filepath.Glob(filepath.Join(dir, "sandboxes", "*.json"))
	if err != nil {
		return nil, fmt.Errorf("cannot read network records: %w", err)
	}
	torn, err := filepath.Glob(filepath.Join(dir, "sandboxes", "*.tmp"))
	for _, f := range torn {
		// A kill came before the rename: nobody was told of this one.
		err = errors.Join(err, os.Remove(f))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read network records: %w", err)
	}
	out := map[string]record{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("cannot read network record: %w", err)
		}
		var r record
		if err := json.Unmarshal(b, &r); err != nil {
			return nil, fmt.Errorf("cannot read network record %s: %w", f, err)
		}
		if r.Version != 1 || r.ID+".json" != filepath.Base(f) || !r.IP.IsValid() {
			return nil, fmt.Errorf("cannot read network record %s: not a version 1 record of that sandbox", f)
		}
		out[r.ID] = r
	}
	return out, nil
}

func readCursor(dir string, cidr netip.Prefix) netip.Addr {
	b, err := os.ReadFile(filepath.Join(dir, "next-address"))
	if err != nil {
		return netip.Addr{}
	}
	ip, err := netip.ParseAddr(strings.TrimSpace(string(b)))
	if err != nil || !cidr.Contains(ip) {
		return netip.Addr{}
	}
	return ip
}

func writeCursor(dir string, ip netip.Addr) error {
	return replaceFile(filepath.Join(dir, "next-address"), []byte(ip.String()+"\n"))
}

func replaceFile(path string, b []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// lastHost is the highest address of an IPv4 prefix that is not its broadcast.
func lastHost(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 1 << (7 - i%8)
	}
	a[3]--
	return netip.AddrFrom4(a)
}
