// SPDX-License-Identifier: Apache-2.0

// Command witness runs inside the Pods of the tests and says what happens to
// it. Its moments are milliseconds of the machine's monotonic clock, which a
// test outside reads too.
//
//	witness live FILE [STAY]      beat in FILE, note signals; end STAY ms after the first
//	witness serve PORT            answer TCP and UDP with the caller's address
//	witness ask tcp|udp ADDRESS   print the answer
//	witness web PORT STAY DIR     answer TCP with the host name, note signals in DIR/<host name>; end STAY ms after the first
//	witness call ADDRESS FILE     connect 500 times a second, note who answered, or "failed", and when the call began
//	witness semaphore make|has|remove KEY
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "witness:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("too few arguments")
	}
	switch args[0] {
	case "live":
		return live(args[1], args[2:])
	case "serve":
		return serve(":" + args[1])
	case "ask":
		return ask(args[1], args[2])
	case "web":
		if len(args) < 4 {
			return fmt.Errorf("web PORT STAY DIR")
		}
		return web(":"+args[1], args[2], args[3])
	case "call":
		return call(args[1], args[2])
	case "semaphore":
		return semaphore(args[1], args[2])
	}
	return fmt.Errorf("%q is unknown", args[0])
}

func now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return t.Nano() / int64(time.Millisecond)
}

// live notes each signal it gets, and that it lives, so that its last beat
// tells when it was killed.
func live(file string, stay []string) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR1)
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	note := func(what string) {
		fmt.Fprintln(f, what, now())
		if what != "beat" {
			fmt.Println(what, now())
		}
	}
	note("start")
	var end <-chan time.Time
	beat := time.NewTicker(20 * time.Millisecond)
	for {
		select {
		case <-beat.C:
			note("beat")
		case s := <-signals:
			note(unix.SignalName(s.(syscall.Signal)))
			if len(stay) > 0 && end == nil {
				ms, err := strconv.Atoi(stay[0])
				if err != nil {
					return err
				}
				end = time.After(time.Duration(ms) * time.Millisecond)
			}
		case <-end:
			note("end")
			return nil
		}
	}
}

func serve(address string) error {
	u, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte(host(from)), from) // the asker asks again
		}
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Fprint(c, host(c.RemoteAddr()))
		c.Close()
	}
}

// web is a server that goes on serving for a while when it is asked to end.
func web(address, stay, dir string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, name)
			c.Close()
		}
	}()
	return live(dir+"/"+name, []string{stay})
}

// call notes each connection by the moment before it was made.
func call(address, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	fmt.Fprintln(f, "start", now())
	for range time.Tick(2 * time.Millisecond) { // a pace that leaves the machine to others
		begun := now()
		who, err := answer(address)
		if err != nil {
			fmt.Fprintln(f, "failed", begun, err)
			continue
		}
		fmt.Fprintln(f, who, begun)
	}
	return nil
}

func answer(address string) (string, error) {
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	if err == nil && len(b) == 0 {
		err = io.ErrUnexpectedEOF
	}
	return string(b), err
}

func host(a net.Addr) string {
	h, _, _ := net.SplitHostPort(a.String())
	if ip := net.ParseIP(h); ip != nil {
		return ip.String()
	}
	return h
}

func ask(network, address string) error {
	c, err := net.DialTimeout(network, address, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if network == "udp" {
		if _, err := c.Write([]byte("who")); err != nil {
			return err
		}
		b := make([]byte, 64)
		n, err := c.Read(b)
		if err == nil {
			fmt.Println(string(b[:n]))
		}
		return err
	}
	b, err := io.ReadAll(c)
	if err == nil {
		fmt.Println(string(b))
	}
	return err
}

// semaphore makes, finds or removes a System V semaphore set.
func semaphore(what, key string) error {
	k, err := strconv.Atoi(key)
	if err != nil {
		return err
	}
	flags := 0
	if what == "make" {
		flags = unix.IPC_CREAT | 0o666
	}
	id, _, errno := unix.Syscall(unix.SYS_SEMGET, uintptr(k), 1, uintptr(flags))
	if errno != 0 {
		return fmt.Errorf("semget: %w", errno)
	}
	if what == "remove" {
		if _, _, errno := unix.Syscall6(unix.SYS_SEMCTL, id, 0, unix.IPC_RMID, 0, 0, 0); errno != 0 {
			return fmt.Errorf("semctl: %w", errno)
		}
	}
	return nil
}
