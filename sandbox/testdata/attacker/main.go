// SPDX-License-Identifier: Apache-2.0

// Command attacker is what a container of the tests does to others.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	var err error
	switch os.Args[1] {
	case "whoami":
		fmt.Println("effective", os.Geteuid())
	case "keyring":
		var id int
		id, err = unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
		fmt.Println("keyring", id)
	case "eat":
		eat()
	case "grab":
		err = grab(os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// eat takes more memory than the container may have, and less than would hurt
// the machine.
func eat() {
	for range 256 {
		b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
		if err != nil {
			fmt.Println("refused", err, len(b))
			return
		}
	}
}

// grab stops those who come into the PID namespace before they have become
// /bin/true, and writes down in /report what it can do to a few of them. Secret
// is a file of the machine.
func grab(secret string) error {
	runtime.LockOSThread() // a tracer is a thread
	var report bytes.Buffer
	if err := os.WriteFile("/ready", []byte("\n"), 0); err != nil {
		return err
	}
	for next, caught := os.Getpid()+1, 0; caught < 3; {
		// The next number may be one of our own threads.
		for n := next; n < next+64; n++ {
			fd, err := unix.PidfdOpen(n, 0)
			if err != nil {
				continue
			}
			next = n + 1
			if unix.PidfdSendSignal(fd, unix.SIGSTOP, nil, 0) == nil && early(n) {
				caught++
				attack(n, fd, secret, &report)
			}
			if err := errors.Join(unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0), unix.Close(fd)); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			break
		}
	}
	if err := os.WriteFile("/report.new", report.Bytes(), 0o644); err != nil {
		return err
	}
	if err := os.Rename("/report.new", "/report"); err != nil {
		return err
	}
	for {
		unix.Pause()
	}
}

// early awaits that a process has stopped, and tells whether it has not become
// its program.
func early(pid int) bool {
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false
		}
		name, rest, _ := strings.Cut(string(b), ") ")
		switch rest[0] {
		case 'T':
			return !strings.HasSuffix(name, "(true")
		case 'Z', 'X':
			return false
		}
	}
}

func attack(pid, pidfd int, secret string, report *bytes.Buffer) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	say := func(err error, format string, args ...any) {
		if err == nil {
			fmt.Fprintf(report, format+"\n", args...)
		}
	}
	try := func(path string, flags int) error {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	say(nil, "caught")
	say(try(dir+"exe", unix.O_RDONLY), "could read exe")
	say(try(dir+"exe", unix.O_WRONLY), "could write exe")
	say(os.Chmod(dir+"exe", 0o777), "could chmod exe")
	say(try(dir+"mem", unix.O_RDWR), "could write mem")
	b, err := os.ReadFile(dir + "environ")
	if err == nil && len(b) > 0 {
		say(nil, "could read environ")
	}
	ways := []string{"root", "cwd"}
	for k := range 128 {
		fd, err := unix.Open(fmt.Sprintf("%sfd/%d", dir, k), unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		unix.Close(fd)
		say(nil, "could open fd")
		ways = append(ways, fmt.Sprintf("fd/%d", k))
	}
	for _, w := range ways {
		for _, up := range []string{"/", strings.Repeat("/..", 64)} {
			to, _ := os.Readlink(dir + w)
			say(try(dir+w+up+secret, unix.O_PATH), "could reach the machine by %s %s", w, to)
		}
		// A cgroup's limits, by a folder that is open for being born into it.
		files, _ := filepath.Glob(dir + w + "/cgroup.*")
		for _, f := range files {
			if w != "root" && w != "cwd" {
				say(try(f, unix.O_WRONLY), "could write %s", filepath.Base(f))
			}
		}
	}
	taken, err := unix.PidfdGetfd(pidfd, 0, 0)
	if err == nil {
		unix.Close(taken)
	}
	say(err, "could take fd")
	err = unix.PtraceSeize(pid)
	say(err, "could attach")
	if err == nil {
		_ = unix.PtraceInterrupt(pid)
		_, _ = unix.Wait4(pid, nil, unix.WALL, nil)
		_ = unix.PtraceDetach(pid)
	}
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "CapPrm:") {
			report.WriteString(line)
		}
	}
}
