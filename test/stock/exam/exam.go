// SPDX-License-Identifier: Apache-2.0

// Package exam is how the programs beside it put questions to Kubernetes: a
// file of them comes in, a file of answers goes out.
package exam

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// Main reads the questions of a program's first argument and writes to the file
// of its second what answer makes of them; of an answer that fails, nothing.
func Main[Q any](answer func(list []Q, out io.Writer) error) {
	name := filepath.Base(os.Args[0])
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage:", name, "QUESTIONS-FILE ANSWERS-FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], answer); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

func run[Q any](questions, answers string, answer func([]Q, io.Writer) error) error {
	b, err := os.ReadFile(questions)
	if err != nil {
		return err
	}
	var list []Q
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("cannot read %s: %w", questions, err)
	}
	var out bytes.Buffer
	if err := answer(list, &out); err != nil {
		return err
	}
	return os.WriteFile(answers, out.Bytes(), 0o644)
}

// Each writes the answer to each question as a line of JSON.
func Each[Q, A any](list []Q, out io.Writer, ask func(Q) (A, error)) error {
	lines := json.NewEncoder(out)
	for i, q := range list {
		a, err := ask(q)
		if err == nil {
			err = lines.Encode(a)
		}
		if err != nil {
			return fmt.Errorf("cannot answer question %d: %w", i, err)
		}
	}
	return nil
}

// Controller is one of kube-controller-manager's.
type Controller interface {
	Run(ctx context.Context, workers int)
}

// quiet is how long nothing is written by who has come to rest.
const quiet = time.Second

// Settle runs the controller that start makes until it rests.
func Settle[C Controller](client *fake.Clientset, start func(context.Context, informers.SharedInformerFactory) (C, error)) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var last atomic.Int64
	client.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if v := a.GetVerb(); v != "get" && v != "list" && v != "watch" {
			last.Store(time.Now().UnixNano())
		}
		return false, nil, nil
	})
	f := informers.NewSharedInformerFactory(client, 0)
	c, err := start(ctx, f)
	if err != nil {
		return err
	}
	f.Start(ctx.Done())
	f.WaitForCacheSync(ctx.Done())
	last.Store(time.Now().UnixNano())
	go c.Run(ctx, 1)
	for time.Since(time.Unix(0, last.Load())) < quiet {
		time.Sleep(quiet / 10)
	}
	return nil
}
