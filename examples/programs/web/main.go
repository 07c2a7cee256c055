// SPDX-License-Identifier: Apache-2.0

// Command web serves the files of a folder, and ends on TERM when the requests
// under way are answered.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	s := &http.Server{Addr: ":8080", Handler: http.FileServer(pages{http.Dir(os.Args[1])}), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		fmt.Println("web: ending on TERM")
		if err := s.Shutdown(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "web:", err)
		}
	}()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
	<-done
}

// pages are the files of a folder. A folder without an index.html is not found,
// so that a readiness probe waits for the first page.
type pages struct{ http.FileSystem }

func (p pages) Open(name string) (http.File, error) {
	f, err := p.FileSystem.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		var index http.File
		if index, err = p.FileSystem.Open(path.Join(name, "index.html")); err == nil {
			index.Close()
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
