// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/test/machine"
)

// faults are what may happen. In a steady tide the program is neither ended
// nor brought near it, so that its memory can be compared over hours.
var faults = []struct {
	name   string
	weight int
	wild   bool
	do     func(*storm) error
}{
	{"kills of peapod", 4, true, (*storm).killPeapod},
	{"restarts of peapod", 2, true, (*storm).restartPeapod},
	{"kills of peapod and keeper", 1, true, (*storm).killBoth},
	{"full disks", 1, true, (*storm).fullDisk},
	{"kills of the keeper", 1, false, (*storm).killKeeper},
	{"kills of a container", 4, false, (*storm).killContainer},
	{"pauses of peapod", 1, false, (*storm).pausePeapod},
	{"frozen wires", 2, false, (*storm).freezeWire},
	{"cut wires", 2, false, (*storm).cutWire},
}

// storm is the faults of one tide.
type storm struct {
	*soak
	context.Context
	r        *rand.Rand
	wild     bool
	lossless bool // no output of a container can be lost
}

// rage makes faults until stop; the node is up when it returns.
func (s *storm) rage(stop <-chan struct{}) error {
	const most = 8 * time.Second
	for {
		clock := time.NewTimer(time.Duration(s.r.Int64N(int64(most))))
		select {
		case <-stop:
			clock.Stop()
			return s.raise(nil)
		case <-s.Done():
			clock.Stop()
			return nil
		case <-s.node.ended:
			clock.Stop()
			s.story.breach("peapod has ended by itself: %v\n%s", s.node.process.ProcessState, s.node.tail())
			if err := s.raise(s.weather.trouble()); err != nil {
				return err
			}
			continue
		case <-clock.C:
		}
		if err := s.draw(); err != nil {
			return err
		}
	}
}

// draw makes one fault.
func (s *storm) draw() error {
	sum := 0
	for _, f := range faults {
		if s.wild || !f.wild {
			sum += f.weight
		}
	}
	n := s.r.IntN(sum)
	for _, f := range faults {
		if !s.wild && f.wild {
			continue
		}
		if n -= f.weight; n < 0 {
			s.story.fault(f.name, "begins")
			return f.do(s)
		}
	}
	return nil
}

// raise starts the node if it is down, and then ends the trouble.
func (s *storm) raise(over func()) error {
	if over != nil {
		defer over()
	}
	if !s.node.fallen() {
		return nil
	}
	if err := s.node.start(); err != nil {
		s.story.breach("after a fault: %v", err)
		return err
	}
	return nil
}

func (s *storm) wait(most time.Duration) {
	clock := time.NewTimer(time.Duration(s.r.Int64N(int64(most) + 1)))
	defer clock.Stop()
	select {
	case <-clock.C:
	case <-s.Done():
	}
}

func (s *storm) killPeapod() error {
	over := s.weather.trouble()
	s.node.stop(syscall.SIGKILL)
	s.wait(time.Duration(s.r.Int64N(int64(3 * time.Second))))
	return s.raise(over)
}

func (s *storm) restartPeapod() error {
	over := s.weather.trouble()
	s.node.stop(syscall.SIGTERM)
	if code := s.node.process.ProcessState.ExitCode(); code != 0 {
		s.story.breach("peapod was asked to end and did with %v\n%s", s.node.process.ProcessState, s.node.tail())
	}
	return s.raise(over)
}

func (s *storm) killBoth() error {
	over := s.weather.trouble()
	s.node.stop(syscall.SIGKILL)
	if err := s.signalKeeper(); err != nil {
		return err
	}
	s.wait(2 * time.Second)
	return s.raise(over)
}

func (s *storm) killKeeper() error {
	defer s.weather.trouble()()
	err := s.signalKeeper()
	s.wait(time.Second)
	return err
}

func (s *storm) signalKeeper() error {
	s.lossless = false
	pid, err := machine.Keeper(s.node.dir)
	if err != nil {
		return fmt.Errorf("cannot find the keeper: %w", err)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL) // a start may be under way, in which it is dead already
	return nil
}

// killContainer kills a process of any container that is not a resident's.
func (s *storm) killContainer() error {
	defer s.weather.trouble()()
	var targets []machine.Member
	for _, m := range machine.Members(s.node.dir) {
		if !s.isSpared(types.UID(m.UID)) {
			targets = append(targets, m)
		}
	}
	if len(targets) == 0 {
		return nil
	}
	m := targets[s.r.IntN(len(targets))]
	s.truth.kill(types.UID(m.UID))
	s.story.note("killing %d of container %s of pod %s", m.Pid, m.Container, m.UID)
	_ = syscall.Kill(m.Pid, syscall.SIGKILL) // it may have ended
	return nil
}

// pausePeapod is a machine that stands still, as far as the program can tell.
func (s *storm) pausePeapod() error {
	defer s.weather.trouble()()
	if err := s.node.process.Process.Signal(syscall.SIGSTOP); err != nil {
		return nil // it has ended: the next turn sees it
	}
	s.wait(4 * time.Second)
	_ = s.node.process.Process.Signal(syscall.SIGCONT)
	return nil
}

func (s *storm) freezeWire() error {
	defer s.weather.trouble()()
	s.proxy.freeze()
	defer s.proxy.thaw()
	s.wait(8 * time.Second)
	return nil
}

func (s *storm) cutWire() error {
	defer s.weather.trouble()()
	s.proxy.cut()
	return nil
}

// fullDisk: the program may give up, but not forget.
func (s *storm) fullDisk() error {
	over := s.weather.trouble()
	s.lossless = false
	if err := s.disk.fill(); err != nil {
		return err
	}
	s.wait(8 * time.Second)
	if err := s.disk.empty(); err != nil {
		return err
	}
	if s.node.fallen() {
		s.story.note("peapod has ended on a full disk: %v\n%s", s.node.process.ProcessState, s.node.tail())
	}
	return s.raise(over)
}
