// SPDX-License-Identifier: Apache-2.0

// Command puller is the file puller of the figure in the Pods concept: it
// fetches a page from SOURCE (a URL) every ROUND and puts it where a web server
// in the same Pod finds it. Without SOURCE it writes the page itself, with the
// number of the round.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	every, err := time.ParseDuration(os.Getenv("ROUND"))
	if err != nil {
		every = 2 * time.Second
	}
	for round := 1; ; round++ {
		page, err := pull(ctx, os.Getenv("SOURCE"), round)
		if err == nil {
			err = publish(os.Args[1], page)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "puller:", err)
		} else {
			fmt.Println("round", round)
		}
		next := time.NewTimer(every)
		select {
		case <-next.C:
		case <-ctx.Done():
			fmt.Println("puller: ending on TERM")
			return
		}
	}
}

func pull(ctx context.Context, source string, round int) ([]byte, error) {
	if source == "" {
		host, _ := os.Hostname()
		return fmt.Appendf(nil, "Hello from the pod %s, round %d\n", host, round), nil
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return nil, err
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	return io.ReadAll(r.Body)
}

// publish replaces the page in one step, so that no reader sees half of it.
func publish(path string, page []byte) error {
	tmp := filepath.Join(filepath.Dir(path), ".next")
	if err := os.WriteFile(tmp, page, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
