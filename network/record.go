// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
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

// ErrPortTaken: another sandbox, or a program of the machine, has a host port.
var ErrPortTaken = errors.New("host port is taken")

// reserve finds or makes the record of a sandbox; linked says that its link
// stands already.
func (n *Network) reserve(id string, ports []HostPort) (r record, linked bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r, ok := n.records[id]; ok {
		return r, n.linked[id], nil
	}
	if err := n.portsFree(ports); err != nil {
		return record{}, false, err
	}
	ip, err := n.free()
	if err != nil {
		return record{}, false, err
	}
	r = record{Version: 1, ID: id, IP: ip, Link: n.freeLink(id), Ports: ports}
	if err := n.write(r); err != nil {
		return record{}, false, err
	}
	n.records[id], n.used[ip] = r, id
	return r, false, nil
}

// portsFree refuses host ports that would lead to two places. The caller holds
// mu.
func (n *Network) portsFree(ports []HostPort) error {
	for i, p := range ports {
		for _, q := range ports[:i] {
			if p.clashes(q) {
				return fmt.Errorf("%w: %s is asked for twice", ErrPortTaken, p)
			}
		}
		for id, r := range n.records {
			for _, q := range r.Ports {
				if p.clashes(q) {
					return fmt.Errorf("%w: %s belongs to sandbox %s", ErrPortTaken, p, id)
				}
			}
		}
		if err := p.unused(); err != nil {
			return err
		}
	}
	return nil
}

// everywhere: the port is wanted on all addresses of the machine.
func (p HostPort) everywhere() bool { return !p.HostIP.IsValid() || p.HostIP.IsUnspecified() }

func (p HostPort) clashes(q HostPort) bool {
	return p.Protocol == q.Protocol && p.HostPort == q.HostPort && (p.everywhere() || q.everywhere() || p.HostIP == q.HostIP)
}

func (p HostPort) String() string {
	ip := ""
	if !p.everywhere() {
		ip = p.HostIP.String()
	}
	return net.JoinHostPort(ip, strconv.Itoa(int(p.HostPort))) + "/" + p.Protocol
}

// unused asks the kernel whether a program of the machine has the port: the
// rules would take it away from that silently.
func (p HostPort) unused() (err error) {
	ip := netip.IPv4Unspecified()
	if !p.everywhere() {
		ip = p.HostIP
	}
	var probe io.Closer
	at := netip.AddrPortFrom(ip, p.HostPort).String()
	switch p.Protocol {
	case "tcp":
		probe, err = net.Listen("tcp4", at)
	case "udp":
		probe, err = net.ListenPacket("udp4", at)
	default:
		return nil
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("%w: %s is used by a program of this machine", ErrPortTaken, p)
	}
	if err != nil {
		// An address that the machine does not have: then nobody uses it.
		return nil
	}
	return probe.Close()
}

// freeLink names the link of a sandbox as no other's is. The caller holds mu.
func (n *Network) freeLink(id string) string {
	for salt := id; ; salt += "'" {
		name, taken := n.linkName(salt), false
		for _, r := range n.records {
			taken = taken || r.Link == name
		}
		if !taken {
			return name
		}
	}
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

// readRecords loads all records, and mends those that cannot be read. A kill
// cannot have torn them (rename), so somebody else has.
func (n *Network) readRecords() error {
	files, err := filepath.Glob(filepath.Join(n.cfg.Dir, "sandboxes", "*.json"))
	if err != nil {
		return fmt.Errorf("cannot read network records: %w", err)
	}
	torn, err := filepath.Glob(filepath.Join(n.cfg.Dir, "sandboxes", "*.tmp"))
	for _, f := range torn {
		// A kill came before the rename: nobody was told of this one.
		err = errors.Join(err, os.Remove(f))
	}
	if err != nil {
		return fmt.Errorf("cannot read network records: %w", err)
	}
	n.records = map[string]record{}
	for _, f := range files {
		r, err := readRecord(f)
		if err != nil {
			if r, err = n.mend(f, err); err != nil {
				return err
			}
		}
		if r.ID != "" {
			n.records[r.ID] = r
		}
	}
	return nil
}

func readRecord(file string) (r record, err error) {
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil && (r.Version != 1 || r.ID+".json" != filepath.Base(file) || !r.IP.IsValid()) {
		err = errors.New("not a version 1 record of that sandbox")
	}
	if err != nil {
		return record{}, fmt.Errorf("cannot read network record %s: %w", file, err)
	}
	return r, nil
}

// mend asks the kernel what a record has said: the route of the sandbox's link
// has its address, which must not be given to another. Without a link there is
// nothing to keep. The host ports are lost.
func (n *Network) mend(file string, cause error) (record, error) {
	id := strings.TrimSuffix(filepath.Base(file), ".json")
	r := record{Version: 1, ID: id, Link: n.linkName(id)}
	ip, err := addressOf(r.Link)
	if err != nil {
		return r, errors.Join(cause, err)
	}
	if !ip.IsValid() {
		n.cfg.Log.Error("a network record is lost, and its sandbox has no link", "sandbox", id, "err", cause)
		return record{}, os.Remove(file)
	}
	r.IP = ip
	n.cfg.Log.Error("a network record is lost; the address was found, its host ports are closed", "sandbox", id, "ip", ip, "err", cause)
	return r, n.write(r)
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
