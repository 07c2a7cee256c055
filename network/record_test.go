// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestDamagedRecord: the address of a living sandbox is found again and not
// given to another; what has no link is dropped. Both are said with the file's
// name, and the rest goes on.
func TestDamagedRecord(t *testing.T) {
	dir := t.TempDir()
	n := open(t, dir, "10.94.0.0/28")
	ns := newNamespace(t)
	ips, err := n.Setup(t.Context(), "lives", ns, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := n.Setup(t.Context(), "whole", newNamespace(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	lives, gone := filepath.Join(dir, "sandboxes/lives.json"), filepath.Join(dir, "sandboxes/gone.json")
	if err := errors.Join(os.WriteFile(lives, []byte("{"), 0o600), os.WriteFile(gone, []byte(`{"version":7}`), 0o600), os.WriteFile(gone+".tmp", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	again, err := Open(t.Context(), Config{Dir: dir, Instance: n.cfg.Instance, PodCIDR: n.cfg.PodCIDR, Root: n.cfg.Root, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{lives, gone} {
		if !strings.Contains(log.String(), file) {
			t.Errorf("the log does not name %s: %s", file, &log)
		}
	}
	if len(again.records) != 2 || again.records["lives"].IP != ips[0] || again.records["whole"].IP != other[0] {
		t.Errorf("records %+v, want %v and %v", again.records, ips, other)
	}
	for i := range 13 - 2 {
		if r, _, err := again.reserve(fmt.Sprint("new", i), nil); err != nil || r.IP == ips[0] || r.IP == other[0] {
			t.Errorf("got %v, %v", r.IP, err)
		}
	}
	if r, err := readRecord(lives); err != nil || r.IP != ips[0] {
		t.Errorf("the record was not mended: %+v, %v", r, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "sandboxes", "gone*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// FuzzRecord: whatever a record holds, it is read whole or refused.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"x","ip":"10.0.0.1","link":"l","ports":[{"protocol":"tcp","hostPort":1}]}`))
	f.Add([]byte(`{"version":1,"id":"y"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		file := filepath.Join(t.TempDir(), "x.json")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := readRecord(file)
		if err != nil && !strings.Contains(err.Error(), file) {
			t.Fatalf("%v does not name the file", err)
		}
		if err == nil && (r.ID != "x" || !r.IP.IsValid()) {
			t.Fatalf("took %+v", r)
		}
	})
}

// TestPortTaken: a host port leads to one place; the second who wants it is
// told, gets no address, and may try again.
func TestPortTaken(t *testing.T) {
	n := open(t, t.TempDir(), "10.95.0.0/28")
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	busy := uint16(l.Addr().(*net.TCPAddr).Port)
	port := func(protocol, ip string, port uint16) HostPort {
		p := HostPort{Protocol: protocol, HostPort: port, ContainerPort: 80}
		if ip != "" {
			p.HostIP = netip.MustParseAddr(ip)
		}
		return p
	}
	if _, err := n.Setup(t.Context(), "a", newNamespace(t), []HostPort{port("tcp", "", 9000), port("tcp", "192.0.2.1", 9001)}); err != nil {
		t.Fatal(err)
	}
	second := newNamespace(t)
	for _, c := range []struct {
		ports []HostPort
		want  string
	}{
		{[]HostPort{port("tcp", "", 9000)}, ":9000/tcp belongs to sandbox a"},
		{[]HostPort{port("tcp", "192.0.2.9", 9000)}, "192.0.2.9:9000/tcp belongs to sandbox a"},
		{[]HostPort{port("tcp", "0.0.0.0", 9001)}, ":9001/tcp belongs to sandbox a"},
		{[]HostPort{port("udp", "", 9002), port("udp", "192.0.2.1", 9002)}, "192.0.2.1:9002/udp is asked for twice"},
		{[]HostPort{port("tcp", "", busy)}, fmt.Sprintf(":%d/tcp is used by a program of this machine", busy)},
	} {
		_, err := n.Setup(t.Context(), "b", second, c.ports)
		if !errors.Is(err, ErrPortTaken) || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
		if len(n.records) != 1 || len(n.used) != 1 {
			t.Fatalf("a refused sandbox has a record: %v", n.records)
		}
	}
	l.Close()
	if _, err := n.Setup(t.Context(), "b", second, []HostPort{port("tcp", "", busy), port("udp", "", 9000), port("tcp", "192.0.2.2", 9001)}); err != nil {
		t.Error(err)
	}
}

// TestManyAtOnce: sandboxes that come and go together never share an address,
// and leave none behind.
func TestManyAtOnce(t *testing.T) {
	n := open(t, t.TempDir(), "10.96.0.0/27")
	var mu sync.Mutex
	held := map[netip.Addr]string{}
	var all sync.WaitGroup
	for w := range 6 {
		all.Go(func() {
			for i := range 5 {
				id := fmt.Sprintf("w%d-%d", w, i)
				ips, err := n.Setup(t.Context(), id, newNamespace(t), []HostPort{{Protocol: "tcp", HostPort: uint16(9100 + w), ContainerPort: 80}})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if other := held[ips[0]]; other != "" {
					t.Errorf("%s and %s have %v", id, other, ips[0])
				}
				held[ips[0]] = id
				mu.Unlock()
				mu.Lock()
				delete(held, ips[0])
				mu.Unlock()
				if err := n.Teardown(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if len(n.records) != 0 || len(n.used) != 0 {
		t.Errorf("left: %v, %v", n.records, n.used)
	}
}
