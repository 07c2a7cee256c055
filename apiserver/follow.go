// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"context"
	"os"
	"time"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/filesystem"
)

// followFile gives each new content of a flag's file to take, while the server
// serves. What it does not take is logged, and not tried again: the one before
// stays until the file is mended.
func (s *Server) followFile(c *genericapiserver.Config, flag, file string, known []byte, take func(context.Context, []byte) error) error {
	return c.AddPostStartHook("start-"+flag+"-reload", func(h genericapiserver.PostStartHookContext) error {
		s.background.Go(func() {
			look := func() {
				content, err := os.ReadFile(file)
				if err == nil && !bytes.Equal(content, known) {
					known = content
					err = take(h, content)
				}
				if err != nil {
					s.config.Log.Error("a changed file does not count", "op", "reload", "file", file, "err", err)
				}
			}
			// The kernel says when it changes; a minute is upstream's for file systems that do not.
			filesystem.WatchUntil(h, time.Minute, file, look, func(err error) {
				s.config.Log.Warn("a file is looked at once a minute only", "op", "reload", "file", file, "err", err)
			})
		})
		return nil
	})
}
