// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The addresses of endpoints are 10.128.0.0 and on, by number; no other has two
// such bytes at its beginning.
const firstEndpoint = 10<<24 | 128<<16

// rules hears what the kernel commits to nftables, from whomever, and when the
// address of an endpoint was in that first.
type rules struct {
	socket int
	mu     sync.Mutex // guards the fields below
	seen   map[uint32]time.Time
	wanted map[uint32]chan struct{}
	all    chan struct{}
	awaits int // how many make all
	lost   error
	done   chan struct{}
}

const nftablesGroup = 7 // NFNLGRP_NFTABLES

// hear begins to hear; all closes when so many endpoints have been seen.
func hear(awaits int) (*rules, error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("cannot hear what changes in nftables: %w", err)
	}
	r := &rules{socket: s, seen: map[uint32]time.Time{}, wanted: map[uint32]chan struct{}{}, all: make(chan struct{}), awaits: awaits, done: make(chan struct{})}
	// One transaction can be all the rules of all Services.
	err = unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<30)
	if err == nil {
		err = unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	}
	if err == nil {
		err = unix.Bind(s, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (nftablesGroup - 1)})
	}
	if err != nil {
		unix.Close(s)
		return nil, fmt.Errorf("cannot hear what changes in nftables: %w", err)
	}
	go r.run()
	return r, nil
}

func (r *rules) run() {
	buffer := make([]byte, 1<<20)
	for {
		n, _, err := unix.Recvfrom(r.socket, buffer, 0)
		now := time.Now()
		select {
		case <-r.done:
			unix.Close(r.socket)
			return
		default:
		}
		switch {
		case err == nil:
			r.read(buffer[:n], now)
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		default:
			r.mu.Lock()
			r.lost = err
			r.mu.Unlock()
		}
	}
}

// read looks for addresses of endpoints, wherever they stand.
func (r *rules) read(message []byte, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := 0; k+4 <= len(message); k++ {
		if message[k] != 10 {
			continue
		}
		n := binary.BigEndian.Uint32(message[k:]) - firstEndpoint
		if n >= 1<<20 {
			continue
		}
		if _, known := r.seen[n]; known {
			continue
		}
		r.seen[n] = now
		if c := r.wanted[n]; c != nil {
			close(c)
		}
		if len(r.seen) == r.awaits {
			close(r.all)
		}
	}
}

// expect tells when an endpoint will have been seen.
func (r *rules) expect(n uint32) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := make(chan struct{})
	r.wanted[n] = c
	return c
}

func (r *rules) at(n uint32) (time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[n], r.lost
}

func (r *rules) close() { close(r.done) }
