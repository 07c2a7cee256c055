// SPDX-License-Identifier: Apache-2.0

//go:build pin

package main

// What scripts/conformance builds: it keeps the tests' modules in go.mod.
import (
	_ "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/sample-apiserver/pkg/cmd/server"
)
