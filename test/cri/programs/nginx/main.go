// SPDX-License-Identifier: Apache-2.0

// Command nginx is what critest looks at of the web server of that name, and
// of httpd: the process title, the pid file, a line in the log, and a page for
// every request. The port is the variable PORT.
package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// title is that of nginx once it serves.
const title = "nginx: master process nginx -g daemon off;"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "nginx:", err)
		os.Exit(1)
	}
}

func run() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if !strings.HasPrefix(os.Args[0], "nginx: ") {
		return syscall.Exec(self, []string{title}, os.Environ())
	}
	if err := os.WriteFile("/var/run/nginx.pid", fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
		return err
	}
	fmt.Println("ready, as nginx and httpd say")
	s := http.Server{Addr: ":" + os.Getenv("PORT"), ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "Welcome to nginx!") })}
	return s.ListenAndServe()
}
