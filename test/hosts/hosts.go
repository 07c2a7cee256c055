// SPDX-License-Identifier: Apache-2.0

// Package hosts makes several machines out of one, for tests: each has a network
// namespace and mounts of its own, and a cable to one switch. Processes, cgroups
// and files are shared; what a program keeps lies in folders of its own.
//
//	test ── switch (a bridge) ── eth0 of each host
package hosts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Switch is the link that all hosts have in common; the test itself is on it
// with the last address of the range.
type Switch struct {
	bridge *netlink.Bridge
	subnet netip.Prefix
	hosts  []*Host
}

// Host is one machine.
type Host struct {
	// Address is its own on the switch.
	Address netip.Addr

	cable  string // the switch's end
	holder *exec.Cmd
	life   io.Closer // the holder ends when it is closed, also by our death
}

// NewSwitch makes one. name is that of the bridge, at most 11 bytes; subnet is
// a /24.
func NewSwitch(name string, subnet netip.Prefix) (*Switch, error) {
	s := &Switch{bridge: &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}, subnet: subnet}
	if err := netlink.LinkAdd(s.bridge); err != nil {
		return nil, fmt.Errorf("cannot make switch %s: %w", name, err)
	}
	err := netlink.AddrAdd(s.bridge, s.net(254))
	if err == nil {
		err = netlink.LinkSetUp(s.bridge)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot set up switch %s: %w", name, err), s.Close())
	}
	return s, nil
}

func (s *Switch) net(number byte) *netlink.Addr {
	a := s.subnet.Masked().Addr().As4()
	a[3] = number
	return &netlink.Addr{IPNet: &net.IPNet{IP: a[:], Mask: net.CIDRMask(s.subnet.Bits(), 32)}}
}

// Close takes the hosts away with all that is in them, and the switch.
func (s *Switch) Close() error {
	var problems []error
	for _, h := range s.hosts {
		problems = append(problems, h.life.Close())
		_ = h.holder.Wait() // it ends with what it reads
	}
	return errors.Join(append(problems, netlink.LinkDel(s.bridge))...)
}

// Add makes a host and plugs it in. Its default route leads to the test.
func (s *Switch) Add() (*Host, error) {
	number := byte(len(s.hosts) + 1)
	address, _ := netip.AddrFromSlice(s.net(number).IP.To4()) // four bytes
	h := &Host{Address: address, cable: s.bridge.Name + "-" + strconv.Itoa(int(number))}
	// It says that its namespaces are there, and lives until its input ends.
	h.holder = exec.Command("sh", "-c", "mount --make-rprivate / && echo && exec cat")
	h.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	in, err := h.holder.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make a host: %w", err)
	}
	out, err := h.holder.StdoutPipe()
	if err == nil {
		err = h.holder.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a host: %w", err)
	}
	h.life = in
	s.hosts = append(s.hosts, h)
	if _, err := out.Read(make([]byte, 1)); err != nil {
		return nil, fmt.Errorf("cannot make a host: its namespaces: %w", err)
	}
	if err := s.connect(h, number); err != nil {
		return nil, fmt.Errorf("cannot plug in host %s: %w", h.Address, err)
	}
	return h, nil
}

func (s *Switch) connect(h *Host, number byte) error {
	ns, err := netns.GetFromPid(h.holder.Process.Pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: h.cable, MasterIndex: s.bridge.Index, Flags: net.FlagUp}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer inside.Close()
	for _, name := range []string{"lo", "eth0"} {
		l, err := inside.LinkByName(name)
		if err != nil {
			return err
		}
		if name == "eth0" {
			if err := inside.AddrAdd(l, s.net(number)); err != nil {
				return err
			}
		}
		if err := inside.LinkSetUp(l); err != nil {
			return err
		}
	}
	return inside.RouteAdd(&netlink.Route{Gw: s.net(254).IP})
}

// Command is a program on the host, not started; its process is the program's
// own.
func (h *Host) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(h.holder.Process.Pid), "--net", "--mount", "--", program}, args...)...)
}

// Unplug pulls the host's cable.
func (h *Host) Unplug() error { return h.set(netlink.LinkSetDown) }

// Plug puts it back.
func (h *Host) Plug() error { return h.set(netlink.LinkSetUp) }

func (h *Host) set(to func(netlink.Link) error) error {
	l, err := netlink.LinkByName(h.cable)
	if err == nil {
		err = to(l)
	}
	if err != nil {
		return fmt.Errorf("cannot change the cable of host %s: %w", h.Address, err)
	}
	return nil
}
