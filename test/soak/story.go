// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// mostBreaches end a run: what follows is no news.
const mostBreaches = 20

// story is what happened: all of it in a file, breaches and progress on the
// error stream too.
type story struct {
	begun time.Time

	mu       sync.Mutex // guards the fields below
	file     *os.File
	breaches []string
	faults   map[string]int
}

func newStory(path string) (*story, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("cannot write the story: %w", err)
	}
	return &story{begun: time.Now(), file: f, faults: map[string]int{}}, nil
}

func (s *story) close() { s.file.Close() }

// note writes a line into the file.
func (s *story) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(fmt.Sprintf(format, args...))
}

func (s *story) write(line string) {
	fmt.Fprintf(s.file, "%s %s\n", time.Now().Format("15:04:05.000"), line)
}

// say is a note that the user sees.
func (s *story) say(format string, args ...any) {
	s.note(format, args...)
	fmt.Fprintf(os.Stderr, "soak %s: %s\n", s.age(), fmt.Sprintf(format, args...))
}

func (s *story) age() string {
	d := time.Since(s.begun).Round(time.Second)
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// fault is noted and counted.
func (s *story) fault(kind, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[kind]++
	s.write("FAULT " + kind + " " + fmt.Sprintf(format, args...))
}

// breach is an invariant that does not hold.
func (s *story) breach(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.mu.Lock()
	s.breaches = append(s.breaches, s.age()+" "+text)
	s.write("BREACH " + text)
	s.mu.Unlock()
	fmt.Fprintf(os.Stderr, "soak %s: BREACH %s\n", s.age(), text)
}

// broken says how many breaches there are.
func (s *story) broken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.breaches)
}

// counts lists the faults.
func (s *story) counts() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, f := range faults {
		if n := s.faults[f.name]; n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, f.name))
		}
	}
	return strings.Join(out, ", ")
}
