// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	ispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/peapod/peapod/test/registry"
)

// hosts are the registries that critest's images are named by. They are all
// the one on loopback.
var hosts = []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io"}

// pushImages makes the images that critest names, from this machine's busybox:
// its own Dockerfiles do the same with another build of it.
func pushImages(r *registry.Registry, programs string) error {
	base, err := busybox()
	if err != nil {
		return err
	}
	server, err := os.ReadFile(filepath.Join(programs, "nginx"))
	if err != nil {
		return err
	}
	who, err := os.ReadFile(filepath.Join(programs, "nnp"))
	if err != nil {
		return err
	}
	web := registry.Layer(dir("var"), dir("var/run"), program("usr/sbin/nginx", server))
	nnp := program("usr/sbin/nnp", who)
	nnp.Mode |= 0o4000
	push := func(name, tag string, c ispecs.ImageConfig, layers ...[]byte) {
		if c.Entrypoint == nil && c.Cmd == nil {
			c.Cmd = []string{"sh"}
		}
		c.Env = append(c.Env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
		r.Push(name, tag, registry.Image{Layers: append([][]byte{base}, layers...), Config: c, Compression: "gzip"})
	}
	// with is busybox with one more file: an image that differs from the others.
	with := func(file string) []byte { return registry.Layer(registry.File(file, "")) }
	plain := ispecs.ImageConfig{}
	push("e2e-test-images/busybox", "1.29-2", plain)
	push("e2e-test-images/nginx", "1.14-2", ispecs.ImageConfig{Cmd: []string{"nginx"}, Env: []string{"PORT=80"}}, web)
	push("e2e-test-images/httpd", "2.4.39-4", ispecs.ImageConfig{Cmd: []string{"nginx"}, Env: []string{"PORT=80"}}, web)
	push("e2e-test-images/nonewprivs", "1.3", ispecs.ImageConfig{Cmd: []string{"nnp"}}, registry.Layer(nnp))
	push("pause", "3.9", ispecs.ImageConfig{Cmd: []string{"sleep", "100000"}}, with("pause"))
	const own = "k8s-staging-cri-tools/"
	push(own+"hostnet-nginx-amd64", "latest", ispecs.ImageConfig{Cmd: []string{"nginx"}, Env: []string{"PORT=12003"}}, web)
	for image, user := range map[string]string{"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004"} {
		push(own+"test-image-user-"+image, "latest", ispecs.ImageConfig{User: user})
	}
	push(own+"test-image-predefined-group", "latest", ispecs.ImageConfig{User: "1000"}, registry.Layer(
		registry.File("etc/passwd", passwd+"default-user:x:1000:1000::/home/default-user:/bin/sh\n"),
		registry.File("etc/group", group+"default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")))
	for _, name := range []string{"test-image-1", "test-image-2", "test-image-3", "test-image-latest"} {
		push(own+name, "latest", plain, with(name))
	}
	for _, tag := range []string{"1", "2", "3"} {
		push(own+"test-image-tags", tag, plain, with("same-image"))
	}
	for _, tag := range []string{"test", "all"} {
		push(own+"test-image-tag", tag, plain, with(tag))
	}
	return nil
}

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n"
	group  = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n"
)

// busybox is the layer of a small system, with a link for every applet.
func busybox() ([]byte, error) {
	const path = "/bin/busybox"
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot list the applets of %s: %w", path, err)
	}
	entries := []registry.Entry{dir("bin"), dir("etc"), dir("root"), dir("usr"), dir("usr/sbin"), program("bin/busybox", b)}
	entries = append(entries, registry.Entry{Header: tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}},
		registry.File("etc/passwd", passwd), registry.File("etc/group", group),
		// Not every busybox has these.
		program("usr/sbin/ipcs", []byte("#!/bin/sh\nexec cat /proc/sysvipc/shm\n")),
		program("usr/sbin/pgrep", []byte("#!/bin/sh\nexec pidof \"$1\"\n")))
	for _, a := range strings.Fields(string(applets)) {
		// Hard links, as the image of that name has: one of them can be masked.
		if a != "busybox" && a != "ipcs" && a != "pgrep" {
			entries = append(entries, registry.Entry{Header: tar.Header{Name: "bin/" + a, Typeflag: tar.TypeLink, Linkname: "bin/busybox", Mode: 0o755}})
		}
	}
	return registry.Layer(entries...), nil
}

func dir(name string) registry.Entry {
	return registry.Entry{Header: tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755}}
}

func program(name string, b []byte) registry.Entry {
	e := registry.File(name, string(b))
	e.Mode = 0o755
	return e
}

// mirror makes the node ask the registry on loopback for all of them.
func mirror(dataDir, url string) error {
	for _, h := range hosts {
		d := filepath.Join(dataDir, "registries", h)
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
		toml := fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", url, url)
		if err := os.WriteFile(filepath.Join(d, "hosts.toml"), []byte(toml), 0o600); err != nil {
			return err
		}
	}
	return nil
}
